"""Children get no secrets, may crash, and can be told apart from whoever has their pid later."""

import ast
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from core import process
from core.errors import UserError
from core.paths import PROJECT

CHILD = "tests.unit.a_child"


def test_no_secret_of_the_parent_reaches_a_child(monkeypatch):
    for name in ("HF_TOKEN", "OAUTH_CLIENT_SECRET", "OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HUGGING_FACE_HUB_TOKEN",
                 "NVIDIA_API_KEY", "NVIDIA_NGC_TOKEN", "CUDA_SECRET", "NCCL_password", "HIP_Key"):  # fmt: skip
        monkeypatch.setenv(name, "hf_CANARYcanaryCANARYcanary")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = process.call_child(CHILD, {"do": "environment"}, step="test")
    assert "CANARY" not in json.dumps(environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1" and environment["HF_HUB_OFFLINE"] == environment["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_a_child_has_what_is_on_the_list_and_nothing_else(monkeypatch):
    for number in range(50):
        monkeypatch.setenv(f"SOMETHING_{number}", "x")
    set_here = {*process.ALWAYS_SET, "PYTHONPATH", "USE_HUB_KERNELS", "LC_CTYPE"}  # the last by Python itself
    environment = process.call_child(CHILD, {"do": "environment"}, step="test")
    unlisted = {name for name in environment if name not in process.ALLOWED_VARIABLES | set_here}
    assert {name for name in unlisted if not name.startswith(process.ALLOWED_PREFIXES)} == set()
    assert process.ALLOWED_VARIABLES.isdisjoint({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OAUTH_CLIENT_SECRET"})


def test_without_a_gpu_a_child_looks_for_no_kernels_on_the_hub(monkeypatch, tmp_path):
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.child_environment()["USE_HUB_KERNELS"] == "0"
    (tmp_path / "nvidia-smi").touch(0o755)
    assert "USE_HUB_KERNELS" not in process.child_environment()
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert process.child_environment()["USE_HUB_KERNELS"] == "0"


def test_a_result_and_the_progress_before_it_come_back():
    seen = []
    assert process.call_child(CHILD, {"do": "count"}, step="test", on_event=seen.append) == {"counted": 3}
    assert [message["done"] for message in seen] == [0, 1, 2]


def test_what_a_child_prints_does_not_disturb_its_messages(tmp_path):
    log = tmp_path / "log"
    assert process.call_child(CHILD, {"do": "print"}, step="test", log=log) == "quiet"
    assert "from python" in log.read_text() and "from below" in log.read_text()


def test_a_user_error_crosses_the_border_whole():
    with pytest.raises(UserError) as caught:
        process.call_child(CHILD, {"do": "refuse"}, step="test")
    assert caught.value.as_dict() == {"problem": "p", "where": "w", "remedy": "r", "code": "C"}


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_becomes_an_error_that_names_the_signal(name):
    with pytest.raises(UserError, match=name) as caught:
        process.call_child(CHILD, {"do": "crash", "signal": getattr(signal, name)}, step="test")
    assert caught.value.code == "CRASH"


def test_a_child_that_hangs_is_ended_with_a_sentence():
    with pytest.raises(UserError, match=r"Trying gave no sign for 1\.5 s") as caught:
        process.call_child(CHILD, {"do": "hang"}, step="Trying", timeout_s=1.5)
    assert caught.value.code == "TIMEOUT"


def test_a_child_that_keeps_talking_may_take_longer_than_the_limit():
    seen = []
    assert process.call_child(CHILD, {"do": "talk"}, step="test", timeout_s=4.0, on_event=seen.append) == "said"
    assert seen[-1]["done"] == 10 and seen[-1]["s"] > 4.0


def test_patience_grows_with_the_work():
    small, large = process.patience_s(5 * 10**6, 512), process.patience_s(14 * 10**9, 512)
    assert 600 <= small < 602 and 1800 < large < 3600


def test_every_child_that_works_on_models_has_a_limit():
    files = (PROJECT / "core" / "export").rglob("*.py")
    calls = [
        (file.name, {keyword.arg for keyword in node.keywords})
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("call_child", "run_jobs")
    ]
    assert len(calls) > 9 and [name for name, keywords in calls if "timeout_s" not in keywords] == []


def test_a_reused_pid_is_not_mistaken_for_the_process_that_had_it():
    known = process.identity(os.getpid())
    assert known and process.is_alive(known)
    assert not process.is_alive(dataclasses.replace(known, started=known.started - 10))
    assert not process.is_alive(dataclasses.replace(known, boot_id="another boot"))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere psutil's figure is all there is")
def test_a_clock_that_is_set_makes_no_stranger_of_a_process(monkeypatch):
    """The time of the machine's start, which psutil counts from, moves with the clock: after a suspend, or by NTP's first step."""
    known = process.identity(os.getpid())
    before, began = psutil.Process().create_time(), psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: began + 3600)
    assert psutil.Process().create_time() == pytest.approx(before + 3600, abs=1), "psutil says what it says after a change of the clock"
    assert known and process.is_alive(known)


def test_killing_a_tree_takes_grandchildren_that_ignore_sigterm():
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)']);"
        "print('up', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout and parent.stdout.readline() == b"up\n"
    while not (children := psutil.Process(parent.pid).children()):
        time.sleep(0.01)
    known = process.identity(parent.pid)
    assert known
    process.kill_tree(known, grace_s=0.2)
    parent.wait()
    parent.stdout.close()
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)

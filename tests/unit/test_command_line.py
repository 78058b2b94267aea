"""The command line: what it prints, its JSON, its exit codes, and errors in three parts without a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core import events, paths
from core.cli.app import app
from core.process import child_environment
from core.running import runs
from core.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("workspace")
BROKEN, IDENTITY = str(paths.EXAMPLES / "broken.json"), str(paths.EXAMPLES / "identity.json")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> dict:
    return json.loads(result.stdout.splitlines()[-1])


def shell(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line as a person calls it, in a process of its own."""
    env = child_environment() | {"TRANSMUTE_HOME": os.environ["TRANSMUTE_HOME"]} | environment
    return subprocess.run([sys.executable, "-m", "core", *arguments], cwd=paths.PROJECT, env=env, capture_output=True, text=True)


def test_a_secret_that_a_followed_log_got_in_two_pieces_is_not_printed(monkeypatch: pytest.MonkeyPatch):
    run_dir = paths.runs_dir() / "r-1"
    run_dir.mkdir(parents=True)
    events.append(run_dir, "created", run_id="r-1", name="m", method="lora", steps=["train"])
    events.append(run_dir, "started", pid=1)
    log, token = run_dir / runs.LOG, "hf_" + "abcdefghij" * 3
    log.write_text(f"said {token[:12]}", encoding="utf-8")

    def more(_: float) -> None:
        log.write_text(f"said {token} twice\n", encoding="utf-8")
        events.append(run_dir, "finished", state="done")

    monkeypatch.setattr(runs, "is_going_on", lambda _: True)
    monkeypatch.setattr(time, "sleep", more)
    result = call("logs", "r-1", "-f")
    assert result.exit_code == 0 and result.stdout == "said [secret] twice\n"


def test_validate_accounts_for_every_row_and_exits_with_1_for_errors():
    result = call("validate", BROKEN, "--json")
    report = said(result)
    assert result.exit_code == 1
    assert report["num_rows"] == report["num_valid"] + report["num_rejected"]
    assert {"code", "severity", "row", "turn", "line", "byte", "problem", "remedy"} <= set(report["issues"][0])
    rejected = {issue["row"] for issue in report["issues"] if issue["severity"] == "error" and issue["row"] is not None}
    assert len(rejected) == report["num_rejected"]
    counted = {code: sum(issue["code"] == code for issue in report["issues"]) for code in report["counts"]}
    assert counted == report["counts"]


def test_an_error_behind_more_notes_than_a_report_keeps_still_counts_and_every_finding_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("core.data.validate.MAX_KEPT_ISSUES", 1000)  # 100,000 would take a minute
    many = 1010
    noted = '{"id": %d, "conversations": [{"from": "human", "value": "q%d"}, {"from": "gpt", "value": "a"}]}\n'  # an id that is no text
    file, exported = tmp_path / "talks.jsonl", tmp_path / "findings.jsonl"
    file.write_text("".join(noted % (number, number) for number in range(many)) + "7\n", encoding="utf-8")
    result = call("validate", str(file), "--json", "--export", str(exported))
    report = said(result)
    assert result.exit_code == 1 and report["num_rejected"] == 1
    assert len(report["issues"]) == sum(report["counts"].values()) > many
    assert (report["issues"][-1]["row"], report["issues"][-1]["severity"]) == (many, "error")
    with exported.open(encoding="utf-8") as lines:
        assert sum(1 for _ in lines) == len(report["issues"])


def test_validate_exits_with_0_when_nothing_is_wrong():
    result = call("validate", IDENTITY)
    assert result.exit_code == 0
    assert "300 records: 300 can be trained, 0 cannot." in result.stdout


def test_mask_gives_ids_labels_tokens_and_text():
    result = call("mask", IDENTITY, "--row", "3", "--model", "starter", "--json")
    shown = said(result)
    assert result.exit_code == 0
    assert len(shown["input_ids"]) == len(shown["labels"]) == len(shown["tokens"])
    assert all(label in (-100, token) for label, token in zip(shown["labels"], shown["input_ids"], strict=True))
    assert shown["text"].endswith("</s>") and shown["labels"][-1] == shown["input_ids"][-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train"], "Give either a recipe file or --preset NAME."),
        (["train", "--preset", "nothing-like-it"], "nothing-like-it"),
        (["train", "--preset", "demo", "--set", "learning_rat=1"], "learning_rat"),
        (["train", "--preset", "demo", "--set", "lora_r=0"], "lora_r"),
        (["train", "--preset", "demo", "--data", "not-there.json"], "not-there.json"),
        (["show", "261123-000000-abcd"], "261123-000000-abcd"),
        (["show", "../../etc"], "../../etc"),
        (["resume", "261123-000000-abcd"], "261123-000000-abcd"),
        (["chat", "nowhere", "--prompt", "hello"], "nowhere"),
        (["gguf", "starter", "--levels", "q9_9"], "q9_9"),
        (["measure", "starter", "--data", IDENTITY], "gguf"),
        (["mask", IDENTITY, "--row", "300"], "300"),
        (["validate", "not-there.json"], "not-there.json"),
    ],
)
def test_bad_usage_exits_with_2_and_says_what_where_and_how_to_mend_it(arguments: list[str], expected: str):
    result = shell(*arguments)
    assert result.returncode == 2, result.stderr
    assert [line.split()[0] for line in result.stderr.splitlines() if line.startswith(("Problem", "Where", "Remedy"))] == [
        "Problem",
        "Where",
        "Remedy",
    ]
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_verb_or_option_exits_with_2():
    assert shell("fine-tune").returncode == shell("runs", "--colour").returncode == 2


def test_an_error_is_one_json_object_too():
    result = shell("show", "261123-000000-abcd", "--json")
    error = json.loads(result.stdout)["error"]
    assert result.returncode == 2 and {"problem", "where", "remedy"} <= set(error)


def test_what_nobody_foresaw_goes_to_a_file_and_not_to_the_person(tmp_path: Path):
    (paths.home()).mkdir(parents=True)
    paths.runs_dir().write_text("a file where the folder of runs should be", encoding="utf-8")
    result = shell("train", "--preset", "demo", "--detach")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "Traceback" in (paths.home() / "errors.log").read_text(encoding="utf-8")


def test_no_runs_yet_says_how_to_start_one():
    assert "python -m core demo" in call("runs").stdout
    assert said(call("runs", "--json")) == {"runs": []}


def test_publishing_without_a_login_says_how_to_log_in_and_sends_nothing():
    result = shell("publish", "starter", "--repo", "me/model", HF_HUB_OFFLINE="1")
    assert result.returncode == 2 and "hf auth login" in result.stderr


def test_doctor_gives_a_remedy_for_everything_that_is_not_well():
    checks = said(call("doctor", "--json"))["checks"]
    assert {"gguf", "disk"} <= {check["name"].lower().split()[0] for check in checks}
    assert all(check["remedy"] for check in checks if check["state"] != "ok")


@pytest.mark.parametrize(
    ("config", "knobs", "there"),
    [
        ("cpu", {"method": "lora"}, set()),
        ("cpu", {"method": "qlora"}, {"bitsandbytes"}),
        ("cpu", {"method": "fft", "optim": "adamw_8bit"}, {"bitsandbytes"}),
        ("zero2", {"method": "lora"}, {"deepspeed"}),
        ("cpu", {"method": "lora", "report_to": "wandb"}, {"wandb"}),
    ],
)
def test_a_worker_has_only_the_packages_that_its_recipe_uses(tmp_path: Path, config: str, knobs: dict[str, str], there: set[str]):
    paths.write_json(tmp_path / "launch.json", {"accelerate_config": config})
    paths.write_text(tmp_path / "recipe.yaml", Recipe(**knobs).to_yaml())
    program = (
        "import sys; from pathlib import Path; from core.worker import leave_out_unused; leave_out_unused(Path(sys.argv[1]));"
        "from accelerate.utils import is_deepspeed_available, is_bnb_available, is_wandb_available;"
        "from transformers.utils import is_bitsandbytes_available, is_scipy_available;"
        "assert bool(is_bnb_available()) == is_bitsandbytes_available() and is_scipy_available() == bool(is_deepspeed_available());"
        "print(*[name for name, is_there in (('deepspeed', is_deepspeed_available()), ('bitsandbytes', is_bnb_available()),"
        "('wandb', is_wandb_available())) if is_there])"
    )
    child = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=paths.PROJECT, env=child_environment(), capture_output=True, text=True
    )
    assert child.returncode == 0 and set(child.stdout.split()) == there, child.stderr


def test_several_machines_are_told_what_to_type_and_nothing_starts():
    result = shell("train", "--preset", "demo", "--set", "name=a b", "--nodes", "2", "--address", "10.0.0.1", "--detach", "--json")
    kept = "python -m core train --preset demo --set 'name=a b' --nodes 2 --address 10.0.0.1 --port 29500"
    assert result.returncode == 2 and "name" in result.stderr  # a recipe that cannot work is refused here already
    result = shell("train", "--preset", "demo", "--set", "name=a", "--nodes", "2", "--address", "10.0.0.1", "--detach", "--json")
    kept = kept.replace("'name=a b'", "name=a")
    assert json.loads(result.stdout.splitlines()[-1])["commands"] == [f"{kept} --rank 0", f"{kept} --rank 1"]
    assert not paths.runs_dir().exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--rank", "0"),
        ("--nodes", "2", "--rank", "1"),
        ("--nodes", "2", "--rank", "2", "--address", "a"),
        ("--nodes", "0"),
        ("--nodes", "2", "--rank", "0", "--address", "a", "--set", "accelerate_config=fsdp2"),
    ],
)
def test_a_place_among_machines_that_cannot_be_is_refused(options):
    result = shell("train", "--preset", "demo", *options)
    assert result.returncode == 2 and "Remedy" in result.stderr
    assert not paths.runs_dir().exists()

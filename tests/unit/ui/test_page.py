"""The page comes up everywhere: on this machine, on a Space with and without login, without a network, and soon."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from core.paths import PROJECT
from core.process import child_environment

SPACE = {"SYSTEM": "spaces", "SPACE_ID": "alchemists/transmute", "SPACE_HOST": "alchemists-transmute.hf.space"}
LOGIN = {
    "OAUTH_CLIENT_ID": "client",
    "OAUTH_CLIENT_SECRET": "secret",
    "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "https://huggingface.co",
}
BUILD = """
import json, sys, app
blocks = [type(block).__name__ for block in app.demo.blocks.values()]
unmarked = [fn.name for fn in app.demo.fns.values() if fn.fn and not hasattr(fn.fn, "allowed_role") and not fn.fn.__module__.startswith("gradio.")]
heavy = [name for name in ("torch", "transformers", "peft", "trl", "datasets", "llama_cpp") if name in sys.modules]
copy = "DuplicateButton" in blocks
print(json.dumps({"login": "LoginButton" in blocks, "copy": copy, "listeners": len(app.demo.fns), "unmarked": unmarked, "heavy": heavy}))
"""


def run(argv: list[str], extra: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = child_environment({"TRANSMUTE_HOME": str(tmp_path), "GRADIO_ANALYTICS_ENABLED": "False"} | extra)
    return subprocess.run([sys.executable, *argv], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize(("extra", "has_login"), [({}, False), (SPACE, False), (SPACE | LOGIN, True), (LOGIN, False)])
def test_the_page_is_built_here_and_on_a_space(extra: dict[str, str], has_login: bool, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = run(["-c", BUILD], extra, tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == found | {"login": has_login, "copy": "SPACE_ID" in extra, "unmarked": [], "heavy": []}
    assert found["listeners"] > 20
    # Seconds of CPU, since the machine that runs the tests may be busy; on an idle one the clock shows no more.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 15


@pytest.mark.parametrize("argument", [["--host", "0.0.0.0"], ["--share"]])
def test_without_a_password_the_page_is_for_this_machine_only(argument: list[str], tmp_path: Path) -> None:
    done = run(["app.py", *argument], {}, tmp_path)
    assert done.returncode != 0 and "TRANSMUTE_PASSWORD" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("argument", [[], ["--share"]])
def test_a_password_that_is_soon_guessed_is_none(argument: list[str], tmp_path: Path) -> None:
    done = run(["app.py", *argument], {"TRANSMUTE_PASSWORD": "x" * 11}, tmp_path)
    assert done.returncode != 0 and "at least 12 characters" in done.stderr and "xxx" not in done.stderr


def test_no_label_of_the_page_is_an_emoji() -> None:
    emoji = re.compile("[\U0001f000-\U0001faff\u2600-\u27bf]")
    assert [
        file.name
        for file in sorted((PROJECT / "ui").rglob("*"))
        if file.suffix in (".py", ".css") and emoji.search(file.read_text("utf-8"))
    ] == []

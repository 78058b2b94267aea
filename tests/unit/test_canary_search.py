"""The search for secrets finds what is planted, in every place where it looks, so that finding nothing means something."""

from __future__ import annotations

import base64
import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx

from core.process import child_environment
from tests import canary
from tests.canary import Answers, Watch
from tests.hub.repos import Repo
from tests.hub.server import Hub

TOKEN, OTHER, KEY = canary.canary("a token"), canary.canary("another token"), canary.key_of_digits("a key")


def test_in_files_as_they_are_encoded_and_packed(tmp_path: Path) -> None:
    kinds = {
        "plain": f"token: {TOKEN}".encode(),
        "header": b"Authorization: Basic " + base64.b64encode(f"api:{KEY}".encode()),
        "packed": gzip.compress(b"said " + OTHER.encode()),
        "half": b"..." + TOKEN[3:-2].encode(),
        "damaged": gzip.compress(b"x")[:-4],
        "none": b"a token",
    }
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    with zipfile.ZipFile(tmp_path / "logs.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("worker.log", f"token={OTHER}")
    found = {(Path(path).name, secret) for path, secret in canary.in_files(tmp_path)}
    known = {("plain", "a token"), ("header", "a key"), ("packed", "another token"), ("logs.zip", "another token")}
    assert found == known | {("half", "a part of one")}


def test_in_the_environment_and_the_arguments_of_a_process(tmp_path: Path) -> None:
    sleeps = "import sys; print(flush=True); sys.stdin.read()"
    environment = child_environment({"HERE": str(tmp_path), "A_KEY": KEY})
    child = subprocess.Popen([sys.executable, "-c", sleeps, TOKEN], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"\n"
    watch = Watch(tmp_path)
    watch.look()
    child.communicate()
    assert watch.seen == {sleeps}
    assert watch.hits == {(sleeps, "environ", "a key"), (sleeps, "argv", "a token")}


def test_in_what_was_answered_and_in_what_a_hub_holds() -> None:
    repo = Repo("someone/x", {"notes.txt": TOKEN.encode()}, kind="models", branches={"refs/pr/1": {"a.txt": OTHER.encode()}})
    repo.settings.append(("variables", {"key": "A", "value": OTHER}))
    with Hub([repo]) as hub:
        answers = Answers()
        with httpx.Client(transport=answers) as browser:
            assert browser.get(f"{hub.url}/someone/x/resolve/main/notes.txt").text == TOKEN
            browser.get(f"{hub.url}/api/models/{TOKEN}")
        hub.objects["0" * 64] = KEY.encode()
        found = canary.at_hub(hub)
    assert answers.hits() == [(TOKEN.encode(), {"a token"})]
    assert {
        ("models/someone/x@main/notes.txt", "a token"),
        ("models/someone/x@refs/pr/1/a.txt", "another token"),
        ("someone/x variables", "another token"),
        ("0" * 64, "a key"),
        (f"/api/models/{TOKEN}", "a token"),
    } <= found

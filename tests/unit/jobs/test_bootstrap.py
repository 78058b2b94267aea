"""The first thing on a rented machine: the very bundle that was sent is unpacked and started, or nothing is."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import paths
from core.jobs import client
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo, digest
from tests.hub.server import Hub

PROGRAM = {
    "core/__init__.py": "",
    "core/jobs/__init__.py": "",
    "core/jobs/installed.py": (paths.PROJECT / "core/jobs/installed.py").read_text(),
    "core/jobs/remote.py": "import os, sys; print('started', sys.argv[1], os.getcwd(), 'HF_TOKEN' in os.environ)",
    "requirements.txt": "".join(
        line for line in (paths.PROJECT / "requirements.txt").read_text().splitlines(keepends=True) if line.startswith("pydantic==")
    ),
    "filler.txt": "x" * 5000,
}


def packed(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as bundle:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            bundle.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub([Repo("someone/run", {"bundle.tar": packed(PROGRAM)}, kind="models", access="private")]) as running:
        yield running


def start(hub: Hub, folder: Path, token: str = GOOD_TOKEN, sha256: str = "") -> subprocess.CompletedProcess[str]:
    repo = hub.repos[("models", "someone/run")]
    sha256 = sha256 or digest(repo.files["bundle.tar"], "sha256")
    command = client.command("someone/run", repo.commit(repo.files), sha256, "260101-000000-aaaa")
    env = {"PATH": os.environ["PATH"], "HF_ENDPOINT": hub.url, "HF_TOKEN": token}
    return subprocess.run([sys.executable, *command[1:]], cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def test_the_bundle_is_fetched_unpacked_and_started_and_the_content_server_learns_no_token(hub: Hub, tmp_path: Path):
    done = start(hub, tmp_path)
    assert done.stdout.split() == ["started", "260101-000000-aaaa", str(tmp_path / "transmute"), "True"], done.stderr
    fetched = [asked for asked in hub.asked if asked.path.startswith("/cdn/")]
    assert len(fetched) == 1 and "authorization" not in fetched[0].headers
    assert not (tmp_path / "bundle.tar").exists()


def test_a_bundle_that_is_not_the_one_that_was_sent_is_not_even_unpacked(hub: Hub, tmp_path: Path):
    done = start(hub, tmp_path, sha256="0" * 64)
    assert done.returncode and "not the one that was sent" in done.stderr and not (tmp_path / "transmute").exists()


@pytest.mark.parametrize(
    "fault", [Fault("GET /.*", "status", 503), Fault("GET /.*", "status", 429), Fault("GET /cdn/.*", "drop", after_bytes=2000)]
)
def test_a_hub_that_is_busy_is_asked_again(hub: Hub, tmp_path: Path, fault: Fault):
    hub.faults.append(fault)
    assert start(hub, tmp_path).stdout.startswith("started")


def test_a_login_that_may_not_read_it_ends_at_once_in_words(hub: Hub, tmp_path: Path):
    done = start(hub, tmp_path, token=OTHER_TOKEN)
    assert done.stderr.strip() == "The bundle could not be fetched: HTTP 404"


def test_a_bundle_cannot_write_outside_its_folder(hub: Hub, tmp_path: Path):
    hub.repos[("models", "someone/run")].files["bundle.tar"] = packed(PROGRAM | {"../outside.txt": "x"})
    folder = tmp_path / "inside"
    folder.mkdir()
    assert start(hub, folder).returncode and not (tmp_path / "outside.txt").exists() and not (folder / "outside.txt").exists()

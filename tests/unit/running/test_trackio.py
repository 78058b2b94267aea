"""What a run wrote for trackio goes to a private Space by trackio's own sync, with a token that lies nowhere: not in the Space either."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import events, paths
from core.errors import UserError
from core.process import child_environment
from core.running import sync
from core.training.launch import PROJECT
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub

SPACE = "someone/curves"
# trackio is installed by those who want it. This one does to the Hub what trackio 0.43's `sync` does before its upload (deploy.py: create the
# Space, leave the token in it as a secret, wait for it), by the same calls of huggingface_hub, and says what it was given.
TRACKIO = """
import json, os, pathlib
import huggingface_hub
from huggingface_hub.utils import get_token

def sync(project, space_id=None, private=None, force=False):
    told = {"project": project, "private": private, "folder": os.environ["TRACKIO_DIR"], "token": get_token()}
    at_the_start = pathlib.Path("/proc/self/environ").read_text() + pathlib.Path("/proc/self/cmdline").read_text()
    told["seen_by_others"] = told["token"] in at_the_start
    pathlib.Path(os.environ["TRACKIO_DIR"], "told.json").write_text(json.dumps(told | {"token": len(told["token"])}))
    huggingface_hub.create_repo(space_id, private=private, space_sdk="gradio", repo_type="space", exist_ok=True)
    huggingface_hub.add_space_secret(space_id, "HF_TOKEN", told["token"])
    huggingface_hub.add_space_variable(space_id, "TRACKIO_BUCKET_ID", "someone/curves-bucket")
    if pathlib.Path(os.environ["TRACKIO_DIR"], "slow").exists():
        raise TimeoutError("the Space did not reach RUNNING")
    return space_id
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub([Repo("someone/other", kind="spaces")]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def run_dir(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with curves, and trackio where its child looks for packages."""
    made = tmp_path / "site" / "trackio"
    made.mkdir(parents=True)
    (made / "__init__.py").write_text(TRACKIO, encoding="utf-8")
    found = child_environment
    monkeypatch.setattr("core.process.child_environment", lambda extra=None: found({"PYTHONPATH": f"{tmp_path / 'site'}"} | (extra or {})))
    folder = workspace / "runs" / "r-1"
    (folder / "trackio").mkdir(parents=True)
    events.append(folder, "created", run_id="r-1", name="Argo", method="lora", steps=["train"])
    (folder / "trackio" / "transmute.db").write_bytes(b"curves")
    return folder


def told(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "trackio" / "told.json").read_text(encoding="utf-8"))


def test_the_space_is_private_and_the_token_is_neither_in_it_nor_on_the_disk(hub: Hub, run_dir: Path, workspace: Path) -> None:
    sent = sync.send_to_space("r-1", SPACE, GOOD_TOKEN)
    assert sent == {"page": f"{hub.url}/spaces/{SPACE}", "is_running": True} and sync.space_of("r-1") == SPACE
    assert told(run_dir) == {
        "project": PROJECT, "private": True, "folder": str(run_dir / "trackio"), "token": len(GOOD_TOKEN), "seen_by_others": False,
    }  # fmt: skip
    space = next(repo for repo in hub.repos.values() if repo.repo_id == SPACE)
    assert space.access == "private" and [what for what, _ in space.settings] == ["variables"], "what trackio set, without the secret"
    assert all(GOOD_TOKEN.encode() not in path.read_bytes() for path in workspace.rglob("*") if path.is_file())


def test_sent_again_it_goes_to_the_same_space_but_never_over_another(hub: Hub, run_dir: Path) -> None:
    with pytest.raises(UserError, match="not this run's"):
        sync.send_to_space("r-1", "someone/other", GOOD_TOKEN)
    assert sync.space_of("r-1") == "" and not (run_dir / "trackio" / "told.json").exists()
    sync.send_to_space("r-1", SPACE, GOOD_TOKEN)
    assert sync.send_to_space("r-1", f" {SPACE} ", GOOD_TOKEN)["is_running"]


def test_a_space_that_takes_long_to_be_built_has_what_was_sent(hub: Hub, run_dir: Path) -> None:
    (run_dir / "trackio" / "slow").touch()
    assert sync.send_to_space("r-1", SPACE, GOOD_TOKEN)["is_running"] is False


def test_a_token_that_may_not_write_is_refused_in_words_without_it(hub: Hub, run_dir: Path) -> None:
    bad = "hf_" + "nobodyTOKENnobodyTOKEN"
    with pytest.raises(UserError) as refused:
        sync.send_to_space("r-1", SPACE, bad)
    assert refused.value.code == "SYNC" and bad not in str(refused.value.as_dict())


@pytest.mark.parametrize(
    ("space", "token", "said"),
    [("curves", "t", "names no Space"), ("a/../b", "t", "names no Space"), (SPACE, "", "no token"), (SPACE, None, "no token")],
)
def test_what_cannot_be_sent_is_said_before_anything_is_started(space: str, token: str | None, said: str, run_dir: Path) -> None:
    with pytest.raises(UserError, match=said):
        sync.send_to_space("r-1", space, token)


def test_a_run_that_wrote_nothing_for_trackio_says_so(workspace: Path) -> None:
    (workspace / "runs" / "r-2").mkdir(parents=True)
    with pytest.raises(UserError, match="nothing for trackio"):
        sync.send_to_space("r-2", SPACE, GOOD_TOKEN)


def test_without_the_package_its_installation_is_named(hub: Hub, workspace: Path) -> None:
    payload = {"token": GOOD_TOKEN, "space": SPACE, "project": PROJECT, "is_ours": False}
    hidden = "import sys; sys.modules['trackio'] = None; from core.running.trackio_child import handle; from core.childio import serve; serve(handle)"
    child = subprocess.run([sys.executable, "-c", hidden], input=json.dumps(payload) + "\n", env=child_environment(), cwd=paths.PROJECT,
                           capture_output=True, text=True, check=False)  # fmt: skip
    assert json.loads(child.stdout)["error"]["code"] == "PACKAGE", child.stderr


def test_the_installed_trackio_takes_what_it_is_given() -> None:
    """By its real package, which nothing here needs: ``pip install trackio``."""
    trackio = pytest.importorskip("trackio")
    import inspect

    assert {"project", "space_id", "private", "force"} <= set(inspect.signature(trackio.sync).parameters)

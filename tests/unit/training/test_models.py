"""A base model comes from the Hub through the real client: every refusal in words, a busy Hub is asked again, and what is gone is fetched again."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from core import hubclient, paths
from core.chat.engine import base_here, child_payload
from core.chat.memory import Room, needed
from core.chat.sources import of_artifact
from core.errors import UserError
from core.export.artifacts import Artifact
from core.running import resuming, runs
from core.training import models
from core.training.presets import demo
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo
from tests.hub.server import Hub

STARTER = {file.name: file.read_bytes() for file in paths.STARTER.iterdir() if file.is_file()}
REPOS = [Repo(f"org/{access}", STARTER, kind="models", access=access) for access in ("open", "gated", "private")]


@pytest.fixture
def hub(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with Hub(REPOS) as running:
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


@pytest.mark.parametrize(
    ("name", "revision", "token", "said", "remedy"),
    [
        ("org/gated", None, None, "is gated", "Accept its terms"),
        ("org/gated", None, OTHER_TOKEN, "is gated", "Accept its terms"),
        ("org/private", None, OTHER_TOKEN, "There is no model", "a private model needs"),
        ("org/nothing", None, None, "There is no model", "Check the spelling"),
        ("org/open", "v9", None, "has no revision 'v9'", "Leave the revision empty"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(
    name: str, revision: str | None, token: str | None, said: str, remedy: str, hub: Hub
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        models.resolve(name, revision, token)
    assert remedy in caught.value.remedy and caught.value.where == f"base_model {name}"


@pytest.mark.parametrize("name", ["org/open", "org/gated", "org/private"])
def test_what_may_be_read_is_pinned_to_its_commit(name: str, hub: Hub) -> None:
    found = models.resolve(name, token=GOOD_TOKEN)
    assert found.revision == found.path.name and models.is_whole(found.path)
    assert models.tokenizer_here(name) == found.path


def test_an_adapter_whose_base_is_named_by_its_hub_id_is_chatted_with_once_the_base_is_fetched(hub: Hub, tmp_path: Path) -> None:
    adapter = Artifact(id="a", kind="adapter", name="Mine", base_model="org/open", base_path="org/open", folder=tmp_path)
    with pytest.raises(UserError, match="base model of Mine is not on this machine") as caught:
        child_payload(adapter, 64)
    assert "`hf download org/open`" in caught.value.remedy and not hub.asked, "nothing is fetched for a chat"
    models.outline("org/open")  # without the weights
    assert base_here(adapter) is None
    base = models.resolve("org/open").path
    assert child_payload(adapter, 64)["folder"] == str(base) and base_here(adapter) == base
    without = needed([of_artifact(adapter.model_copy(update={"base_model": None}))], Room(0))
    assert needed([of_artifact(adapter)], Room(0)).main > without.main


def test_a_tokenizer_that_nobody_has_fetched_is_not_asked_for(hub: Hub) -> None:
    assert models.tokenizer_here("org/open") is None and not hub.asked


def test_a_hub_that_is_busy_once_is_asked_again(hub: Hub) -> None:
    hub.faults.append(Fault("GET /api/models/.*", "status", 503))
    assert models.resolve("org/open").revision


def test_a_hub_that_stays_out_of_reach_is_a_matter_of_the_network(hub: Hub) -> None:
    hub.faults.append(Fault(".*", "status", 503, times=1000))
    with pytest.raises(UserError, match="could not be fetched from the Hub") as caught:
        models.resolve("org/open")
    assert caught.value.code == "NET" and "Check the network" in caught.value.remedy


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("IO error (os error 28)")])
def test_a_disk_that_is_full_is_no_matter_of_the_network(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(UserError, match=r"the disk of .* is full") as caught:
        models.resolve("org/open")
    assert caught.value.code == "DISK" and "HF_HOME" in caught.value.remedy


@pytest.mark.parametrize("stretched", [False, True], ids=["as it is", "stretched"])
def test_a_run_whose_base_is_gone_from_the_cache_fetches_the_recorded_commit_again(stretched: bool, hub: Hub, tmp_path: Path) -> None:
    longer = {"max_length": 2000, "rope_scaling": "linear"} if stretched else {}
    run_dir = runs.folder(runs.create(demo().model_copy(update={"base_model": "org/open", "levels": ()} | longer)))
    before = paths.read_json(run_dir / "launch.json")["model"]
    assert ("base" == Path(before["path"]).name) == stretched
    shutil.rmtree(tmp_path / "cache")
    hub.repos["models", "org/open"] = Repo(
        "org/open", STARTER | {"README.md": b"newer"}, kind="models", history={before["revision"]: STARTER}
    )
    resuming.require_base(run_dir, None)
    assert paths.read_json(run_dir / "launch.json")["model"] == before and models.is_whole(Path(before["path"]))


def test_a_run_whose_base_came_from_a_folder_that_is_gone_says_how_to_mend_it(workspace: Path, tmp_path: Path) -> None:
    base = shutil.copytree(paths.STARTER, tmp_path / "base")
    run_id = runs.create(demo().model_copy(update={"base_model": str(base), "levels": ()}))
    shutil.rmtree(base)
    with pytest.raises(UserError, match="is no longer in") as caught:
        runs.start(run_id)
    assert "Put its folder back" in caught.value.remedy
    assert runs.load(run_id).state != "queued" or not runs.pids(run_id)

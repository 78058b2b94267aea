"""A result that shall be published when its run is done waits for a login, is sent once, and no token is kept for it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from core import events, paths
from core.cli.run import _publish
from core.errors import UserError
from core.events import Run
from core.publish.ledger import remember
from core.publish.waiting import all_waiting, waiting
from core.training.recipe import Recipe, build
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.unit.publish.test_preflight import make

pytestmark = [pytest.mark.usefixtures("login"), pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]
RUN_ID, REPO = "261123-191203-4f2a", "someone/x"


def finished(state: str = "done", publish_to: str = REPO) -> Run:
    """A run that has ended and left an adapter and a merged model."""
    run_dir = paths.runs_dir() / RUN_ID
    for kind in ("adapter", "merged"):
        make(run_dir / "artifacts", kind, {"model.safetensors": kind, "config.json": "{}"}, run_id=RUN_ID, id=f"{RUN_ID}-{kind}")
    events.append(run_dir, "created", run_id=RUN_ID, name="x", method="lora", steps=["train"], publish_to=publish_to)
    events.append(run_dir, "finished", state=state)
    return events.fold(events.read(run_dir))


def test_it_waits_from_the_end_of_the_run_until_it_was_sent(workspace: Path) -> None:
    run = finished()
    found = waiting(run)
    assert found and (found.repo_id, found.sources) == (REPO, (f"{RUN_ID}-merged",)) and all_waiting([run]) == [found]
    remember("someone/elsewhere", "committed", sources=found.sources)
    assert waiting(run) == found, "that it lies elsewhere too changes nothing"
    remember(REPO, "pull_request", sources=found.sources)
    assert waiting(run) is None


def test_a_run_that_is_not_done_or_not_meant_for_the_hub_does_not_wait(workspace: Path) -> None:
    run = finished()
    assert waiting(dataclasses.replace(run, state="running")) is None
    assert waiting(dataclasses.replace(run, state="failed")) is None
    assert waiting(dataclasses.replace(run, publish_to="")) is None


def test_the_command_line_sends_it_with_the_saved_login(hub: Hub) -> None:
    said = Console(record=True, width=200)
    published, has_failed = _publish(finished(), said)
    repo = hub.repos[("models", REPO)]
    assert repo.files["model.safetensors"] == b"merged" and repo.access == "private" and not has_failed
    assert f"{REPO} does not exist yet and will be made" in said.export_text(clear=False) and published["published"]["commit"]
    assert _publish(finished(), said) == ({}, False), "it is sent once"
    assert not any(GOOD_TOKEN.encode() in path.read_bytes() for path in paths.home().rglob("*") if path.is_file())


@pytest.mark.parametrize("place", ["without a login", "with a fault"])
def test_what_hinders_it_leaves_the_run_done_and_says_how_to_go_on(place: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    if place == "without a login":
        monkeypatch.delenv("HF_TOKEN")
    hub.faults.append(Fault("POST .*/commit/", "status", status=403, times=9))
    said = Console(record=True, width=200)
    published, has_failed = _publish(finished(), said)
    assert published == {"published": None} and has_failed == (place == "with a fault")
    assert f"core publish {RUN_ID}-merged --repo {REPO}" in said.export_text()
    assert waiting(finished())


def test_the_knob_takes_a_repository_and_nothing_else() -> None:
    assert build({"publish_to": REPO}, "test").publish_to == REPO and Recipe().publish_to == ""
    for wrong in ("no-owner", "a/b/c", "../etc", "a/ b", "https://huggingface.co/a/b"):
        with pytest.raises(UserError, match="publish_to"):
            build({"publish_to": wrong}, "test")

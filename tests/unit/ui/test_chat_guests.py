"""What visitors of a Space may ask: the starter, one answer at a time, a few in a minute."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core import events, paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from ui import access, chat_guests, chat_sources, chat_tab
from ui.access import Caller

OWNER = Caller("kim", "owner")
VISITOR, NEIGHBOUR = Caller("a visitor", "public", address="8.8.8.8"), Caller("a visitor", "public", address="9.9.9.9")
MALLORY = Caller("mallory", "signed_in")


@pytest.fixture(autouse=True)
def nobody_has_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_guests, "_asked", {})
    monkeypatch.setattr(chat_guests, "_asking", {})


@pytest.fixture
def trained(workspace: Path) -> str:
    """The id of a model that the owner has trained."""
    run_dir = workspace / "runs" / "r-own"
    run_dir.mkdir(parents=True)
    events.append(run_dir, "created", run_id="r-own", name="Secret", method="fft", steps=["train"])
    with paths.building(run_dir / "artifacts" / "merged") as folder:
        shutil.copy(paths.STARTER / "config.json", folder)
        artifacts.write(Artifact(id="r-own-merged", kind="merged", name="Secret", run_id="r-own", base_model="starter"), folder)
    events.append(run_dir, "artifact", id="r-own-merged", kind_of="merged", path="artifacts/merged")
    return "r-own-merged"


@pytest.mark.parametrize("caller", [VISITOR, MALLORY])
def test_a_visitor_is_offered_the_starter_and_nothing_else(trained: str, caller: Caller) -> None:
    assert [identifier for _, identifier in chat_sources.everything(OWNER)] == [trained, "starter"]
    assert chat_sources.everything(caller) == [("Embedded starter", "starter")]
    assert [source.id for source in chat_sources.find(["starter", trained], caller)] == ["starter"]
    with pytest.raises(UserError, match="starter model") as refused:
        chat_tab.chosen([trained], "Who?", caller)
    assert "Duplicate this Space" in refused.value.remedy
    (source,) = chat_tab.chosen(["starter"], "Who?", caller)
    assert source.artifact and source.artifact.folder == paths.STARTER and str(paths.PROJECT) not in source.id


def test_one_answer_at_a_time_is_written_for_a_visitor() -> None:
    with (
        chat_guests.turn(VISITOR),
        chat_guests.turn(NEIGHBOUR),
        chat_guests.turn(MALLORY),
        chat_guests.turn(OWNER),
        chat_guests.turn(OWNER),
    ):
        for caller in (VISITOR, MALLORY):
            with pytest.raises(UserError, match="being written") as refused, chat_guests.turn(caller):
                pass
            assert "Duplicate this Space" in refused.value.remedy
    with chat_guests.turn(VISITOR):
        pass  # the one before has ended


def test_an_answer_that_failed_bars_nobody() -> None:
    with pytest.raises(ZeroDivisionError), chat_guests.turn(VISITOR):
        raise ZeroDivisionError
    with chat_guests.turn(VISITOR):
        pass


def test_a_visitor_asks_a_few_times_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(chat_guests, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(chat_guests.PER_MINUTE):
        with chat_guests.turn(VISITOR):
            now += 1
    with pytest.raises(UserError, match="times a minute") as refused, chat_guests.turn(VISITOR):
        pass
    assert "Ask again in 50 s" in refused.value.remedy and "Duplicate" in refused.value.remedy
    with chat_guests.turn(NEIGHBOUR):
        pass
    now = chat_guests.MINUTE_S + 0.5
    with chat_guests.turn(VISITOR):
        pass


def asked(headers: dict[str, str], host: str = "10.0.0.7") -> Any:
    return SimpleNamespace(headers=headers, client=SimpleNamespace(host=host))


def test_an_address_that_a_visitor_claims_is_not_taken_for_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of a Space write behind what was there before; their own addresses are none of the internet."""
    monkeypatch.setenv("SYSTEM", "spaces")
    for noted in ("8.8.8.8", "1.2.3.4, 8.8.8.8", "9.9.9.9,8.8.8.8, 10.0.0.9", "nonsense, 8.8.8.8, 172.16.0.1, ?"):
        assert access.address_of(asked({"x-forwarded-for": noted})) == "8.8.8.8"
    assert access.address_of(asked({})) == access.address_of(asked({"x-forwarded-for": "10.1.1.1"})) == "10.0.0.7"
    monkeypatch.delenv("SYSTEM")
    assert access.address_of(asked({"x-forwarded-for": "8.8.8.8"}, "127.0.0.1")) == "127.0.0.1"
    assert Caller("mallory", "signed_in", address="8.8.8.8").key == Caller("mallory", "signed_in", address="9.9.9.9").key

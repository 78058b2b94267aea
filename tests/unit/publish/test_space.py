"""What a Space's owner is told about money and storage, and that nobody else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.publish import space
from ui import header
from ui.access import Caller

OWNER, VISITOR = Caller("someone", "owner"), Caller("", "public")


@pytest.fixture
def on_space(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/transmute")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("ACCELERATOR", "l4x1")


def test_elsewhere_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch, workspace: Path):
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert (space.settings_url(), space.money(0), space.storage(), space.visiting()) == ("", None, None, None)


@pytest.mark.usefixtures("on_space")
def test_idle_rented_hardware_is_named_with_its_price_and_the_page_to_pause_it():
    advice = space.money(0)
    assert advice and "$0.80 per hour" in advice.said and "Pause" in advice.steps[-1]
    assert advice.url == "https://huggingface.co/spaces/someone/transmute/settings"
    assert space.money(1) is None


@pytest.mark.usefixtures("on_space")
@pytest.mark.parametrize("accelerator", ["", "none", "cpu-basic", "unheard-of"])
def test_free_or_unknown_hardware_costs_nothing_worth_saying(monkeypatch: pytest.MonkeyPatch, accelerator: str):
    monkeypatch.setenv("ACCELERATOR", accelerator)
    assert space.money(0) is None


@pytest.mark.usefixtures("on_space")
def test_storage_without_a_volume_names_the_loss_and_three_steps():
    advice = space.storage()
    assert advice and "lost" in advice.said and len(advice.steps) == 3 and "/data" in advice.steps[1]


@pytest.mark.usefixtures("on_space")
def test_the_page_shows_all_to_the_owner_and_to_a_visitor_how_to_have_a_copy():
    shown = header.advice_html(OWNER, 0)
    assert shown.count("<details") == 3 and shown.count("/spaces/someone/transmute/settings") == 3
    for visitor in (VISITOR, Caller("mallory", "signed_in")):
        said = header.advice_html(visitor, 0)
        assert "/settings" not in said and 'href="https://huggingface.co/spaces/someone/transmute?duplicate=true"' in said
    assert header.advice_html(OWNER, 1).count("<details") == 2


@pytest.mark.usefixtures("on_space")
@pytest.mark.parametrize(("allow_public", "is_seen"), [("", True), ("1", False)])
def test_who_may_not_act_finds_the_button_that_duplicates(allow_public: str, is_seen: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALLOW_PUBLIC", allow_public)
    assert header.offer_copy(None, None).visible is is_seen

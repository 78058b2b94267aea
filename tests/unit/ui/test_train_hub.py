"""Typing a model's name offers what the Hub has, by the real client against a Hub of this machine."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from core.errors import UserError
from core.training import models
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from ui import train_hub
from ui.access import Caller

OWNER = Caller("someone", "owner", token=GOOD_TOKEN)
NAMES = [f"lmsys/vicuna-{size}b-v1.5" for size in range(12)]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, workspace: Any) -> Any:
    hidden = Repo("me/my-vicuna", {"config.json": b"{}"}, kind="models", access="private")
    with Hub([hidden, *(Repo(name, {"config.json": b"{}"}, kind="models") for name in [*NAMES, "other/llama"])]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def offered(typed: str, caller: Caller = OWNER) -> dict[str, Any]:
    return train_hub.offer.__wrapped__(gr.EventData(None, {"key": "a", "input_value": typed}), caller=caller)


def values(shown: dict[str, Any]) -> list[str]:
    return [value for _, value in shown["field"].choices]


def test_what_is_typed_is_looked_for_with_the_callers_token(hub: Any) -> None:
    found = values(offered("vicuna"))
    assert found[0] == "starter" and "me/my-vicuna" in found and "other/llama" not in found
    assert len(models.search("vicuna", GOOD_TOKEN)) == models.MOST_FOUND
    assert "me/my-vicuna" not in models.search("my-vicuna")
    assert hub.asked[0].headers["authorization"] == f"Bearer {GOOD_TOKEN}" and "authorization" not in hub.asked[-1].headers


def test_a_few_letters_a_path_what_is_known_and_a_visitor_ask_nobody(hub: Any) -> None:
    for typed, caller in (("vi", OWNER), ("/srv/model", OWNER), ("starter", OWNER), ("vicuna", Caller("a visitor", "public"))):
        assert offered(typed, caller) == {}
    assert hub.asked == []


def test_without_a_network_the_field_says_so_and_still_takes_an_id(monkeypatch: pytest.MonkeyPatch, workspace: Any) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    shown = offered("vicuna")
    assert "cannot be searched now" in shown["said"] and "typed all the same" in shown["said"] and "field" not in shown
    with pytest.raises(UserError) as caught:
        models.search("vicuna")
    assert caught.value.code == "NET"

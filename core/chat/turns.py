"""A conversation with several models as plain values: each turn is a prompt and what every model answered to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.chat.answer import Messages
from core.conversation import Conversation
from core.conversation import Turn as Said

Turn = dict[str, Any]  # {"prompt": str, "answers": [{"id", "text", ...}, ...]}


def answer_of(turn: Turn, source_id: str) -> str | None:
    """What the model answered; None when it did not, or said nothing."""
    return next((answer["text"] for answer in turn["answers"] if answer["id"] == source_id and answer["text"]), None)


def messages_for(source_id: str, prompt: str, turns: Sequence[Turn], system: str = "") -> Messages:
    """The conversation as this model had it: only the turns that it answered, and the new prompt."""
    messages = [{"role": "system", "content": system.strip()}] if system.strip() else []
    for turn in turns:
        if (own := answer_of(turn, source_id)) is not None:
            messages += [{"role": "user", "content": turn["prompt"]}, {"role": "assistant", "content": own}]
    return [*messages, {"role": "user", "content": prompt}]


def without(turns: Sequence[Turn], index: int) -> list[Turn]:
    """The conversation as if turn `index` had not been."""
    return [*turns[:index], *turns[index + 1 :]]


def with_answer(turns: Sequence[Turn], index: int, source_id: str, text: str) -> list[Turn]:
    """The conversation with other words in one answer; what was measured and marked about it is dropped."""
    changed = dict(turns[index])
    fresh = {"text": text, "mark": None, "same": False, "stop": "edited", "stats": {}, "error": None}
    changed["answers"] = [answer | fresh if answer["id"] == source_id else answer for answer in changed["answers"]]
    return [*turns[:index], changed, *turns[index + 1 :]]


def conversations(turns: Sequence[Turn], system: str = "") -> list[Conversation]:
    """One conversation per model that answered anything, in the order in which they first did, ready to be written or trained on."""
    names: dict[str, str] = {}
    for turn in turns:
        for answer in turn["answers"]:
            names.setdefault(answer["id"], f"{answer.get('name', '')} {answer.get('label', '').partition(' · ')[0]}".strip())
    found: list[Conversation] = []
    for number, (source_id, name) in enumerate(names.items()):
        said = messages_for(source_id, "", turns, system)[:-1]
        if any(message["role"] == "assistant" for message in said):
            turned = tuple(Said(message["role"], message["content"]) for message in said)  # type: ignore[arg-type] # roles of `messages_for`
            found.append(Conversation(f"chat_{number}_{name}".replace(" ", "_"), turned))
    return found

"""Whose words a rendered text is made of: where each turn's own content stands in it, and what the template wrote around."""

from __future__ import annotations

import re

from core.conversation import Conversation, Turn
from core.data.render import render
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError

MARK = re.compile("\ue000(\\d+)\ue001")  # private characters, which no template writes


def content_spans(conversation: Conversation, text: str, tokenizer: ChatTokenizer) -> list[tuple[int, int]]:
    """Where (characters, start and end) the turns' contents stand in `text`, the conversation as the template writes it, in order.

    The template is asked to write the same turns with a mark in place of each content; what stands around the marks is its own.
    Empty when it writes otherwise as soon as the contents are others, so that this cannot be told.
    """
    turns = tuple(Turn(turn.role, f"\ue000{number}\ue001") for number, turn in enumerate(conversation.turns))
    try:
        marked = render(Conversation(conversation.id, turns), tokenizer.template, tokenizer.bos_token, tokenizer.eos_token).text
    except UserError:
        return []
    before, *rest = MARK.split(marked)
    if not text.startswith(before):
        return []
    spans: list[tuple[int, int]] = []
    at = len(before)
    for number, after in zip(rest[::2], rest[1::2], strict=True):
        content = conversation.turns[int(number)].content
        written = next((known for known in (content, content.strip()) if text.startswith(known + after, at)), None)
        if written is None:
            return []
        spans.append((at, at + len(written)))
        at += len(written) + len(after)
    return spans if at == len(text) else []

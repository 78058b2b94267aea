"""Contents are told from what the template writes around them, however short or misleading they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.conversation import Conversation, Role, Turn
from core.data.render import render
from core.data.spans import content_spans
from core.data.tokenizer import load_tokenizer
from core.paths import STARTER

STARTER_TOKENIZER = load_tokenizer(STARTER)
TRIMMING = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}"
UPSIDE_DOWN = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
CONTENT = st.sampled_from(["A", "USER: ", " ASSISTANT:", "</s>", "", "  a b \n", "好", "\ue0000\ue001"]) | st.text(max_size=8)


def talk(*contents: str) -> Conversation:
    roles: tuple[Role, Role] = ("user", "assistant")
    return Conversation("x", tuple(Turn(roles[number % 2], content) for number, content in enumerate(contents)))


@given(contents=st.lists(CONTENT, min_size=2, max_size=6).filter(lambda found: len(found) % 2 == 0))
@pytest.mark.parametrize(("template", "trims"), [(STARTER_TOKENIZER.template, False), (TRIMMING, True)])
def test_the_spans_hold_exactly_the_contents(contents: list[str], template: str, trims: bool) -> None:
    conversation = talk(*contents)
    tokenizer = replace(STARTER_TOKENIZER, template=template)
    text = render(conversation, template, tokenizer.bos_token, tokenizer.eos_token).text
    spans = content_spans(conversation, text, tokenizer)
    assert [text[start:end] for start, end in spans] == [content.strip() if trims else content for content in contents]
    assert sorted(spans) == spans


def test_a_template_that_changes_the_contents_gives_no_spans() -> None:
    tokenizer = replace(STARTER_TOKENIZER, template=UPSIDE_DOWN)
    assert content_spans(talk("a", "b"), "AB", tokenizer) == []

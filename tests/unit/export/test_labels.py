"""Tokens carry loss when their bytes overlap an answer, whatever the tokenizer."""

import pytest

from core.errors import UserError
from core.export.labels import byte_spans, labelled, token_spans

VICUNA = "S USER: hi ASSISTANT: 你a</s>USER: x ASSISTANT: y</s>"
PIECES = [b"<s>", b" S", b" USER", b":", b" hi", b" ASSISTANT", b":", b" ", b"\xe4", b"\xbd", b"\xa0", b"a", b"</s>", b" USER", b":", b" x",
          b" ASSISTANT", b":", b" y", b"</s>"]  # fmt: skip
SPECIAL = [piece in (b"<s>", b"</s>") for piece in PIECES]


def answers(text):
    spans, at = [], 0
    while (start := text.find("ASSISTANT:", at)) >= 0:
        at = text.index("</s>", start) + 4
        spans.append((start + 10, at))
    return spans


def test_loss_begins_right_after_the_colon_and_includes_the_end_token():
    ranges = token_spans(VICUNA.encode(), PIECES, SPECIAL, adds_space=True)
    carriers = labelled(ranges, byte_spans(VICUNA, answers(VICUNA)))
    assert [PIECES[index] for index in carriers] == [b" ", b"\xe4", b"\xbd", b"\xa0", b"a", b"</s>", b" y", b"</s>"]


def test_the_space_that_sentencepiece_adds_is_not_looked_for_in_the_text():
    ranges = token_spans(VICUNA.encode(), PIECES, SPECIAL, adds_space=True)
    assert ranges[0] == (0, 0) and ranges[1] == (0, 1)
    assert [VICUNA.encode()[start:end] for start, end in ranges[12:15]] == [b"</s>", b"USER", b":"]


def test_a_lone_added_space_counts_with_its_neighbour():
    ranges = token_spans(b"7</s>8", [b" ", b"7", b"</s>", b" ", b"8"], [False, False, True, False, False], adds_space=True)
    assert ranges == [(0, 1), (0, 1), (1, 5), (5, 6), (5, 6)]


def test_byte_level_tokens_spell_the_text_exactly():
    ranges = token_spans(b"a b", [b"a", b" b"], [False, False], adds_space=False)
    assert ranges == [(0, 1), (1, 3)]


def test_white_space_that_a_special_token_swallows_is_skipped():
    ranges = token_spans(b"a \n<|end|>b", [b"a", b"<|end|>", b"b"], [False, True, False], adds_space=False)
    assert ranges == [(0, 1), (3, 10), (10, 11)]


def test_tokens_that_do_not_spell_the_text_are_refused():
    with pytest.raises(UserError, match="spell"):
        token_spans(b"Hello", [b"hello"], [False], adds_space=False)

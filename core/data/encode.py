"""Conversations as rows of token ids and labels, at the speed of `core.data.words` and with the labels of `core.data.render.tokenize`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from core.conversation import Conversation
from core.data.render import IGNORED, LossOn, encode_text, label_tokens, loss_spans, render
from core.data.tokenizer import ChatTokenizer
from core.data.words import Encoded, word_encoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALL_CHECKED, CHECKED_EVERY = 32, 64  # rows that are also asked from the tokenizer itself: the first ones, then one in so many


class Row(NamedTuple):
    """One training example, after truncation."""

    input_ids: NDArray[np.int32]  # (T,)
    labels: NDArray[np.int32]  # (T,), -100 where no loss
    full_length: int  # tokens before truncation
    lost: int  # tokens with loss that were cut off


class RowEncoder:
    """Makes rows of conversations.

    Attributes:
        disagreed: the fast way gave other ids or labels than the tokenizer. From then on every row is exact; the ones before may not be.
    """

    def __init__(self, tokenizer: ChatTokenizer, max_length: int | None = None, loss_on: LossOn = "answers", fast: bool = True) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self._loss_on: LossOn = loss_on
        self._words = word_encoder(tokenizer.tokenizer) if fast else None
        self._count = 0
        self.disagreed = False

    def row(self, conversation: Conversation) -> Row:
        """The conversation's ids and labels, cut to the first `max_length` tokens.

        Raises:
            UserError: the template refuses the conversation.
        """
        import numpy as np

        rendered = render(conversation, self._tokenizer.template, self._tokenizer.bos_token, self._tokenizer.eos_token)
        spans = loss_spans(rendered, self._loss_on)
        encoded = self._words.encode(rendered.text) if self._words else None
        ids, labels = self._fast(rendered.text, spans, encoded) if encoded else self._exact(rendered.text, spans)
        if encoded and self._is_checked():
            exact_ids, exact_labels = self._exact(rendered.text, spans)
            if not (np.array_equal(ids, exact_ids) and np.array_equal(labels, exact_labels)):
                self.disagreed, self._words = True, None
                ids, labels = exact_ids, exact_labels
        cut = len(ids) if self._max_length is None else self._max_length
        return Row(ids[:cut], labels[:cut], len(ids), int(np.count_nonzero(labels[cut:] != IGNORED)))

    def _is_checked(self) -> bool:
        self._count += 1
        return self._count <= ALL_CHECKED or self._count % CHECKED_EVERY == 0

    def _exact(self, text: str, spans: tuple[tuple[int, int], ...]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        import numpy as np

        ids, offsets = encode_text(text, self._tokenizer)
        return np.array(ids, dtype=np.int32), np.array(label_tokens(ids, offsets, spans), dtype=np.int32)

    def _fast(self, text: str, spans: tuple[tuple[int, int], ...], encoded: Encoded) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        import numpy as np

        ids, starts, ends = encoded
        bos = self._tokenizer.bos_token
        if bos and len(ids) > 1 and ids[0] == ids[1] and ends[0] == 0 and text.startswith(bos):  # as `encode_text` does
            ids, starts, ends = ids[1:], starts[1:], ends[1:]
        labels = np.full(len(ids), IGNORED, dtype=np.int32)  # (T,)
        for start, end in spans if text.isascii() else in_bytes(text, spans):
            first, last = np.searchsorted(ends, start, side="right"), np.searchsorted(starts, end, side="left")
            labels[first:last] = ids[first:last]
        return ids, labels


def in_bytes(text: str, spans: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The spans of characters, in order and apart, as spans of bytes of UTF-8."""
    found: list[tuple[int, int]] = []
    at = byte = 0
    for start, end in spans:
        first = byte + len(text[at:start].encode())
        at, byte = end, first + len(text[start:end].encode())
        found.append((first, byte))
    return tuple(found)

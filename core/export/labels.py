"""Which tokens of a rendered conversation carry loss, from the tokens' own bytes, for any tokenizer that llama.cpp knows."""

from __future__ import annotations

from collections.abc import Sequence

from core.errors import UserError

Span = tuple[int, int]


def token_spans(text: bytes, pieces: Sequence[bytes], special: Sequence[bool], adds_space: bool) -> list[Span]:
    """The byte range of `text` that each token covers.

    Args:
        pieces: the tokens' bytes.
        special: whether a token was matched whole (``</s>``); the text after it begins anew.
        adds_space: SentencePiece puts one space, absent from the text, before each piece of text that begins anew.

    A special token that is not in the text (an added BOS) covers nothing. A token that is only the added space counts as its neighbour's
    first byte, as `tokenizers` reports it.

    Raises:
        UserError: the tokens do not spell the text, as with tokenizers that change letters.
    """
    spans: list[Span] = []
    at, fresh = 0, True
    for piece, is_special in zip(pieces, special, strict=True):
        if is_special:
            start = _find_special(text, piece, at)
            at = start + len(piece) if text.startswith(piece, start) else at
            spans.append((start, at))
            fresh = True
            continue
        body = piece[1:] if fresh and adds_space and piece.startswith(b" ") else piece
        fresh = False
        if not text.startswith(body, at):
            raise UserError(
                f"The tokens of this file spell {body!r} where the text has {text[at : at + 12]!r}.",
                f"byte {at} of a rendered conversation",
                "This tokenizer changes its text, so its answers cannot be scored token by token.",
                code="TOKENIZER",
            )
        spans.append((at, max(at + len(body), at + 1)))
        at += len(body)
    return spans


def _find_special(text: bytes, piece: bytes, at: int) -> int:
    """Where the special token stands: here, or behind white space that it swallows, or nowhere (then here)."""
    behind = at
    while behind < len(text) and text[behind : behind + 1].isspace():
        behind += 1
    if not text.startswith(piece, at) and text.startswith(piece, behind):
        return behind
    return at


def byte_spans(text: str, spans: Sequence[Span]) -> list[Span]:
    """Character ranges of `text` as byte ranges of its UTF-8."""
    return [(len(text[:start].encode()), len(text[:end].encode())) for start, end in spans]


def labelled(token_ranges: Sequence[Span], answers: Sequence[Span]) -> list[int]:
    """The indices of the tokens that overlap an answer: the ones that carry loss."""
    return [index for index, (start, end) in enumerate(token_ranges) if any(start < stop and end > begin for begin, stop in answers)]

"""The ids of a text, several times faster than from the `tokenizers` library and equal to its: every word is looked up, not merged anew.

Byte-pair merges never reach across the borders of words. For byte-level vocabularies the words are the pre-tokenizer's pieces. For
SentencePiece vocabularies without a piece that goes on behind a ▁ they are what lies between spaces. `word_encoder` gives nothing for a
tokenizer that is made in any other way, and `WordEncoder.encode` nothing for a text with a character that is not known to be split alike.
"""

from __future__ import annotations

import re
import struct
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

MAX_WORDS = 1 << 17  # kept in memory, some 30 MB
SPACE = "▁"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
BYTE = re.compile("<0x[0-9A-F]{2}>")
SPACED = re.compile(r" +[^ ]*|[^ ]+")
# Most vocabularies have no piece in which one of these meets another: letters of ASCII, its punctuation (and the carriage return), each
# digit and other control character. Whatever touches a character beyond ASCII stays together.
LETTER, SIGN, LONE = "A-Za-z", r"!-/:-@\[-`{-~\r", r"\x00-\x0c\x0e-\x1f0-9\x7f"
MEETING = re.compile(f"[{LETTER}][{SIGN}]|[{SIGN}][{LETTER}]|.[{LONE}]|[{LONE}].|[^ ] ", re.DOTALL)
APART = re.compile(f" *+(?:[{LETTER}]++(?![^\0-\x7f])|[{SIGN}]++(?![^\0-\x7f])|[^ {LONE}]++)|[{LONE}]| +")
# What a character is put between to see whether both ways of splitting take it for the same kind of character.
PROBES = ("a{0}a", "1{0}1", "!{0}!", "{0}{0}", " {0}", "{0} a", "\n{0}\n", "'{0}e", "'l{0}", "{0}'s", "{0}1", " {0}{0}!", "{0}  ")


class Encoded(NamedTuple):
    """The ids of a text, and where each begins and ends in it (bytes of UTF-8). What is put around the text has no width."""

    ids: NDArray[np.int32]  # (T,)
    starts: NDArray[np.int64]  # (T,)
    ends: NDArray[np.int64]  # (T,)


class Words(dict[str, bytes]):
    """The ids of each word met so far, as packed int32; `bad` is set by a word that the vocabulary cannot spell.

    Attributes:
        lengths: (V,) the bytes of text each id met so far stands for.
    """

    def __init__(self, tokenizer: Tokenizer, spell: Callable[[str], str], length: Callable[[str], int]) -> None:
        import numpy as np

        super().__init__()
        self._model, self._unknown = tokenizer.model, tokenizer.model.unk_token
        self._spell, self._length = spell, length
        self._known: dict[int, int] = {}
        self.lengths = np.zeros(1 + max(tokenizer.get_vocab_size(), *tokenizer.get_added_tokens_decoder(), 0), dtype=np.int64)
        self.bad = False

    def __missing__(self, word: str) -> bytes:
        tokens, num_bytes = self._model.tokenize(self._spell(word)), 0
        for token in tokens:
            if (length := self._known.get(token.id)) is None:
                length = self._length(token.value)
                self._known[token.id] = self.lengths[token.id] = length
            num_bytes += length
            self.bad |= token.value == self._unknown
        if num_bytes != (len(word) if word.isascii() else len(word.encode())):
            self.bad = True
        packed = struct.pack(f"={len(tokens)}i", *(token.id for token in tokens))
        if len(self) < MAX_WORDS and not self.bad:
            self[word] = packed
        return packed


@dataclass
class WordEncoder:
    """Encodes texts word by word."""

    words: Words
    split: Callable[[str], list[str]]  # a text between added tokens, into its words
    added: re.Pattern[str] | None  # finds the added tokens; group 1
    added_ids: dict[str, bytes]
    before: list[int]  # put in front of every text
    behind: list[int]
    has_prefix: bool  # a space is put in front of every text between added tokens
    is_known: Callable[[str], bool]  # whether the text is split alike here and there

    def encode(self, text: str) -> Encoded | None:
        """The ids of `text`; None where they are better asked from the tokenizer itself."""
        import numpy as np

        if not self.is_known(text):
            return None
        self.words.bad = False
        packed, firsts, at = [b""], list[int](), len(self.before)
        for number, part in enumerate(self.added.split(text) if self.added else (text,)):
            if number % 2:
                packed.append(self.added_ids[part])
            elif part:
                firsts.append(at)
                packed.append(b"".join(map(self.words.__getitem__, self.split(part))))
            at += len(packed[-1]) // 4 if number % 2 or part else 0
        if self.words.bad:
            return None
        inner = np.frombuffer(b"".join(packed), dtype=np.int32)
        lengths = self.words.lengths[inner]
        if self.has_prefix and firsts:
            lengths[np.array(firsts) - len(self.before)] -= 1
        ends = np.cumsum(lengths)
        starts = ends - lengths
        ends[lengths == 0] += 1  # a ▁ put in front of the text lies on its first character
        ids = np.concatenate([np.array(self.before, dtype=np.int32), inner, np.array(self.behind, dtype=np.int32)])
        around = (np.zeros(len(self.before), dtype=np.int64), np.full(len(self.behind), lengths.sum()))
        return Encoded(ids, np.concatenate([around[0], starts, around[1]]), np.concatenate([around[0], ends, around[1]]))


def word_encoder(tokenizer: Tokenizer) -> WordEncoder | None:
    """The fast way to `tokenizer`'s ids, if it is of a kind whose words can be told."""
    from tokenizers import models

    model, added = tokenizer.model, tokenizer.get_added_tokens_decoder()
    if not isinstance(model, models.BPE) or model.dropout or model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    if any(token.single_word or token.lstrip or token.rstrip or token.normalized for token in added.values()):
        return None
    if _trims(_fields(tokenizer.post_processor)) or (ends := _ends(tokenizer)) is None:
        return None
    kind = _spaced(tokenizer) or _byte_level(tokenizer)
    if kind is None:
        return None
    words = Words(tokenizer, kind.spell, kind.length)
    for token_id, token in added.items():
        words.lengths[token_id] = len(token.content.encode())
    names = sorted((token.content for token in added.values()), key=len, reverse=True)
    return WordEncoder(
        words=words,
        split=kind.split,
        added=re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None,
        added_ids={token.content: struct.pack("=i", token_id) for token_id, token in added.items()},
        before=ends[0],
        behind=ends[1],
        has_prefix=kind.has_prefix,
        is_known=kind.is_known,
    )


class Kind(NamedTuple):
    """How texts of a kind of vocabulary fall into words, and how those are written in it."""

    split: Callable[[str], list[str]]
    spell: Callable[[str], str]  # a word as the vocabulary writes it
    length: Callable[[str], int]  # of a piece of the vocabulary, in bytes of text
    has_prefix: bool
    is_known: Callable[[str], bool]


def _fields(component: Any) -> dict[str, Any] | None:
    """The settings of a part of the pipeline."""
    return None if component is None else orjson.loads(component.__getstate__())


def _trims(processor: dict[str, Any] | None) -> bool:
    """Whether the tokenizer leaves spaces out of the places of its tokens."""
    steps = [processor, *processor.get("processors", ())] if processor else []
    return any(step["type"] in ("ByteLevel", "RobertaProcessing") and step.get("trim_offsets", True) for step in steps)


def _ends(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """The ids that the tokenizer puts before and behind every text."""
    bare, whole = tokenizer.encode("a", add_special_tokens=False).ids, tokenizer.encode("a").ids
    at = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), None)
    return None if at is None or not bare else (whole[:at], whole[at + len(bare) :])


# --- SentencePiece ---------------------------------------------------------------------------------------------------------------------


def _spaced(tokenizer: Tokenizer) -> Kind | None:
    """A pipeline as `core.data.tokenizer.rebuild_sentencepiece` makes it."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefixed = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
    normalizer = _fields(tokenizer.normalizer)
    has_prefix = normalizer == prefixed
    if not (has_prefix or normalizer in (replace, {"type": "Sequence", "normalizers": [replace]})):
        return None
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    pieces = [piece for piece in tokenizer.get_vocab(with_added_tokens=False) if piece not in added and not BYTE.fullmatch(piece)]
    if tokenizer.pre_tokenizer is not None or not tokenizer.model.byte_fallback or any(SPACE in piece.lstrip(SPACE) for piece in pieces):
        return None
    find = (SPACED if any(MEETING.search(piece.replace(SPACE, " ")) for piece in pieces) else APART).findall
    prefix = " " if has_prefix else ""
    return Kind(
        split=lambda text: find(prefix + text),
        spell=lambda word: word.replace(" ", SPACE),
        length=lambda piece: 1 if BYTE.fullmatch(piece) else len(piece.replace(SPACE, " ").encode()),
        has_prefix=has_prefix,
        is_known=lambda text: SPACE not in text,
    )


# --- byte level ------------------------------------------------------------------------------------------------------------------------


def _byte_level(tokenizer: Tokenizer) -> Kind | None:
    """A pipeline like GPT-2's, Llama 3's and Qwen's: pieces by a regular expression, then their bytes as letters."""
    import regex

    normalizer, steps = _fields(tokenizer.normalizer), _fields(tokenizer.pre_tokenizer)
    is_composed = normalizer in ({"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]})
    if steps is None or not (is_composed or normalizer in (None, {"type": "Sequence", "normalizers": []})):
        return None
    pattern = _pattern(steps.get("pretokenizers", [steps]))
    if pattern is None:
        return None
    try:
        compiled = regex.compile(pattern)
    except regex.error:
        return None
    letters = byte_letters()
    known = Known(tokenizer, compiled, is_composed)
    if not known.holds("".join(map(chr, range(128)))):
        return None
    return Kind(compiled.findall, lambda word: "".join([letters[byte] for byte in word.encode()]), len, False, known.holds)


def _pattern(steps: list[dict[str, Any]]) -> str | None:
    """The regular expression of a pre-tokenizer that splits by one."""
    *before, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not before:
        return GPT_2 if last["use_regex"] else None
    split = before[0]
    if len(before) > 1 or split["type"] != "Split" or last["use_regex"]:
        return None
    return split["pattern"].get("Regex") if split["behavior"] == "Isolated" and not split["invert"] else None


class Known:
    """The characters that the `regex` library takes for the same kind of character as the tokenizer's own regular expressions do."""

    def __init__(self, tokenizer: Tokenizer, pattern: Any, is_composed: bool) -> None:
        self._tokenizer, self._pattern, self._is_composed = tokenizer, pattern, is_composed
        self._same: set[str] = set()
        self._other: set[str] = set()

    def holds(self, text: str) -> bool:
        """Whether every character of `text` is one of them, and the tokenizer would not compose any."""
        if text.isascii() and self._same:
            return True
        for character in set(text) - self._same:
            if character in self._other or not self._is_same(character):
                self._other.add(character)
                return False
            self._same.add(character)
        return not self._is_composed or unicodedata.is_normalized("NFC", text)

    def _is_same(self, character: str) -> bool:
        if unicodedata.category(character) in ("Cn", "Cs"):  # not assigned in this Python's tables, or half a character
            return False
        return all(self._splits_alike(probe.format(character)) for probe in PROBES)

    def _splits_alike(self, text: str) -> bool:
        theirs = [place for _, place in self._tokenizer.pre_tokenizer.pre_tokenize_str(text)]
        return theirs == [match.span() for match in self._pattern.finditer(text)]


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's `bytes_to_unicode`)."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + number) for number, byte in enumerate(others)}

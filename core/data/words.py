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
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

MAX_WORDS = 1 << 17  # kept in memory, some 30 MB
SPACE = "▁"
GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPACED = re.compile(r" +[^ ]*|[^ ]+")
# What a character is put between to see whether both ways of splitting take it for the same kind of character.
PROBES = ("a{0}a", "1{0}1", "!{0}!", "{0}{0}", " {0}", "{0} a", "\n{0}\n", "'{0}e", "'l{0}", "{0}'s", "{0}1", " {0}{0}!", "{0}  ")


class Encoded(NamedTuple):
    """The ids of a text, and where each begins and ends in it (bytes of UTF-8). What is put around the text has no width."""

    ids: NDArray[np.int32]  # (T,)
    starts: NDArray[np.int64]  # (T,)
    ends: NDArray[np.int64]  # (T,)


class Words(dict[str, bytes]):
    """The ids of each word met so far, as packed int32; `bad` is set by a word that has none."""

    def __init__(self, encode: Callable[[str], list[int] | None]) -> None:
        super().__init__()
        self._encode = encode
        self.bad = False

    def __missing__(self, word: str) -> bytes:
        ids = self._encode(word)
        if ids is None:
            self.bad = True
            return b""
        packed = struct.pack(f"={len(ids)}i", *ids)
        if len(self) < MAX_WORDS:
            self[word] = packed
        return packed


@dataclass
class WordEncoder:
    """Encodes texts word by word."""

    words: Words
    split: Callable[[str], list[str]]  # a text between added tokens, into its words
    added: re.Pattern[str] | None  # finds the added tokens; group 1
    added_ids: dict[str, bytes]
    lengths: NDArray[np.int64]  # (V,) bytes of text each id stands for
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
        lengths = self.lengths[inner]
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
    fields: dict[str, Any] = orjson.loads(tokenizer.to_str())
    model, added = fields["model"], fields["added_tokens"]
    is_plain = model.get("type") == "BPE" and not any(
        model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if not is_plain or any(token["single_word"] or token["lstrip"] or token["rstrip"] or token["normalized"] for token in added):
        return None
    if _trims(fields["post_processor"]) or (ends := _ends(tokenizer)) is None:
        return None
    kind = _spaced(fields, tokenizer) or _byte_level(fields, tokenizer)
    if kind is None:
        return None
    names = sorted((token["content"] for token in added), key=len, reverse=True)
    lengths = _lengths(model["vocab"], added, kind.length)
    return WordEncoder(
        words=Words(partial(_checked, kind.encode, lengths.tolist(), model["vocab"].get(model.get("unk_token")))),
        split=kind.split,
        added=re.compile("(" + "|".join(map(re.escape, names)) + ")") if names else None,
        added_ids={token["content"]: struct.pack("=i", token["id"]) for token in added},
        lengths=lengths,
        before=ends[0],
        behind=ends[1],
        has_prefix=kind.has_prefix,
        is_known=kind.is_known,
    )


def _checked(encode: Callable[[str], list[int]], lengths: list[int], unknown: int | None, word: str) -> list[int] | None:
    """The ids of `word`, unless they do not spell it."""
    ids = encode(word)
    num_bytes = len(word) if word.isascii() else len(word.encode("utf-8", "surrogatepass"))
    return ids if unknown not in ids and sum([lengths[token_id] for token_id in ids]) == num_bytes else None


def _lengths(vocabulary: dict[str, int], added: list[dict[str, Any]], length: Callable[[str], int]) -> NDArray[np.int64]:
    import numpy as np

    size = 1 + max((*vocabulary.values(), *(token["id"] for token in added)))
    lengths = np.zeros(size, dtype=np.int64)
    for piece, token_id in vocabulary.items():
        lengths[token_id] = length(piece)
    for token in added:
        lengths[token["id"]] = len(token["content"].encode())
    return lengths


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


class Kind(NamedTuple):
    split: Callable[[str], list[str]]
    encode: Callable[[str], list[int]]  # one word
    length: Callable[[str], int]  # of a piece of the vocabulary, in bytes of text
    has_prefix: bool
    is_known: Callable[[str], bool]


def _spaced(fields: dict[str, Any], tokenizer: Tokenizer) -> Kind | None:
    """A pipeline as `core.data.tokenizer.rebuild_sentencepiece` makes it."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefixed = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]}
    normalizer, model = fields["normalizer"], fields["model"]
    has_prefix = normalizer == prefixed
    if fields["pre_tokenizer"] is not None or not (has_prefix or normalizer in (replace, {"type": "Sequence", "normalizers": [replace]})):
        return None
    joined = ("".join(merge) if isinstance(merge, list) else merge.replace(" ", "", 1) for merge in model["merges"])
    if not model["byte_fallback"] or any(SPACE in piece.lstrip(SPACE) for piece in joined):
        return None
    prefix, pieces = " " if has_prefix else "", tokenizer.model

    def split(text: str) -> list[str]:
        return SPACED.findall(prefix + text.replace(SPACE, " "))

    def encode(word: str) -> list[int]:
        return [token.id for token in pieces.tokenize(word.replace(" ", SPACE))]

    def length(piece: str) -> int:
        return 1 if re.fullmatch("<0x[0-9A-F]{2}>", piece) else len(piece.replace(SPACE, " ").encode())

    return Kind(split, encode, length, has_prefix, lambda text: SPACE not in text)


# --- byte level ------------------------------------------------------------------------------------------------------------------------


def _byte_level(fields: dict[str, Any], tokenizer: Tokenizer) -> Kind | None:
    """A pipeline like GPT-2's, Llama 3's and Qwen's: pieces by a regular expression, then their bytes as letters."""
    import regex

    normalizer, steps = fields["normalizer"], fields["pre_tokenizer"]
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
    letters, model = byte_letters(), tokenizer.model

    def encode(word: str) -> list[int]:
        return [token.id for token in model.tokenize("".join([letters[byte] for byte in word.encode()]))]

    known = Known(tokenizer, compiled, is_composed)
    return Kind(compiled.findall, encode, len, False, known.holds) if known.holds("".join(map(chr, range(128)))) else None


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

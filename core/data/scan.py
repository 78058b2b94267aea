"""Where JSON values end in a text that may be broken, and where the next record begins after a broken one."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from core.data.parse import MAX_DEPTH, STRING, Parsed, parse

# The keys that hold a record's turns, in the layouts this project reads; and keys that records usually begin with.
TURNS_KEYS = ("conversations", "conversation", "messages")
FIRST_KEYS = ("id", *TURNS_KEYS, "system")
TURN_KEYS = frozenset(("from", "role", "value", "content", "text"))
SPACE = re.compile(rb"[ \t\r\n]*+")
SEPARATOR = re.compile(rb"[ \t\r\n,]*+")
SCALAR = re.compile(STRING + rb'|[^ \t\r\n,\[\]{}"]++')
KEY_COLON = re.compile(rb"[ \t\r\n]*+:")
FIRST_KEY = re.compile(rb'\{[ \t\r\n]*+"([^"\\\n]*+)"')
MAX_LEARNED = 16
CLOSER = {0x7B: 0x7D, 0x5B: 0x5D}  # { and }, [ and ]
QUOTE = 0x22


class End(NamedTuple):
    """How the scan of one value ended, and where.

    `complete`: just behind the value. `record`: at something inside that looks like the start of the next record. `likely`: at an object
    inside with the keys of an earlier row, which may be the next one or belong to this one. `broken`: at a bracket that closes nothing.
    `open`: the text ended first.
    """

    kind: Literal["complete", "record", "likely", "broken", "open"]
    at: int


class Starts:
    """Finds where records begin: by the key they begin with (the usual ones and those seen in this file) or by their indentation.

    A quote inside a JSON string is escaped and a line end is written ``\\n``, so neither can be met inside a valid text.
    """

    def __init__(self) -> None:
        self._keys: dict[str, None] = dict.fromkeys(FIRST_KEYS)
        self._shapes: set[frozenset[str]] = set()  # the keys of rows in other layouts than conversations
        self._indent = b""
        self._compile()

    def _compile(self) -> None:
        start = rb'\{(?=[ \t\r\n]*+"(?:' + b"|".join(re.escape(key.encode()) for key in self._keys) + rb")\b)"
        start += rb"|(?<=\n" + re.escape(self._indent) + rb")\{"
        self.pattern = re.compile(start)
        self.tokens = re.compile(STRING + rb"|(" + start + rb")|[{}\[\]]")

    def stand_after(self, gap: bytes) -> None:
        """Remember the indentation of a record that stands behind `gap` on a line of its own."""
        indent = gap.rpartition(b"\n")[2] if b"\n" in gap else b""
        if indent != self._indent and len(indent) <= 16 and not indent.strip(b" \t"):
            self._indent = indent
            self._compile()

    def learn(self, raw: bytes, value: Any) -> None:
        """Remember the keys of a good row."""
        if type(value) is not dict or is_turn(value):
            return
        if len(self._shapes) < MAX_LEARNED and not is_record(value):
            self._shapes.add(frozenset(value))
        if len(self._keys) < MAX_LEARNED and (match := FIRST_KEY.match(raw)):
            key = match[1].decode("utf-8", "replace")
            if key not in self._keys and key not in TURN_KEYS:
                self._keys[key] = None
                self._compile()

    def is_row(self, value: Any) -> bool:
        """Whether `value` is a record or has exactly the keys of an earlier row."""
        return is_record(value) or (type(value) is dict and frozenset(value) in self._shapes)


def is_record(value: Any) -> bool:
    return type(value) is dict and any(key in value for key in TURNS_KEYS)


def is_turn(value: Any) -> bool:
    return type(value) is dict and not is_record(value) and any(key in TURN_KEYS for key in value)


def find_end(data: bytes, start: int, stop: int, starts: Starts, ends_at_records: bool = False, max_depth: int | None = None) -> End:
    """Scan the value that begins at `start`, no further than `stop`, or than something inside that looks like the next record.

    Whole objects that begin as records do and are none belong to the value. Brackets deeper than `max_depth` are taken for broken.
    """
    if data[start : start + 1] not in (b"{", b"["):
        match = SCALAR.match(data, start, stop)
        if match is None or KEY_COLON.match(data, match.end()):
            return End("broken", start)
        return End("complete" if match.end() < stop else "open", match.end())
    expected, seen_until = bytearray(), start
    for token in starts.tokens.finditer(data, start, stop):
        at = token.start()
        first = data[at]
        if first == QUOTE or at < seen_until:
            continue
        if ends_at_records and expected and token[1] is not None and not _is_nested(data, at):
            inner = parse_at(data, at, starts)
            if inner is None or starts.is_row(inner[1].value):
                return End("likely" if inner and not is_record(inner[1].value) else "record", at)
            seen_until = inner[0]
        elif first in CLOSER:
            expected.append(CLOSER[first])
            if len(expected) == max_depth:
                return End("broken", at)
        elif expected.pop() != first:
            return End("broken", at)
        elif not expected:
            return End("complete", token.end())
    return End("open", stop)


def _is_nested(data: bytes, at: int) -> bool:
    """Whether the object at `at` is the value of a key or the first of a list: then it is no record of the outer list."""
    at -= 1
    while at >= 0 and data[at] in b" \t\r\n":
        at -= 1
    return at >= 0 and data[at] in b":["


def parse_at(data: bytes, start: int, starts: Starts) -> tuple[int, Parsed] | None:
    """The end and the value of what stands at `start`, when it lies whole in `data` and can be read; else None."""
    end = find_end(data, start, len(data), starts, max_depth=MAX_DEPTH + 1)
    if end.kind != "complete":
        return None
    parsed = parse(data[start : end.at])
    return (end.at, parsed) if parsed.is_readable else None


def next_record(data: bytes, after: int, stop: int, starts: Starts, is_sure: bool = False) -> int | None:
    """Where the next record begins behind `after`, by its first key; nested objects, and whole ones that are no rows, are passed over.

    With `is_sure` only what can be nothing else than a record counts, not every object with the keys of an earlier row.
    """
    seen_until = after
    for match in starts.pattern.finditer(data, after + 1, stop):
        if match.start() < seen_until or _is_nested(data, match.start()):
            continue
        inner = parse_at(data, match.start(), starts)
        if inner is None or is_record(inner[1].value) or (not is_sure and starts.is_row(inner[1].value)):
            return match.start()
        seen_until = inner[0]
    return None

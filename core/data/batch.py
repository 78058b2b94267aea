"""Many good records at once: a piece of a file that is parsed in one go, and proved by counting to hold nothing worth a finding.

The proof rests on three facts about strictly valid JSON. A quote inside a string is escaped, so what looks like the start of a record
is one. Records and turns that have exactly their usual keys have a known number of quotes of their own, so one quote too many is a key
given twice. And what must not stand in a value can be written in a few ways only, all of which are searched for in the raw bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
from ahocorasick_rs import BytesAhoCorasick

from core.conversation import ROLE_ALIASES, Conversation, Role, Turn
from core.data.cursor import Cursor, Record
from core.data.records import ROLE_KEYS, VALUE_KEYS
from core.data.scan import SEPARATOR, SPACE, TURNS_KEYS, Starts, find_end
from core.data.source import Encoding

BATCH_BYTES = 1 << 17
SMALLEST_SHARE = 3  # a piece in which something was found is tried again in pieces of 1/2**3 of that
MAX_REST = 9  # after failures, at most 2**9 of the smallest pieces are read record by record before the next try
BLANK = b" \t\r\n"
QUOTE, BACKSLASH, LINE_END = 0x22, 0x5C, 0x0A
# An escaped backslash comes first: where it is found, what stands behind it is no escape.
SUSPECTS = BytesAhoCorasick(
    [b"\\\\", b"</s>", b"<s>", b"<unk>", b"ASSISTANT:", b"\\b", b"\\f", b"\\/s>", *(b"\\u00%d" % digit for digit in range(10))]
)
C1_CONTROL = re.compile(rb"\xc2[\x80-\x9f]")


class Columns(NamedTuple):
    """What the records of a batch hold, column by column."""

    ids: list[str]
    lengths: list[int]  # turns of each record
    roles: list[Role]  # of all turns, one record after the other
    contents: list[str]
    num_line_ends: int  # in the text


class Layout(NamedTuple):
    """The keys that a file's records use."""

    turns_key: str
    role_key: str
    value_key: str

    @property
    def name(self) -> str:
        return f"{self.turns_key} ({self.role_key}/{self.value_key})"


def layout_of(value: Any) -> Layout | None:
    """The layout of a record whose first turn has two keys only; None for anything else."""
    turns_key = next((key for key in TURNS_KEYS if key in value), None) if type(value) is dict else None
    turns = value[turns_key] if turns_key else None
    turn = turns[0] if type(turns) is list and turns else None
    if turns_key is None or type(turn) is not dict or len(turn) != 2:
        return None
    role_key = next((key for key in ROLE_KEYS if key in turn), None)
    value_key = next((key for key in VALUE_KEYS if key in turn), None)
    return Layout(turns_key, role_key, value_key) if role_key and value_key else None


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that follow each other, every one fit for training and without any finding."""

    row: int  # of the first; 0-based
    line: int
    byte: int
    raw: bytes  # from the first record's opening brace to the last one's closing brace
    joint: bytes  # what usually stands between two records, see `Batches`
    encoding: Encoding
    layout: Layout
    values: list[dict[str, Any]]
    columns: Columns

    def __len__(self) -> int:
        return len(self.values)

    def records(self) -> Iterator[Record]:
        """Each record with its row, line and byte."""
        line, byte, at = self.line, self.byte, 0
        for number, (start, end) in enumerate(self._places()):
            skipped = self.raw[at:start]
            line, byte, at = line + skipped.count(b"\n"), byte + self.encoding.original_length(skipped), start
            yield Record(self.row + number, line, byte, self.raw[start:end], self.values[number], True, ())

    def conversations(self) -> Iterator[Conversation]:
        ids, lengths, roles, contents, _ = self.columns
        at = 0
        for identifier, length in zip(ids, lengths, strict=True):
            end = at + length
            yield Conversation(identifier, tuple(map(Turn, roles[at:end], contents[at:end])))
            at = end

    def _places(self) -> Iterator[tuple[int, int]]:
        """(start, end) of each record in `raw`: by the joint where it stands between all of them, else by their brackets."""
        if self.joint and self.raw.count(self.joint) == len(self) - 1:
            start, step = 0, self.joint.rindex(b"{")
            while (end := self.raw.find(self.joint, start)) >= 0:
                yield start, end + 1
                start = end + step
            yield start, len(self.raw)
            return
        start, starts = 0, Starts()
        for _ in range(len(self)):
            end = find_end(self.raw, start, len(self.raw), starts).at
            yield start, end
            match = SEPARATOR.match(self.raw, end)
            assert match
            start = match.end()


class Batches:
    """Tries to take the records ahead of `cursor` in pieces. Where that fails, the next pieces are left to whoever reads one by one."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._layout: Layout | None = None
        self._share = 0  # pieces are BATCH_BYTES >> share
        self._failures = 0  # of smallest pieces, since a piece was taken
        self._rest_until = 0  # original byte

    def learn(self, record: Record) -> None:
        """Take a good record's layout for that of the file, until batches of another one turn up."""
        if self._failures or self._layout is None:
            self._layout = layout_of(record.value) or self._layout

    def fill(self) -> None:
        """Have as much text in reach as a piece may hold."""
        self._cursor.ensure(BATCH_BYTES)

    def of_list(self, start: int, joint: bytes) -> Batch | None:
        """The records from `start` to the last one in reach that `joint` (from ``}`` to the next record's first key) stands behind."""
        end = self._reach(joint, start) + 1
        first_key = joint[joint.rindex(b"{") + 1 :].strip(BLANK)
        if end == 0 or self._layout is None or self._rests() or not self._is_own_key(first_key):
            return None
        raw = self._cursor.data[start:end]
        try:
            values = orjson.loads(b"".join((b"[", raw, b"]")))
        except orjson.JSONDecodeError:
            values = None
        return self._take(start, raw, joint, values)

    def of_lines(self) -> Batch | None:
        """The records of the lines from here to the last whole one in reach, if each begins as the first one does."""
        self.fill()
        data = self._cursor.data
        match = SPACE.match(data, self._cursor.pos)
        assert match
        start = match.end()
        end = self._reach(b"\n", start)
        quote = data.find(b'"', start + 2, start + 64)
        if end < 0 or quote < 0 or self._layout is None or self._rests():
            return None
        beginning = data[start : quote + 1]  # {"id"
        raw = data[start:end].rstrip(BLANK)
        lines = raw.split(b"\n")
        values = None
        if self._is_own_key(beginning[1:].strip(BLANK)) and all(line.startswith(beginning) for line in lines):
            try:
                values = orjson.loads(b"[" + b",".join(lines) + b"]")
            except orjson.JSONDecodeError:
                values = None
        if values is not None and len(values) != len(lines):
            values = None
        return self._take(start, raw, b"}\n" + beginning, values)

    def _reach(self, mark: bytes, start: int) -> int:
        """Where the last `mark` of the piece from `start` on stands; the piece grows where records are longer than it. -1: nowhere."""
        while (at := self._cursor.data.rfind(mark, start, start + (BATCH_BYTES >> self._share))) < 0 and self._share:
            self._share -= 1
        return at

    def _is_own_key(self, quoted: bytes) -> bool:
        """Whether `quoted` is a key of records and not of turns: then no turn can be taken for a record."""
        assert self._layout
        return quoted in (b'"id"', b'"system"', b'"%s"' % self._layout.turns_key.encode())

    def _rests(self) -> bool:
        """Whether what stands here is left to others, because too little of what came before it was good."""
        return self._cursor.byte < self._rest_until

    def _fail(self, length: int) -> None:
        """A piece of `length` bytes was not as it should be: take smaller ones next, or let some be read record by record."""
        if self._share < SMALLEST_SHARE:
            self._share = SMALLEST_SHARE
            return
        self._rest_until = self._cursor.byte + (length << min(self._failures, MAX_REST))
        self._failures += 1

    def _take(self, start: int, raw: bytes, joint: bytes, values: list[Any] | None) -> Batch | None:
        assert self._layout
        columns = None if values is None else read_columns(raw, values, self._layout)
        if values is None or columns is None:
            self._fail(len(raw))
            return None
        self._failures = 0
        self._share = max(0, self._share - 1)
        cursor = self._cursor
        cursor.advance(start)
        batch = Batch(cursor.row, cursor.line, cursor.byte, raw, joint, cursor.encoding, self._layout, values, columns)
        cursor.row += len(values)
        cursor.advance(start + len(raw), columns.num_line_ends)
        return batch


def read_columns(raw: bytes, values: list[Any], layout: Layout) -> Columns | None:
    """What the records `values` of the text `raw` hold, if all of them are as they should be; else None."""
    try:
        ids: list[str] = list(map(itemgetter("id"), values))
        talks: list[list[dict[str, str]]] = list(map(itemgetter(layout.turns_key), values))
        turns = list(chain.from_iterable(talks))
        contents = list(map(itemgetter(layout.value_key), turns))
        roles = list(map(ROLE_ALIASES.get, map(itemgetter(layout.role_key), turns)))
    except (KeyError, TypeError):  # something else than objects and lists of objects, or an empty one in their place
        return None
    if set(map(len, values)) != {2} or set(map(len, turns)) != {2}:
        return None
    if set(map(type, ids)) != {str} or set(map(type, contents)) != {str} or not all(contents) or any(map(str.isspace, contents)):
        return None
    lengths = list(map(len, talks))
    num_quotes, num_line_ends = _count(raw)
    if not _alternate(roles, lengths) or num_quotes != 6 * len(values) + 8 * len(turns):
        return None
    return Columns(ids, lengths, roles, contents, num_line_ends)  # pyright: ignore[reportArgumentType] (roles that alternate are no None)


def _alternate(roles: list[str | None], lengths: list[int]) -> bool:
    """Whether every conversation has an optional system turn, then questions and answers in turn, an answer last."""
    num_pairs = len(roles) // 2
    if roles[::2].count("user") == num_pairs and roles[1::2].count("assistant") == num_pairs:
        return not any(length % 2 for length in lengths) and all(lengths)
    at = 0
    for length in lengths:
        first = at + 1 if length and roles[at] == "system" else at
        at += length
        num_pairs = (at - first) // 2
        if (at - first) % 2 or num_pairs == 0 or roles[first:at:2].count("user") != num_pairs:
            return False
        if roles[first + 1 : at : 2].count("assistant") != num_pairs:
            return False
    return True


def _count(raw: bytes) -> tuple[int, int]:
    """How many quotes of `raw` begin or end a string, -1 if a value may hold something that a rule looks for; and its line ends."""
    import numpy as np

    if b"\x7f" in raw or (b"\xc2" in raw and C1_CONTROL.search(raw)):
        return -1, 0
    suspects = SUSPECTS.find_matches_as_indexes(raw)  # none overlaps another
    if any(number for number, _, _ in suspects):
        return -1, 0
    characters = np.frombuffer(raw, dtype=np.uint8)
    num_line_ends = int(np.count_nonzero(characters == LINE_END))
    if suspects:
        characters = np.frombuffer(raw.replace(b"\\\\", b""), dtype=np.uint8)
    is_backslash = characters == BACKSLASH
    return int(np.count_nonzero((characters == QUOTE)[1:] > is_backslash[:-1])), num_line_ends

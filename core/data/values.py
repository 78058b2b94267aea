"""The records of a JSON list (or of objects one after the other), also when some are broken: the reading goes on at the next one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from core.data.batch import Batch, Batches
from core.data.cursor import KEPT_BYTES, MAX_RECORD_BYTES, Cursor, Record
from core.data.parse import STRING, Parsed, may_be_cut, parse, parse_valid
from core.data.rules import Finding, shorten
from core.data.scan import SEPARATOR, End, Starts, find_end, is_record, is_turn, next_record, parse_at

PATIENCE_BYTES = 1 << 16
SURE_BYTES = 1 << 20  # read before an object with the keys of an earlier row is taken for the next row, and not for a part of this one
BETWEEN = b" \t\r\n,"
JOINT = re.compile(rb'\}[ \t\r\n]*+(?:,[ \t\r\n]*+)?(\{[ \t\r\n]*+"[^"\\\n]*+")')
# {"version": 1, "data": [ before the first record: an object around the list
MEMBERS = rb"(?:\s*+" + STRING + rb"\s*+:\s*+(?:" + STRING + rb"|[\w.+-]++)\s*+,)*+\s*+"  # plain ones, each with its comma
WRAPPER = re.compile(rb"\{" + MEMBERS + rb'("[^"\\\n]*+")\s*+:\s*+\[\s*+(?=\{)')
NEXT_LIST = re.compile(rb"\s*+," + MEMBERS + rb'("[^"\\\n]*+")\s*+:\s*+\[\s*+(?=\{)')
WRAPPER_END = re.compile(rb"(?:\s*+," + MEMBERS + STRING + rb"\s*+:\s*+(?:" + STRING + rb"|[\w.+-]++))?+\s*+\}")


class ListReader:
    """Yields the records of `cursor`'s text, one or many at a time, from a list's bracket or from the first object on."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._starts = Starts()
        self._batches = Batches(cursor)
        self._joint = b""  # what stands between two records in this file, from } to the next record's first key
        self._joint_step = 0  # how far behind the joint's start the next record begins
        self._no_joint_before = 0  # byte offset up to which the joint is known to be of no use
        self._in_list = False
        self._is_first = True
        self._is_wrapped = False
        self._is_cut = False
        self._noted: set[str] = set()

    def __iter__(self) -> Iterator[Record | Batch]:
        self._enter()
        while True:
            commas = self._skip_separator()
            cursor = self._cursor
            if cursor.pos == len(cursor.data):
                break
            if self._in_list and cursor.data.startswith(b"]", cursor.pos):
                self._leave(commas)
                continue
            record = self._with_separator(commas, self._read_one())
            yield record
            if record.is_readable:
                self._starts.learn(record.raw, record.value)
                self._batches.learn(record)
                yield from self._run(record)
        if self._in_list and not self._is_cut:
            self._cursor.note("truncated-file", text="the list is not closed")

    def _enter(self) -> None:
        """Step over the list's opening bracket, and over an object around it."""
        cursor = self._cursor
        if cursor.data.startswith(b"[", cursor.pos):
            self._in_list = True
            cursor.advance(cursor.pos + 1)
        elif wrapper := wrapped_list(cursor):
            self._note_once("object-not-list", _text(wrapper[1]))
            self._in_list = self._is_wrapped = True
            cursor.advance(wrapper.end())

    def _leave(self, commas: int) -> None:
        """Step over the list's closing bracket, and account for what follows it."""
        cursor = self._cursor
        if commas:
            cursor.note("trailing-comma", text=shorten(_text(cursor.data[max(0, cursor.pos - 20) : cursor.pos + 1])))
        self._in_list, self._is_first = False, True
        cursor.advance(cursor.pos + 1)
        cursor.ensure(PATIENCE_BYTES)
        if self._is_wrapped:
            if following := NEXT_LIST.match(cursor.data, cursor.pos):
                self._in_list = True
                cursor.advance(following.end())
                return
            self._is_wrapped = False
            self._leave_wrapper()
        self._skip_separator()
        if cursor.pos < len(cursor.data):
            self._note_once("content-after-list", shorten(_text(cursor.data[cursor.pos : cursor.pos + 60])))
            self._enter()

    def _leave_wrapper(self) -> None:
        """Step over what else the object around the list holds, as far as it can be read."""
        cursor = self._cursor
        if end := WRAPPER_END.match(cursor.data, cursor.pos):
            cursor.advance(end.end())
            return
        opening = b'{"":0'
        rest = parse_at(opening + cursor.data[cursor.pos : cursor.pos + MAX_RECORD_BYTES], 0, self._starts)
        if rest:
            self._note_once("content-after-list", shorten(_text(cursor.data[cursor.pos : cursor.pos + 60])))
            cursor.advance(cursor.pos + rest[0] - len(opening))

    def _note_once(self, code: str, text: str) -> None:
        if code not in self._noted:
            self._noted.add(code)
            self._cursor.note(code, text=text)

    def _skip_separator(self) -> int:
        """Step over white space and commas; how many commas there were."""
        cursor, gap = self._cursor, b""
        while True:
            match = SEPARATOR.match(cursor.data, cursor.pos)
            assert match
            gap = gap[-KEPT_BYTES:] + match[0]
            cursor.advance(match.end())
            if cursor.pos < len(cursor.data) or not cursor.more():
                self._starts.stand_after(gap)
                return gap.count(b",")

    def _with_separator(self, commas: int, record: Record) -> Record:
        expected = 1 if self._in_list and not self._is_first else 0
        self._is_first = False
        if commas == expected:
            return record
        found = "no comma" if commas == 0 else "one comma" if commas == 1 else f"{commas} commas"
        return record._replace(findings=(*record.findings, Finding("misplaced-comma", {"text": found})))

    def _run(self, before: Record) -> Iterator[Record | Batch]:
        """The records after `before` as long as they are joined as usual and valid: found by a plain search, checked by parsing."""
        cursor = self._cursor
        if cursor.byte < self._no_joint_before or not self._learn_joint(before):
            return
        while True:
            self._batches.fill()
            data = cursor.data
            if not data.startswith(self._joint[1:], cursor.pos):
                return
            start = cursor.pos - 1 + self._joint_step
            if batch := self._batches.of_list(start, self._joint):
                yield batch
                continue
            end = data.find(self._joint, start) + 1
            if end == 0:
                return
            # A valid object cannot be the beginning of a longer one, so what parses is the record.
            if (parsed := parse_valid(data[start:end])) is None:
                self._no_joint_before = cursor.byte + end - cursor.pos
                return
            cursor.advance(start)
            yield cursor.take(end, parsed)

    def _learn_joint(self, before: Record) -> bool:
        cursor = self._cursor
        if self._joint and cursor.data.startswith(self._joint, cursor.pos - 1):
            return True
        match = JOINT.match(cursor.data, cursor.pos - 1)
        if not match or not self._starts.is_row(before.value) or (b"," in match[0][: match.start(1) - match.start()]) != self._in_list:
            return False
        self._joint, self._joint_step = match[0], match.start(1) - match.start()
        return True

    def _read_one(self) -> Record:
        """The record that begins here, with as much text as it takes."""
        cursor, patience = self._cursor, PATIENCE_BYTES
        while True:
            cursor.ensure(patience)
            stop = min(len(cursor.data), cursor.pos + patience)
            end = self._find_end(stop)
            is_whole = stop == len(cursor.data) and cursor.at_end
            if end.kind != "open" or is_whole:
                break
            if next_record(cursor.data, cursor.pos, stop, self._starts, is_sure=patience < SURE_BYTES) is not None:
                break  # a quote is missing: the next record can already be seen
            if patience >= MAX_RECORD_BYTES:
                return _too_long(cursor, self._starts)
            patience *= 4
        if end.kind == "complete" or (end.kind == "open" and is_whole):
            parsed = parse(cursor.data[cursor.pos : end.at])
            if parsed.is_readable:
                return cursor.take(end.at, parsed)
        return self._broken(end)

    def _find_end(self, stop: int) -> End:
        """As `find_end`, up to what looks like the next record; what only may be one counts if this one is not whole with it."""
        data, start = self._cursor.data, self._cursor.pos
        end = find_end(data, start, stop, self._starts, ends_at_records=True)
        if end.kind != "likely":
            return end
        whole = find_end(data, start, stop, self._starts)
        if whole.kind == "open" and stop - start < SURE_BYTES and not (stop == len(data) and self._cursor.at_end):
            return whole
        if whole.kind == "complete" and parse(data[start : whole.at]).is_readable:
            return whole
        return End("record", end.at)

    def _broken(self, end: End) -> Record:
        """The unreadable record that begins here. It lasts until the next record can be made out."""
        cursor = self._cursor
        offset = end.at - cursor.pos
        while (stop := self._resume_at(offset if end.kind == "complete" else None)) is None:
            if len(cursor.data) - cursor.pos > MAX_RECORD_BYTES:
                return _too_long(cursor, self._starts)
            cursor.more()
        raw = cursor.data[cursor.pos : stop].rstrip(BETWEEN) or cursor.data[cursor.pos : cursor.pos + 1]
        parsed = parse(raw)
        is_cut = end.kind == "open" and cursor.at_end and stop == len(cursor.data)
        if is_cut and may_be_cut(raw, parsed):
            self._is_cut = True  # said once
            parsed = Parsed(None, False, (Finding("truncated-file", {"text": shorten(_text(raw[-60:]))}),))
        return cursor.take(cursor.pos + len(raw), parsed)

    def _resume_at(self, length: int | None) -> int | None:
        """Where to go on after a broken record of the apparent `length`; None when more text is needed to tell."""
        cursor, data = self._cursor, self._cursor.data
        end = len(data) if length is None else cursor.pos + length
        following = None if length is None else self._after(end)
        is_joined = type(following) is dict and not is_turn(following)
        if (start := next_record(data, cursor.pos, end, self._starts, is_sure=is_joined)) is not None:
            return start
        if is_joined:
            return end
        if (start := next_record(data, end - 1, len(data), self._starts)) is not None:
            return start
        if following is not None:
            return end
        if not cursor.at_end:
            return None
        rest = data.rstrip(BETWEEN)
        closes = self._in_list and rest.endswith(b"]") and len(rest) - 1 > cursor.pos
        return len(rest) - 1 if closes else len(data)

    def _after(self, end: int) -> Any:
        """The readable value that one comma separates from `end`; None when there is none."""
        match = SEPARATOR.match(self._cursor.data, end)
        if not match or match[0].count(b",") != 1:
            return None
        following = parse_at(self._cursor.data, match.end(), self._starts)
        return following[1].value if following else None


def wrapped_list(cursor: Cursor) -> re.Match[bytes] | None:
    """The beginning of an object around a list of records (group 1: the list's key), when the text begins with one."""
    wrapper = WRAPPER.match(cursor.data, cursor.pos)
    inner = parse_at(cursor.data, wrapper.end(), Starts()) if wrapper else None
    return wrapper if inner and is_record(inner[1].value) else None


def _too_long(cursor: Cursor, starts: Starts) -> Record:
    """A record beyond the limit: its beginning is kept, the rest passed over without holding it in memory."""
    head = cursor.data[cursor.pos : cursor.pos + KEPT_BYTES]
    fields: dict[str, object] = {"limit": f"{MAX_RECORD_BYTES >> 20} MB", "text": shorten(_text(head[:80]))}
    record = cursor.take(cursor.pos, Parsed(None, False, (Finding("record-too-long", fields),)))._replace(raw=head)
    while (start := next_record(cursor.data, cursor.pos, len(cursor.data), starts)) is None:
        at = max(cursor.pos, len(cursor.data) - 1024)  # a start may lie across the edge
        while at < len(cursor.data) and cursor.data[at] & 0xC0 == 0x80:  # inside a character
            at += 1
        cursor.advance(at)
        if not cursor.more():
            cursor.advance(len(cursor.data))
            return record
    cursor.advance(cursor.pos + len(cursor.data[cursor.pos : start].rstrip(BETWEEN)))
    return record


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")

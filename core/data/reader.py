"""The records of a Vicuna file, JSON list or JSONL, each with its exact row, line and byte; memory stays flat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from core.data.batch import Batch, Batches
from core.data.cursor import KEPT_BYTES, MAX_RECORD_BYTES, Cursor, FileFinding, Record
from core.data.parse import Parsed, may_be_cut, parse, parse_valid
from core.data.rules import Finding, shorten
from core.data.scan import FIRST_KEY, SPACE, Starts, find_end
from core.data.source import detect_encoding, refused_kind, utf8_chunks
from core.data.values import PATIENCE_BYTES, ListReader, wrapped_list

BLANK = b" \t\r\n"
LOOKED_LINES = 20  # behind a broken first one, for one that begins as it does


def read_records(
    path: Path,
    on_finding: Callable[[FileFinding], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Every row of the file, readable or not: nothing is left out and no input ends the reading early. Arguments as of `read_batches`."""
    for item in read_batches(path, on_finding, on_bytes):
        if isinstance(item, Batch):
            yield from item.records()
        else:
            yield item


def read_batches(
    path: Path,
    on_finding: Callable[[FileFinding], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Record | Batch]:
    """As `read_records`, but rows that follow each other and are good in every respect come together.

    Args:
        on_finding: called with each finding about the file as a whole.
        on_bytes: called with the bytes read so far.
    """
    tell = on_finding or (lambda _: None)
    if kind := refused_kind(path):
        tell(FileFinding(Finding("not-a-text-file", {"kind": kind})))
        return
    encoding = detect_encoding(path)
    if encoding.bom_bytes:
        tell(FileFinding(Finding("byte-order-mark", {"encoding": encoding.name.upper()})))
    if not encoding.is_utf8:
        tell(FileFinding(Finding("not-utf-8", {"encoding": encoding.name.upper()})))
    if encoding.likely:
        tell(FileFinding(Finding("other-encoding", {"encoding": encoding.likely})))
    cursor = Cursor(utf8_chunks(path, encoding, on_bytes), encoding)
    for item in _records(cursor):
        for finding in cursor.file_findings:
            tell(finding)
        cursor.file_findings.clear()
        yield item
    for finding in cursor.file_findings:
        tell(finding)
    if cursor.row == 0:
        size_bytes = path.stat().st_size - encoding.bom_bytes
        tell(FileFinding(Finding("no-records" if size_bytes > 0 else "empty-file")))


def _records(cursor: Cursor) -> Iterator[Record | Batch]:
    _skip_blank(cursor)
    cursor.ensure(PATIENCE_BYTES)
    if b"\r\n" in cursor.data[cursor.pos : cursor.pos + PATIENCE_BYTES]:
        cursor.note("crlf-line-ends")
    if _is_jsonl(cursor):
        yield from _lines(cursor)
    elif cursor.pos < len(cursor.data):
        yield from ListReader(cursor)


def _skip_blank(cursor: Cursor) -> None:
    while True:
        match = SPACE.match(cursor.data, cursor.pos)
        assert match
        cursor.advance(match.end())
        if cursor.pos < len(cursor.data) or not cursor.more():
            return


def _is_jsonl(cursor: Cursor) -> bool:
    """Whether the text is one record a line: no list, and its first line closes an object, or one soon after begins with the same key."""
    if cursor.data.startswith(b"[", cursor.pos) or cursor.pos == len(cursor.data) or wrapped_list(cursor):
        return False
    end = _line_end(cursor, 0)
    if end < 0:
        return parse_valid(cursor.data[cursor.pos :].rstrip(BLANK)) is not None or not cursor.data.startswith(b"{", cursor.pos)
    line = cursor.data[cursor.pos : cursor.pos + end].rstrip(BLANK)
    if not line.startswith(b"{") or line.rstrip(b",").endswith(b"}"):
        return True
    if (first := FIRST_KEY.match(line)) is None:
        return False
    for _ in range(LOOKED_LINES):
        start, end = end + 1, _line_end(cursor, end + 1)
        if (key := FIRST_KEY.match(cursor.data, cursor.pos + start)) and key[1] == first[1]:
            return True
        if end < 0:
            break
    return False


def _line_end(cursor: Cursor, start: int) -> int:
    """Where the line at `start` ends, both counted from where the cursor stands; -1 where the text, or what a record may have, ends before."""
    while (
        (end := cursor.data.find(b"\n", cursor.pos + start)) < 0
        and len(cursor.data) - cursor.pos - start < MAX_RECORD_BYTES
        and cursor.more()
    ):
        pass
    return end - cursor.pos if end >= 0 else -1


def _lines(cursor: Cursor) -> Iterator[Record | Batch]:
    batches = Batches(cursor)
    while True:
        if batch := batches.of_lines():
            yield batch
            continue
        data, pos = cursor.data, cursor.pos
        end = data.find(b"\n", pos)
        if (end if end >= 0 else len(data)) - pos > MAX_RECORD_BYTES:
            yield _too_long(cursor)
            continue
        if end < 0 and cursor.more():
            continue
        stop = end if end >= 0 else len(data)
        line = data[pos:stop].strip(BLANK)
        if line:
            cursor.advance(data.index(line[:1], pos))
            if parsed := parse_valid(line):
                record = cursor.take(cursor.pos + len(line), parsed)
                batches.learn(record)
                yield record
            else:
                yield from _odd_line(cursor, line, is_last=end < 0)
        if end < 0:
            return
        cursor.advance(end + 1)


def _odd_line(cursor: Cursor, line: bytes, is_last: bool) -> Iterator[Record]:
    """A line that is not one valid value: several values, one with a comma behind it, or a broken one."""
    if values := _several(line):
        for number, (raw, parsed) in enumerate(values):
            cursor.advance(cursor.data.index(raw, cursor.pos))
            extra = (Finding("shared-line"),) if number else ()
            yield cursor.take(cursor.pos + len(raw), parsed._replace(findings=(*parsed.findings, *extra)))
        return
    parsed = parse(line)
    if not parsed.is_readable and line.endswith(b",") and (bare := parse(line[:-1])).is_readable:
        parsed = bare._replace(findings=(*bare.findings, Finding("trailing-comma", {"text": shorten(_tail(line))})))
    if is_last and may_be_cut(line, parsed) and line[:1] in b"{[" and find_end(line, 0, len(line), Starts()).kind == "open":
        parsed = Parsed(None, False, (Finding("truncated-file", {"text": shorten(_tail(line))}),))
    yield cursor.take(cursor.pos + len(line), parsed)


def _several(line: bytes) -> list[tuple[bytes, Parsed]]:
    """The values of a line that holds two or more readable objects and nothing else; else an empty list."""
    values: list[tuple[bytes, Parsed]] = []
    at, starts = 0, Starts()
    while at < len(line):
        end = find_end(line, at, len(line), starts)
        if end.kind != "complete" or line[at : at + 1] != b"{" or not (parsed := parse(line[at : end.at])).is_readable:
            return []
        values.append((line[at : end.at], parsed))
        match = SPACE.match(line, end.at)
        assert match
        at = match.end()
    return values if len(values) > 1 else []


def _too_long(cursor: Cursor) -> Record:
    """A line beyond the limit: its beginning is kept, the rest passed over without holding it in memory."""
    head = cursor.data[cursor.pos : cursor.pos + KEPT_BYTES]
    fields: dict[str, object] = {"limit": f"{MAX_RECORD_BYTES >> 20} MB", "text": shorten(head[:80].decode("utf-8", "replace"))}
    record = cursor.take(cursor.pos, Parsed(None, False, (Finding("record-too-long", fields),)))._replace(raw=head)
    while (end := cursor.data.find(b"\n", cursor.pos)) < 0:
        cursor.advance(len(cursor.data))
        if not cursor.more():
            return record
    cursor.advance(end)
    return record


def _tail(line: bytes) -> str:
    return line[-60:].decode("utf-8", "replace")

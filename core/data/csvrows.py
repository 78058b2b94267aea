"""The rows of a CSV file one by one, each with the exact line and byte where it begins, also when quoted cells hold line ends."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from core.data.cursor import KEPT_BYTES, MAX_RECORD_BYTES, FileFinding, Record
from core.data.rules import Finding, around, shorten
from core.data.source import KEEP_BYTES, Encoding, detect_encoding, refused_kind, utf8_chunks

DELIMITERS = ",\t;|"
SAMPLE_LINES = 100
LINE = re.compile(rb"[^\n]*+\n|[^\n]++")
# A whole record may be one cell: the library's own limit of 131,072 characters is there for its memory, which the reader below bounds.
csv.field_size_limit(MAX_RECORD_BYTES)


@dataclass(frozen=True)
class Dialect:
    """How a CSV file is written, as far as it has to be found out."""

    delimiter: str
    encoding: Encoding
    header: tuple[str, ...]  # as the first row has it, or 1, 2, 3 ...; every name is there once
    has_header: bool
    faults: tuple[Finding, ...]  # of the header


def dialect_of(path: Path, has_header: bool = True) -> Dialect:
    """The delimiter with which most of the first rows have as many cells as the first one, the encoding, and the columns' names."""
    encoding = detect_encoding(path)
    lines = [_text(line)[0] for line in islice(_Lines(path, encoding), SAMPLE_LINES)]
    delimiter = max(DELIMITERS, key=lambda each: (_evenness(lines, each), -DELIMITERS.index(each)))
    row = next(_rows(_Lines(path, encoding), delimiter), _Row(1, 0, b""))
    first = row.cells or row.raw.decode("utf-8", "replace").split(delimiter)
    if not has_header:
        return Dialect(delimiter, encoding, tuple(str(number + 1) for number in range(len(first))), False, ())
    names: dict[str, int] = {}
    header: list[str] = []
    for number, cell in enumerate(first):
        name = cell.strip().encode("utf-8", "backslashreplace").decode() or f"column {number + 1}"
        names[name] = names.get(name, 0) + 1
        header.append(name if names[name] == 1 else f"{name} ({names[name]})")
    doubled = (name for name, count in names.items() if count > 1)
    faults = (Finding("duplicate-column", {"text": shorten(name), "renamed": shorten(f"{name} (2)")}) for name in doubled)
    return Dialect(delimiter, encoding, tuple(header), True, (*row.findings, *faults))


def _evenness(lines: list[str], delimiter: str) -> int:
    """How many of the rows have the width of the first one, when that is more than one cell."""
    try:
        widths = [len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]
    except csv.Error:
        return 0
    return widths.count(widths[0]) if widths and widths[0] > 1 else 0


def read_csv(
    path: Path,
    has_header: bool = True,
    on_finding: Callable[[FileFinding], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[Record]:
    """Every row behind the header, its value by column name. Blank lines are no rows.

    A row that cannot be taken apart (a quote that is not closed, or closed in the middle of a cell) lasts to the end of its first line;
    the reading goes on at the next one. A row of another width than the header is refused: its cells may have moved.
    """
    tell = on_finding or (lambda _: None)
    if kind := refused_kind(path):
        tell(FileFinding(Finding("not-a-text-file", {"kind": kind})))
        return
    dialect = dialect_of(path, has_header)
    for finding in _file_findings(path, dialect):
        tell(FileFinding(finding))
    rows = _rows(_Lines(path, dialect.encoding, on_bytes), dialect.delimiter)
    if has_header:
        next(rows, None)
    number = -1
    for number, row in enumerate(rows):
        yield _record(row, number, dialect)
    if number < 0:
        tell(FileFinding(Finding("no-records" if path.stat().st_size > dialect.encoding.bom_bytes else "empty-file")))


def _file_findings(path: Path, dialect: Dialect) -> Iterator[Finding]:
    encoding = dialect.encoding
    if encoding.bom_bytes:
        yield Finding("byte-order-mark", {"encoding": encoding.name.upper()})
    if not encoding.is_utf8:
        yield Finding("not-utf-8", {"encoding": encoding.name.upper()})
    if encoding.likely:
        yield Finding("other-encoding", {"encoding": encoding.likely})
    if next((line.endswith(b"\r\n") for line in _Lines(path, encoding)), False):
        yield Finding("crlf-line-ends")
    yield from dialect.faults


@dataclass
class _Row:
    """A row as it stands in the file: its cells, or why there are none."""

    line: int
    byte: int
    raw: bytes
    cells: list[str] = field(default_factory=list[str])
    findings: tuple[Finding, ...] = ()


class _Lines:
    """The lines of a file as UTF-8, line ends kept; those put back come first. `line` and `byte` are where the next one begins."""

    def __init__(self, path: Path, encoding: Encoding, on_bytes: Callable[[int], None] | None = None) -> None:
        self._encoding = encoding
        self._fresh = _split(utf8_chunks(path, encoding, on_bytes))
        self._back: deque[bytes] = deque()
        self.line = 1
        self.byte = encoding.bom_bytes

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._back.popleft() if self._back else next(self._fresh)
        self.line += line.endswith(b"\n")
        self.byte += self._encoding.original_length(line)
        return line

    def put_back(self, lines: list[bytes]) -> None:
        self._back.extendleft(reversed(lines))
        self.line -= sum(line.endswith(b"\n") for line in lines)
        self.byte -= sum(self._encoding.original_length(line) for line in lines)


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The lines of a text that comes in pieces. A text without any line feed has its lines end in carriage returns."""
    rest, is_first, has_feeds = b"", True, True
    for chunk in chunks:
        if is_first:
            is_first, has_feeds = False, b"\n" in chunk or b"\r" not in chunk
        data = rest + (chunk if has_feeds else chunk.replace(b"\r", b"\n"))
        cut = data.rfind(b"\n") + 1
        if cut == 0 and len(data) > MAX_RECORD_BYTES:
            cut = len(data)  # no line is that long; the piece is refused for its length
        yield from LINE.findall(data[:cut])
        rest = data[cut:]
    yield from LINE.findall(rest)


def _rows(lines: _Lines, delimiter: str) -> Iterator[_Row]:
    """Every row that is not blank, taken apart by the csv module in its strict mode."""
    while True:
        taken: list[bytes] = []
        line, byte = lines.line, lines.byte
        try:
            cells, damaged = _next_row(lines, taken, delimiter)
        except csv.Error as error:
            lines.put_back(taken[1:])
            yield _broken(line, byte, taken[0], str(error))
            piece = taken[0]
            while not piece.endswith(b"\n") and (piece := next(lines, b"\n")):
                continue
            continue
        if cells is None:
            return
        if cells:
            raw = b"".join(taken).rstrip(b"\r\n")
            yield _Row(line, byte, raw, cells, damaged)


def _next_row(lines: _Lines, taken: list[bytes], delimiter: str) -> tuple[list[str] | None, tuple[Finding, ...]]:
    """The cells of the next row (None at the end of the file). `taken` gets the lines it is made of."""
    damaged: list[Finding] = []

    def feed() -> Iterator[str]:
        size = 0
        for line in lines:
            taken.append(line)
            if (size := size + len(line)) > MAX_RECORD_BYTES:
                raise csv.Error(f"it is longer than {MAX_RECORD_BYTES >> 20} MB")
            text, place = _text(line)
            if place:
                damaged.append(Finding("undecodable-bytes", {"text": place}))
            yield text

    reader = csv.reader(feed(), delimiter=delimiter, strict=True)
    return next(reader, None), tuple(damaged[:1])


def _text(line: bytes) -> tuple[str, str]:
    """The line as text, and where it holds bytes that are none (empty: nowhere)."""
    try:
        return line.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        place = line[max(0, error.start - 20) : error.end + 20].decode("utf-8", "backslashreplace")
        return line.decode("utf-8", KEEP_BYTES), shorten(place, limit=200)


def _broken(line: int, byte: int, raw: bytes, reason: str) -> _Row:
    raw = raw.rstrip(b"\r\n")[:KEPT_BYTES]
    text = raw.decode("utf-8", "replace")
    said = {"unexpected end of data": "a quote is not closed"}.get(reason, reason)
    at = text.find('"')
    return _Row(line, byte, raw, [], (Finding("broken-row", {"reason": said, "text": around(text, max(at, 0), max(at, 0) + 1)}),))


def _record(row: _Row, number: int, dialect: Dialect) -> Record:
    findings = row.findings
    if not findings and len(row.cells) != len(dialect.header):
        fields: dict[str, Any] = {
            "count": len(row.cells),
            "expected": len(dialect.header),
            "text": shorten(row.raw.decode("utf-8", "replace")),
        }
        findings = (Finding("ragged-row", fields),)
    value = None if findings else dict(zip(dialect.header, row.cells, strict=True))
    return Record(number, row.line, row.byte, row.raw, value, not findings, findings)

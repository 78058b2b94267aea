"""A window that slides over a file's text and always knows the row, line and original byte where it stands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from core.data.parse import Parsed
from core.data.rules import Finding
from core.data.source import Encoding

MAX_RECORD_BYTES = 16 << 20
KEPT_BYTES = 1 << 16  # what is kept of a record that is longer than that


class Record(NamedTuple):
    """One row of a file: its value, or the findings that say why it has none, and where it starts."""

    row: int  # 0-based
    line: int  # 1-based
    byte: int  # 0-based offset in the original file
    raw: bytes  # its text as UTF-8; for a row too long the beginning
    value: Any
    is_readable: bool
    findings: tuple[Finding, ...]


class FileFinding(NamedTuple):
    """A finding about the file as a whole, and where it was seen."""

    finding: Finding
    line: int = 1
    byte: int = 0


class Cursor:
    """The text from `pos` on lies in `data`; `more` makes it longer. `line` and `byte` belong to `pos`."""

    def __init__(self, chunks: Iterator[bytes], encoding: Encoding) -> None:
        self._chunks = chunks
        self.encoding = encoding
        self.data = b""
        self.pos = 0
        self.row = 0
        self.line = 1
        self.byte = encoding.bom_bytes
        self.at_end = False
        self.file_findings: list[FileFinding] = []

    def more(self) -> bool:
        """Drop what lies before `pos` and read on until the rest is twice as long; False at the end of the file."""
        wanted, pieces = max(1, len(self.data) - self.pos), list[bytes]()
        while wanted > 0 and not self.at_end:
            chunk = next(self._chunks, b"")
            self.at_end = not chunk
            wanted -= len(chunk)
            pieces.append(chunk)
        if not any(pieces):
            return False
        self.data, self.pos = b"".join((self.data[self.pos :], *pieces)), 0
        return True

    def ensure(self, length: int) -> None:
        """Have `length` bytes after `pos`, or all there are."""
        while len(self.data) - self.pos < length and self.more():
            pass

    def advance(self, to: int, num_line_ends: int | None = None) -> None:
        """Stand at `to`, counting the original bytes and, unless it is known how many, the line ends passed."""
        if to == self.pos:
            return
        if self.encoding.is_utf8:
            self.byte += to - self.pos
        else:
            self.byte += self.encoding.original_length(self.data[self.pos : to])
        self.line += self.data.count(b"\n", self.pos, to) if num_line_ends is None else num_line_ends
        self.pos = to

    def take(self, end: int, parsed: Parsed) -> Record:
        """The record from `pos` to `end`, leaving `pos` at its end."""
        raw = self.data[self.pos : end]
        record = Record(self.row, self.line, self.byte, raw, *parsed)
        self.row += 1
        self.advance(end)
        return record

    def note(self, code: str, **fields: object) -> None:
        """Report something about the file as a whole, seen here."""
        self.file_findings.append(FileFinding(Finding(code, fields), self.line, self.byte))

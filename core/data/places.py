"""Where each row of several files that became one stands in its own file: line and byte, kept as a table of numbers on the disk."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from core.data.cursor import Record

ENTRY = struct.Struct("<qq")  # line and byte of one row


class Begins(NamedTuple):
    """Where a row begins in its file."""

    line: int  # from 1; 0 in a Parquet file
    byte: int  # from 0


@contextmanager
def noting(path: Path) -> Generator[Callable[[Record], None]]:
    """What takes the rows in their order and writes at `path` where they begin."""
    with path.open("wb") as file:

        def note(record: Record) -> None:
            file.write(ENTRY.pack(record.line, record.byte))

        yield note


class Places:
    """The table at `path`; a row is looked up in constant time."""

    def __init__(self, path: Path) -> None:
        import numpy as np

        numbers = np.memmap(path, "<i8", "r") if path.stat().st_size else np.empty(0, "<i8")
        self._begins = numbers.reshape(-1, 2)

    def of(self, row: int) -> Begins:
        """Where `row` (from 0) begins; IndexError when there is none."""
        line, byte = self._begins[row]
        return Begins(int(line), int(byte))

"""The findings as a file for other programs: CSV for a table, JSONL for scripts."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from core import paths
from core.data.datafile import DataFile
from core.data.findings import Findings, writing
from core.data.mapping import ColumnMapping
from core.data.origin import Origin
from core.data.rules import Issue
from core.data.writer import full_disk_said, require_writable, write_lines

T = TypeVar("T")
COLUMNS = ("row", "turn", "line", "byte", "code", "severity", "problem", "remedy")
RAW, PLACE = "raw", ("file", "row_in_file")
SUFFIXES = (".csv", ".jsonl")
# What makes a cell a formula in a spreadsheet: such a text gets an apostrophe before it.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(
    issues: Iterable[Issue], path: Path, source: Path | None = None, mapping: ColumnMapping | None = None, origin: Origin | None = None
) -> int:
    """Write the findings to a `.csv` or `.jsonl` file, by the suffix of `path`; returns their number.

    Args:
        issues: in the order of their rows, as `Dataset.findings` and a report have them.
        source: the file they are about; with it every finding has the text of its row.
        mapping: what the columns of `source` mean.
        origin: where the dataset came from; when that was several files, every finding names its file and the row in it.

    Raises:
        UserError: another suffix, no such folder, or a full disk.
    """
    columns, records = COLUMNS, _records(issues)
    if origin and origin.first_rows:
        columns, records = (*columns, *PLACE), _with_place(records, origin)
    if source:
        columns, records = (*columns, RAW), _with_raw(records, source, mapping)
    return export_records(columns, records, path)


def export_records(columns: tuple[str, ...], records: Iterable[dict[str, Any]], path: Path) -> int:
    """Write `records` to a `.csv` or `.jsonl` file, by the suffix of `path`, with `columns` in that order; returns their number.

    Raises:
        UserError: another suffix, no such folder, or a full disk.
    """
    require_writable(path, SUFFIXES)
    with full_disk_said(path), paths.replacing(path) as temporary:
        if path.suffix.lower() == ".csv":
            return write_lines(map(_csv_line, ([record[name] for name in columns] for record in records)), temporary, _csv_line(columns))
        ordered = ({name: record[name] for name in columns} for record in records)
        return write_lines((json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in ordered), temporary)


@contextmanager
def gathered(check: Callable[[Callable[[Issue], None]], T]) -> Generator[tuple[T, Findings]]:
    """What a check returned that tells of its findings in any order, and all of those in the order of their rows, however many."""
    paths.cache_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.cache_dir()) as folder:
        with writing(Path(folder)) as note:
            result = check(note)
        yield result, Findings(Path(folder))


def _records(issues: Iterable[Issue]) -> Iterator[dict[str, Any]]:
    for issue in issues:
        fields = issue.model_dump()
        yield {name: fields[name] for name in COLUMNS}


def _with_place(records: Iterable[dict[str, Any]], origin: Origin) -> Iterator[dict[str, Any]]:
    for record in records:
        place = None if record["row"] is None else origin.place(record["row"])
        yield {**record, **dict(zip(PLACE, place or ("", None), strict=True))}


def _with_raw(records: Iterable[dict[str, Any]], source: Path, mapping: ColumnMapping | None) -> Iterator[dict[str, Any]]:
    """Each finding with the text of its row, both files read once and side by side."""
    rows = DataFile(source, mapping).records()
    at, raw = -1, b""
    for record in records:
        while record["row"] is not None and at < record["row"]:
            row = next(rows)
            at, raw = row.row, row.raw
        yield {**record, RAW: "" if record["row"] is None else raw.decode("utf-8", "backslashreplace")}


def _csv_line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    safe = (f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell for cell in cells)
    csv.writer(text, lineterminator="\n").writerow(safe)
    return text.getvalue().encode()

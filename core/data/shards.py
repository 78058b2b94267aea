"""Several files that are parts of one table, as one file: a dataset has one source, whose rows can be counted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core import paths
from core.data.csvrows import dialect_of, read_csv
from core.data.cursor import MAX_RECORD_BYTES, FileFinding, Record
from core.data.layouts import container_of
from core.data.parquetrows import BATCH_BYTES, decoded_bytes, group_batches, open_parquet, reason_of
from core.data.places import noting
from core.data.reader import read_records
from core.data.rules import is_error, make_issue
from core.data.writer import CHECKED_BYTES, full_disk_said, write_lines
from core.errors import UserError

if TYPE_CHECKING:
    import pyarrow.parquet as pq

OnRecord = Callable[[Record], None]
WITHOUT_ROWS = ("empty-file", "no-records")  # a file without rows takes none with it


class Joined(NamedTuple):
    """Several files as one, and what they were."""

    file: Path
    parts: tuple[Path, ...]
    first_rows: tuple[int, ...]  # for each part the row with which it begins
    places: Path | None  # where each row begins in its part, see `core.data.places`; None: a row of Parquet has no such place


def join(files: tuple[Path, ...], folder: Path) -> Joined:
    """The rows of `files`, in this order, as one file in `folder`; the files stay as they are.

    JSON becomes JSONL, each record on one line and otherwise as it was written, also a broken one. Parquet stays Parquet, decoded a few rows
    at a time. CSV keeps the first file's header.

    Raises:
        UserError: the files are not of one kind, or not of the same columns, one of them cannot be read to its end, or the disk is full.
    """
    kinds = {container_of(file) for file in files}
    if len(kinds) > 1:
        raise _unlike(files[0], "several formats")
    kind = kinds.pop()
    out = folder / ("joined.jsonl" if kind == "json" else f"joined.{kind}")
    first_rows: list[int] = []
    places = folder / "places.bin"
    with full_disk_said(out), noting(places) as note:
        if kind == "parquet":
            _join_parquet(files, out, first_rows)
        else:
            write_lines((_csv_lines if kind == "csv" else _json_lines)(files, first_rows, note), out)
    return Joined(out, files, tuple(first_rows), None if kind == "parquet" else places)


def _json_lines(files: tuple[Path, ...], first_rows: list[int], note: OnRecord) -> Iterator[bytes]:
    row = 0
    for file in files:
        first_rows.append(row)
        hear = _refuser(file)
        for record in read_records(file, hear):
            row += 1
            note(record)
            codes = {finding.code: finding for finding in record.findings}
            if "truncated-file" in codes:
                hear(FileFinding(codes["truncated-file"], record.line, record.byte))
            if "record-too-long" in codes:  # here as well, though only its head is known
                yield record.raw.translate(None, b"\r\n").ljust(MAX_RECORD_BYTES + 1) + b"\n"
                continue
            # In a record that can be read a line end is white space; in a broken one it may be the fault, which must stay.
            blank = b" " if record.is_readable else b"\v"
            yield record.raw.replace(b"\r", blank).replace(b"\n", blank) + b"\n"


def _refuser(file: Path) -> Callable[[FileFinding], None]:
    """What hears the findings about `file` as a whole: in the joined one an error would be lost, and with it the rows it stands for."""

    def hear(found: FileFinding) -> None:
        if is_error(found.finding) and found.finding.code not in WITHOUT_ROWS:
            issue = make_issue(found.finding, None, found.line, found.byte)
            raise UserError(f"{file.name}, a file of this split: {issue.problem}", file.name, issue.remedy)

    return hear


def _csv_lines(files: tuple[Path, ...], first_rows: list[int], note: OnRecord) -> Iterator[bytes]:
    first = dialect_of(files[0])
    yield _csv_cells(first.header, first.delimiter)
    row = 0
    for file in files:
        first_rows.append(row)
        dialect = dialect_of(file)
        if (dialect.header, dialect.delimiter) != (first.header, first.delimiter):
            raise _unlike(file, "other columns")
        for record in read_csv(file, on_finding=_refuser(file)):
            row += 1
            note(record)
            yield record.raw + b"\n"


def _csv_cells(cells: tuple[str, ...], delimiter: str) -> bytes:
    """A row of a CSV file, every cell in quotes."""
    return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells).encode("utf-8", "surrogatepass") + b"\n"


def _join_parquet(files: tuple[Path, ...], out: Path, first_rows: list[int]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _unreadable_said(files[0]), pq.ParquetFile(files[0]) as first:
        schema = first.schema_arrow.remove_metadata()
    row = 0
    with pq.ParquetWriter(out, schema) as writer:
        for file in files:
            first_rows.append(row)
            with _unreadable_said(file), open_parquet(file) as opened:
                if opened.schema_arrow.names != schema.names:
                    raise _unlike(file, "other columns")
                row += opened.metadata.num_rows
                for batch in _bounded(opened):
                    writer.write_table(pa.Table.from_batches([batch]).cast(schema))
                    paths.require_disk(out.parent, CHECKED_BYTES, "Joining the files")


def _bounded(file: pq.ParquetFile) -> Iterator[Any]:
    """All rows in batches that decode to BATCH_BYTES at most; ArrowInvalid for a row that alone takes more."""
    import pyarrow as pa

    first_row = 0
    for group in range(file.num_row_groups):
        for batch in group_batches(file, group):
            if decoded_bytes(batch.to_struct_array()) <= BATCH_BYTES:
                yield batch
            else:
                for number in range(batch.num_rows):
                    row = batch.slice(number, 1)
                    if decoded_bytes(row.to_struct_array()) > BATCH_BYTES:
                        raise pa.ArrowInvalid(f"its row {first_row + number} takes more than {BATCH_BYTES >> 20} MB")
                    yield row
            first_row += batch.num_rows


@contextmanager
def _unreadable_said(file: Path) -> Generator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise UserError(
            f"A file of this split cannot be read: {reason_of(error)}.", file.name, "Fetch it again, or take another revision."
        ) from None


def _unlike(file: Path, what: str) -> UserError:
    return UserError(
        f"The files of this split have {what}.", file.name, "Choose another config, or download one file yourself and import it."
    )

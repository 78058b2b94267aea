"""Several files that are parts of one table, as one file: a dataset has one source, whose rows can be counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.data.csvrows import dialect_of, read_csv
from core.data.layouts import container_of
from core.data.reader import read_records
from core.data.writer import full_disk_said, write_lines
from core.errors import UserError


def join(files: tuple[Path, ...], folder: Path) -> Path:
    """The rows of `files`, in this order, as one file in `folder`; a single file stays as it is.

    JSON becomes JSONL, each record on one line and otherwise as it was written, also a broken one. Parquet stays Parquet, row group by row
    group. CSV keeps the first file's header.

    Raises:
        UserError: the files are not of one kind, or not of the same columns, or the disk is full.
    """
    if len(files) == 1:
        return files[0]
    kinds = {container_of(file) for file in files}
    if len(kinds) > 1:
        raise _unlike(files[0], "several formats")
    kind = kinds.pop()
    out = folder / ("joined.jsonl" if kind == "json" else f"joined.{kind}")
    with full_disk_said(out):
        if kind == "parquet":
            _join_parquet_said(files, out)
        else:
            write_lines(_csv_lines(files) if kind == "csv" else _json_lines(files), out)
    return out


def _json_lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    for file in files:
        for record in read_records(file):
            # A line end inside a record is white space, or stands in a string that is broken by it all the same.
            yield record.raw.replace(b"\r", b" ").replace(b"\n", b" ") + b"\n"


def _csv_lines(files: tuple[Path, ...]) -> Iterator[bytes]:
    first = dialect_of(files[0])
    yield _csv_cells(first.header, first.delimiter)
    for file in files:
        dialect = dialect_of(file)
        if (dialect.header, dialect.delimiter) != (first.header, first.delimiter):
            raise _unlike(file, "other columns")
        for record in read_csv(file):
            yield record.raw + b"\n"


def _csv_cells(cells: tuple[str, ...], delimiter: str) -> bytes:
    """A row of a CSV file, every cell in quotes."""
    return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells).encode("utf-8", "surrogatepass") + b"\n"


def _join_parquet_said(files: tuple[Path, ...], out: Path) -> None:
    import pyarrow as pa

    try:
        _join_parquet(files, out)
    except pa.ArrowException as error:
        raise UserError(
            f"A file of this split cannot be read: {error}.", files[0].name, "Fetch it again, or take another revision."
        ) from None


def _join_parquet(files: tuple[Path, ...], out: Path) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(files[0]) as first:
        schema = first.schema_arrow.remove_metadata()
    with pq.ParquetWriter(out, schema) as writer:
        for file in files:
            with pq.ParquetFile(file) as opened:
                if opened.schema_arrow.names != schema.names:
                    raise _unlike(file, "other columns")
                for group in range(opened.num_row_groups):
                    writer.write_table(opened.read_row_group(group).cast(schema))


def _unlike(file: Path, what: str) -> UserError:
    return UserError(
        f"The files of this split have {what}.", file.name, "Choose another config, or download one file yourself and import it."
    )

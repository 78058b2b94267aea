"""The rows of a Parquet file one by one, read in batches whose decoded size is bounded.

A Parquet file has no lines: the line and the byte of its rows are 0, and what is kept as a row's raw text is the row written as JSON.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from core.data.cursor import KEPT_BYTES, MAX_RECORD_BYTES, FileFinding, Record
from core.data.rules import Finding, shorten

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
BATCH_ROWS = 1024
BATCH_BYTES = 64 << 20  # decoded at once; beyond that row by row
GROUP_BYTES = 4 << 30  # of one row group, as its own figures say it decodes


def is_parquet(path: Path) -> bool:
    """Whether the file is called Parquet and is: nothing else is ever decompressed."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_parquet(
    path: Path, on_finding: Callable[[FileFinding], None] | None = None, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Record]:
    """Every row. The rows of a damaged row group are there too, each refused; a file whose own table of contents is damaged has none."""
    import pyarrow as pa

    tell = on_finding or (lambda _: None)
    size_bytes = path.stat().st_size
    try:
        file = open_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        tell(FileFinding(Finding("broken-parquet", {"reason": reason_of(error), "text": shorten(path.name)})))
        return
    with file:
        row = 0
        for group in range(file.num_row_groups):
            for record in _group(file, group, row):
                yield record
                row = record.row + 1
            if on_bytes:
                on_bytes(size_bytes * (group + 1) // file.num_row_groups)
        if row == 0:
            tell(FileFinding(Finding("no-records")))


def sample_parquet(path: Path, count: int) -> list[Any]:
    """About `count` rows from places all over the file."""
    import pyarrow as pa

    try:
        with open_parquet(path) as file:
            step = max(1, file.num_row_groups // 8)
            groups = range(0, file.num_row_groups, step)
            each = -(-count // max(1, len(groups)))
            records = [record for group in groups for record in _first(_group(file, group, 0), each)]
    except (pa.ArrowException, OSError, ValueError):
        return []
    return [record.value for record in records if record.is_readable]


def row_group_of(path: Path, row: int) -> int:
    """Which row group (0-based) of the file holds row `row`."""
    with open_parquet(path) as file:
        ends = list(accumulate(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)))
    return bisect.bisect_right(ends, row)


def _first(records: Iterator[Record], count: int) -> list[Record]:
    return [record for _, record in zip(range(count), records, strict=False)]


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file with its texts left as references into a dictionary, so that one long text given a million times is held once."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        columns = [file.schema.column(number) for number in range(len(file.schema.names))]
        texts = [
            column.path for column in columns if column.physical_type == "BYTE_ARRAY" and column.logical_type.type in ("STRING", "JSON")
        ]
    return pq.ParquetFile(path, read_dictionary=texts, page_checksum_verification=True)


def _group(file: pq.ParquetFile, group: int, first_row: int) -> Iterator[Record]:
    """The rows of one row group; all that cannot be read are refused one by one."""
    import pyarrow as pa

    facts = file.metadata.row_group(group)
    row, last = first_row, first_row + facts.num_rows
    is_plain = all(_is_plain(field.type) for field in file.schema_arrow)
    try:
        for batch in group_batches(file, group):
            for value in _values(batch, row):
                yield _record(row, value, is_plain)
                row += 1
        reason = f"row group {group} ends after {row - first_row} of {facts.num_rows} rows"
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = f"row group {group}: {reason_of(error)}"
    finding = Finding("unreadable-row", {"reason": reason})
    yield from (Record(number, 0, 0, b"", None, False, (finding,)) for number in range(row, last))


def group_batches(file: pq.ParquetFile, group: int) -> Iterator[Any]:
    """The rows of a row group, a few at a time by what its own figures say that they take; ArrowInvalid when that is beyond the limit.

    Texts are references into a dictionary, so that `decoded_bytes` of a batch may be far more than it takes here.
    """
    import pyarrow as pa

    facts = file.metadata.row_group(group)
    if facts.total_byte_size > GROUP_BYTES:
        raise pa.ArrowInvalid(f"it says that it takes {facts.total_byte_size / 2**30:.0f} GB")
    per_row = max(1, facts.total_byte_size // max(1, facts.num_rows))
    yield from file.iter_batches(batch_size=max(1, min(BATCH_ROWS, BATCH_BYTES // per_row)), row_groups=[group])


def _values(batch: Any, first_row: int) -> Iterator[Any]:
    """The rows as dicts; a finding for one that is too long, and what can be read of one that holds bytes that are no text."""
    if decoded_bytes(batch.to_struct_array()) <= BATCH_BYTES:
        try:
            yield from batch.to_pylist()
            return
        except UnicodeDecodeError:
            pass
    for number in range(batch.num_rows):
        row, text = batch.slice(number, 1), f"row {first_row + number}"
        if decoded_bytes(row.to_struct_array()) > MAX_RECORD_BYTES:
            yield Finding("record-too-long", {"limit": f"{MAX_RECORD_BYTES >> 20} MB", "text": text})
            continue
        try:
            yield row.to_pylist()[0]
        except UnicodeDecodeError as error:
            place = error.object[max(0, error.start - 20) : error.end + 20].decode("utf-8", "backslashreplace")
            yield Undecodable(Finding("undecodable-bytes", {"text": shorten(place, limit=200)}), _escaped(row))


class Undecodable(NamedTuple):
    """A row with bytes that are no text."""

    finding: Finding
    raw: bytes  # as JSON, with what is no text escaped


def _escaped(row: Any) -> bytes:
    import pyarrow as pa

    read = row.cast(pa.schema([field.with_type(_binary(field.type)) for field in row.schema])).to_pylist()[0]
    return _json(read, lambda value: value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _binary(kind: Any) -> Any:
    """`kind` with bytes in the place of its texts."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _binary(kind.value_type)
    if types.is_string(kind):
        return pa.binary()
    if types.is_large_string(kind):
        return pa.large_binary()
    if types.is_list(kind) or types.is_large_list(kind):
        made = pa.list_ if types.is_list(kind) else pa.large_list
        return made(kind.value_field.with_type(_binary(kind.value_type)))
    if types.is_struct(kind):
        return pa.struct([field.with_type(_binary(field.type)) for field in kind])
    return kind


def decoded_bytes(array: Any) -> int:
    """How much text and numbers `array` holds once every reference into a dictionary is followed."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.binary_length(array.dictionary)  # type: ignore[attr-defined] # made at import time
        return pc.sum(lengths.cast(pa.int64()).take(array.indices)).as_py() or 0  # type: ignore[attr-defined]
    if pa.types.is_struct(kind):
        return sum(decoded_bytes(part) for part in array.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return decoded_bytes(array.flatten())
    if pa.types.is_map(kind):
        return decoded_bytes(array.keys) + decoded_bytes(array.items)
    return array.nbytes


def _is_plain(kind: Any) -> bool:
    """Whether values of this type are text, numbers, truth values, or lists and objects of them."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    return types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind)


def _record(row: int, value: Any, is_plain: bool) -> Record:
    if isinstance(value, Finding):
        return Record(row, 0, 0, b"", None, False, (value,))
    if isinstance(value, Undecodable):
        return Record(row, 0, 0, value.raw, None, False, (value.finding,))
    raw = _json(value)
    return Record(row, 0, 0, raw, value if is_plain else orjson.loads(raw), True, ())


def _json(value: Any, as_text: Callable[[Any], str] | None = None) -> bytes:
    """The row as JSON, for a person to read; a number, date or blob that JSON cannot hold as text."""
    try:
        return orjson.dumps(value, default=as_text or _as_text, option=orjson.OPT_NON_STR_KEYS)
    except (orjson.JSONEncodeError, RecursionError):
        return orjson.dumps({name: str(cell)[:KEPT_BYTES].encode("utf-8", "replace").decode() for name, cell in value.items()})


def _as_text(value: Any) -> str:
    return value[:KEPT_BYTES].hex() if isinstance(value, bytes) else str(value)


def reason_of(error: Exception) -> str:
    """The first line of what the library says, without the dot."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")

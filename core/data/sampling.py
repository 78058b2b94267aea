"""Rows from all over a file, for its layout to be told by."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import orjson

from core.data.csvrows import dialect_of, read_csv
from core.data.parquetrows import sample_parquet
from core.data.reader import read_records
from core.data.source import detect_encoding

Container = Literal["json", "csv", "parquet"]
HEAD_ROWS, HEAD_BYTES = 256, 4 << 20  # looked at from the beginning of a file
SPOTS, SPOT_BYTES = 8, 1 << 16  # and at places spread over it


def sample(path: Path, container: Container, has_header: bool) -> Iterator[Any]:
    """Values of rows from the beginning of the file and from places all over it."""
    if container == "parquet":
        yield from sample_parquet(path, HEAD_ROWS)
        return
    if container == "csv" and next(read_csv(path, has_header), None) is None:
        yield dict.fromkeys(dialect_of(path, has_header).header, "")  # its columns are known all the same
        return
    records = read_csv(path, has_header) if container == "csv" else read_records(path)
    seen_bytes, first_keys = 0, dict[str, None]()
    for record in islice(records, HEAD_ROWS):
        if record.is_readable and _is_text(record.value):
            yield record.value
            if type(record.value) is dict and record.value:
                first_keys[next(iter(record.value))] = None
        if (seen_bytes := seen_bytes + len(record.raw)) > HEAD_BYTES:
            break
    if container == "json" and first_keys and path.stat().st_size > seen_bytes + SPOT_BYTES and detect_encoding(path).is_utf8:
        yield from _spots(path, seen_bytes, list(first_keys)[:16])


def _spots(path: Path, start: int, first_keys: list[str]) -> Iterator[Any]:
    """Whole objects that begin with one of these keys, read at places spread over the file behind `start`."""
    beginning = re.compile(r'\{\s*"(?:' + "|".join(re.escape(key) for key in first_keys) + r')"\s*:')
    size, places = path.stat().st_size, random.Random(0)
    decoder = json.JSONDecoder()
    with path.open("rb") as file:
        for number in range(SPOTS):
            width = max(1, (size - start) // SPOTS)
            file.seek(start + number * width + places.randrange(width))
            text = file.read(SPOT_BYTES).decode("utf-8", "ignore")
            at = 0
            while match := beginning.search(text, at):
                try:
                    value, at = decoder.raw_decode(text, match.start())
                    if _is_text(value):
                        yield value
                except (ValueError, RecursionError):
                    at = match.end()


def _is_text(value: Any) -> bool:
    """Whether UTF-8 can hold every text of `value`; half a character cannot be shown."""
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:  # also integers of more than 64 bits, which no column of text is made of
        return False
    return True

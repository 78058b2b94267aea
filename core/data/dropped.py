"""The rows that a cleaning left out, as JSON lines and an index of where each begins, so that any page of them opens in constant time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from core import paths

DROPPED, INDEX = "dropped.jsonl", "dropped.index.arrow"
HEAD = re.compile(rb'\{"row": \d+, "part": \d+, "code": "([^"]*)"')  # how every line begins


class Dropped(NamedTuple):
    """A row, or a part of one, that a cleaning left out."""

    row: int  # 0-based, in the parent
    part: int  # 1, 2, ... of a row that was split, else 0
    code: str  # the repair that dropped it
    twin: int | None  # the row of the parent that it is like, when it was dropped for that
    id: str
    text: str  # its turns as ``role: text``, or its raw text

    def line(self) -> str:
        return json.dumps(self._asdict(), ensure_ascii=False) + "\n"


def read(folder: Path, start: int = 0, count: int | None = None, code: str = "") -> Iterator[Dropped]:
    """The rows in the `folder` of a cleaned dataset, or those left out by one repair: `count` from number `start` on."""
    places = _places(folder, code)
    stop = len(places) if count is None else min(start + count, len(places))
    with (folder / DROPPED).open("rb") as lines:
        for number in range(start, stop):
            lines.seek(places[number].as_py())
            yield Dropped(**json.loads(lines.readline()))


def _places(folder: Path, code: str) -> Any:
    """The bytes where the lines of one repair, or of all, begin."""
    import pyarrow as pa

    if not (folder / INDEX).is_file():
        write_index(folder)  # a dataset of an earlier version
    index = pa.ipc.open_file(pa.memory_map(str(folder / INDEX)))
    keys: list[str] = json.loads(index.schema.metadata[b"keys"])
    return index.get_batch(keys.index(code)).column("byte") if code in keys else ()


def write_index(folder: Path) -> None:
    """Write where each line begins beside the lines, for all of them and for those of each repair."""
    import pyarrow as pa

    places: dict[str, list[int]] = {"": []}
    at = 0
    with (folder / DROPPED).open("rb") as lines:
        for line in lines:
            head = HEAD.match(line)
            assert head, "every line begins with its row, its part and its code"
            places[""].append(at)
            places.setdefault(head[1].decode(), []).append(at)
            at += len(line)
    schema = pa.schema([("byte", pa.int64())], metadata={"keys": json.dumps(list(places))})
    with paths.replacing(folder / INDEX) as temporary, pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for chosen in places.values():
            writer.write_batch(pa.RecordBatch.from_arrays([pa.array(chosen, pa.int64())], schema=schema))

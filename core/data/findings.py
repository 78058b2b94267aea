"""The findings on a dataset, however many: an Arrow file of them and an index, so that any page of any filter opens in constant time."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.rules import RULES, Issue

if TYPE_CHECKING:
    import pyarrow as pa

FINDINGS, INDEX = "findings.arrow", "findings.index.arrow"
BATCH_ROWS = 1024
COLUMNS = ("code", "severity", "row", "turn", "line", "byte", "problem", "remedy")  # the fields of an Issue


@contextmanager
def writing(folder: Path, name: str = FINDINGS) -> Generator[Callable[[Issue], None]]:
    """What takes the issues into `folder`, in any order; at the end of the block the index that sorts them is written beside them.

    The index names the file of the issues, `name`: who opens the index has the two that belong together.
    """
    import pyarrow as pa

    text, number = pa.string(), pa.int64()
    kinds = (text, text, number, pa.int32(), number, number, text, text)
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    options = pa.ipc.IpcWriteOptions(compression="lz4")  # sentences repeat: the file is a tenth, and a page still opens in a moment
    pending: list[Issue] = []
    with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:

        def flush() -> None:
            columns = [pa.array([getattr(issue, each) for issue in pending], schema.field(each).type) for each in COLUMNS]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            pending.clear()

        def add(issue: Issue) -> None:
            pending.append(issue)
            if len(pending) == BATCH_ROWS:
                flush()

        yield add
        if pending:
            flush()
    _write_index(folder, name)


def keep(folder: Path, issues: Iterable[Issue]) -> None:
    """Put these findings in the place of those that a dataset has, if it has any. Who reads meanwhile reads the old ones or the new ones."""
    before = _named_by(_open(folder / INDEX)) if (folder / INDEX).is_file() else None
    name = f"findings-{secrets.token_hex(8)}.arrow"
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        with writing(Path(beside), name) as add:
            for issue in issues:
                add(issue)
        os.replace(Path(beside) / name, folder / name)
        os.replace(Path(beside) / INDEX, folder / INDEX)
    if before:
        (folder / before).unlink(missing_ok=True)


class Findings(Sequence[Issue]):
    """The findings of one code, of one severity, or all of them, in the order of the file; those on the file as a whole come first.

    Nothing but what is asked for is read from the disk. A number outside is an IndexError.
    """

    def __init__(self, folder: Path, code: str = "", severity: str = "") -> None:
        is_nothing = bool(code and severity) and (code not in RULES or RULES[code].severity != severity)
        self._folder = folder
        self._key = None if is_nothing else code or severity

    def __len__(self) -> int:
        return len(self._positions) if self._positions is not None else 0

    def __getitem__(self, index: Any) -> Any:
        """One finding by its number, or the list of a slice."""
        if isinstance(index, slice):
            return self._read(range(*index.indices(len(self))))
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"finding {index} of {len(self)}")
        return self._read(range(number, number + 1))[0]

    def __iter__(self) -> Iterator[Issue]:
        for start in range(0, len(self), BATCH_ROWS):
            yield from self._read(range(start, min(start + BATCH_ROWS, len(self))))

    def first_at(self, row: int) -> int:
        """The number of the first finding on `row` (0-based) or on a later one; the length when there is none."""
        return bisect_left(range(len(self)), row, key=self._row)

    def _row(self, number: int) -> int:
        return self._index.column("row")[number].as_py()

    def _read(self, numbers: range) -> list[Issue]:
        """Those findings. Each batch that some of them lie in is read once, though neighbours may lie far apart."""
        wanted: dict[int, list[tuple[int, int]]] = {}  # by batch: (place in the answer, row in the batch)
        for place, at in enumerate(self._positions.take(list(numbers)).to_pylist() if numbers else ()):
            wanted.setdefault(at // BATCH_ROWS, []).append((place, at % BATCH_ROWS))
        found: dict[int, Issue] = {}
        for batch_number, places in wanted.items():
            if self._batch is None or self._batch[0] != batch_number:
                self._batch = batch_number, self._file.get_batch(batch_number)
            rows = self._batch[1].take([row for _, row in places]).to_pylist()
            for (place, _), fields in zip(places, rows, strict=True):
                found[place] = Issue.model_construct(**fields)  # they were checked when they were written
        return [found[place] for place in range(len(numbers))]

    _batch: tuple[int, Any] | None = None  # the one read last

    @cached_property
    def _opened(self) -> tuple[pa.ipc.RecordBatchFileReader, pa.ipc.RecordBatchFileReader]:
        """The index and the findings that it names."""
        while True:
            index = _open(self._folder / INDEX)
            name = _named_by(index)
            try:
                return index, _open(self._folder / name)
            except FileNotFoundError:  # replaced at this moment, and then there is another index
                if _named_by(_open(self._folder / INDEX)) == name:
                    raise

    @property
    def _file(self) -> pa.ipc.RecordBatchFileReader:
        return self._opened[1]

    @cached_property
    def _index(self) -> Any:
        index = self._opened[0]
        keys: list[str] = json.loads(index.schema.metadata[b"keys"])
        return index.get_batch(keys.index(self._key)) if self._key in keys else None

    @cached_property
    def _positions(self) -> Any:
        return None if self._index is None else self._index.column("position")


def _open(path: Path) -> pa.ipc.RecordBatchFileReader:
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(path)))


def _named_by(index: pa.ipc.RecordBatchFileReader) -> str:
    """The file of the findings that `index` sorts; those of earlier versions do not name it."""
    return index.schema.metadata.get(b"findings", FINDINGS.encode()).decode()


def _write_index(folder: Path, name: str) -> None:
    """For each filter (all, a severity, a code) the positions of its findings, sorted by row and turn, and their rows."""
    import numpy as np
    import pyarrow as pa

    found = _open(folder / name)
    number_of: dict[str, int] = {}
    parts: list[tuple[Any, Any, Any]] = [(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int16))]
    for batch_number in range(found.num_record_batches):
        batch = found.get_batch(batch_number)
        codes = [number_of.setdefault(code, len(number_of)) for code in batch.column("code").to_pylist()]
        row, turn = (batch.column(name).fill_null(-1).to_numpy() for name in ("row", "turn"))
        parts.append((row, turn, np.array(codes, np.int16)))
    rows, turns, codes = (np.concatenate(columns) for columns in zip(*parts, strict=True))  # (N,) each, -1 for none
    order = np.lexsort((turns, rows)).astype(np.uint32)
    codes = codes[order]
    positions = {"": order} | {code: order[codes == number] for code, number in number_of.items()}
    for severity in ("error", "warning", "note"):
        positions[severity] = order[np.isin(codes, [number for code, number in number_of.items() if RULES[code].severity == severity])]
    schema = pa.schema([("position", pa.uint32()), ("row", pa.int64())], metadata={"keys": json.dumps(list(positions)), "findings": name})
    with pa.OSFile(str(folder / INDEX), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for chosen in positions.values():
            writer.write_batch(pa.RecordBatch.from_arrays([pa.array(chosen), pa.array(rows[chosen])], schema=schema))

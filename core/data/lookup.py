"""A row of a dataset by its number in the source file: its conversation, or why it was rejected; and the rows that hold a text."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any, BinaryIO, NamedTuple

from core.conversation import Conversation
from core.data.dataset import REJECTED, Dataset
from core.errors import UserError

ROW_HEAD = re.compile(rb'\{"row": (\d+),')


class Rejected(NamedTuple):
    """A row that cannot be trained: where it begins, why, and its text as it stands in the file."""

    row: int  # 0-based
    line: int  # 1-based
    byte: int  # 0-based
    codes: list[str]
    raw: str


class Progress(NamedTuple):
    """How far a search is: conversations looked through, of how many, and the row of the hit once there is one."""

    done: int
    total: int
    row: int | None = None


def conversation_index(dataset: Dataset, row: int) -> int:
    """The index of the first conversation that stands in `row` of the source file, or behind it; by binary search."""
    return bisect_left(range(len(dataset)), row, key=lambda index: dataset.source_position(index)[0])


def look_up(dataset: Dataset, row: int) -> Conversation | Rejected:
    """What stands in a row of the source file (0-based).

    Raises:
        UserError: the file has no such row.
    """
    index = conversation_index(dataset, row)
    if index < len(dataset) and dataset.source_position(index)[0] == row:
        return dataset[index]
    with (dataset.folder / REJECTED).open("rb") as lines:
        found = _rejected(lines, row)
    if found is None:
        raise UserError(
            f"There is no row {row}: the file has {dataset.manifest.num_rows:,} rows.", dataset.name, "Rows are counted from 0."
        )
    return found


def _rejected(lines: BinaryIO, row: int) -> Rejected | None:
    """The line of `row` in the file of rejected rows, whose rows ascend; by binary search over its bytes."""
    low, high = 0, lines.seek(0, 2)  # the line begins at `low` or later, before `high`
    while low < high:
        middle = (low + high) // 2
        start = _line_start(lines, middle, low)
        lines.seek(start)
        head = ROW_HEAD.match(lines.read(32))
        assert head, "every line begins with its row"
        at = int(head[1])
        if at == row:
            lines.seek(start)
            return Rejected(**json.loads(lines.readline()))
        if at < row:
            lines.seek(middle)
            lines.readline()
            low = lines.tell()
        else:
            high = start
    return None


def _line_start(lines: BinaryIO, place: int, low: int, step: int = 1 << 13) -> int:
    """Where the line begins that `place` lies in; `low` is the start of some line before."""
    end = place
    while end > low:
        begin = max(low, end - step)
        lines.seek(begin)
        if (newline := lines.read(end - begin).rfind(b"\n")) >= 0:
            return begin + newline + 1
        end = begin
    return low


def search(dataset: Dataset, words: str, row: int, *, is_forward: bool = True) -> Iterator[Progress]:
    """Look for the next conversation with `words` in a turn or in its id, upper or lower case alike, from `row` (not itself) on and round to it.

    Yields how far it is after every batch, and last either a row or None when no conversation has the words. Memory is that of one batch.
    """
    total = len(dataset)
    if not words or not total:
        yield Progress(total, total)
        return
    here = conversation_index(dataset, row)
    stands_here = here < total and dataset.source_position(here)[0] == row
    first = (here + stands_here if is_forward else here - 1) % total
    done = 0
    for start, stop in _spans(first, dataset.batch_ends, is_forward):
        if hits := _hits(dataset.between(start, stop), words):
            index = start + (min(hits) if is_forward else max(hits))
            yield Progress(total, total, dataset.source_position(index)[0])
            return
        done += stop - start
        yield Progress(done, total)
    yield Progress(total, total)


def _hits(rows: Any, words: str) -> set[int]:
    """Which of these rows have `words` in their id or in a turn."""
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported, so their types are not known
    turns = rows.column("turns")
    spoken = pc.match_substring(pc.struct_field(turns.flatten(), "content"), words, ignore_case=True)
    named = pc.match_substring(rows.column("id"), words, ignore_case=True)
    return {*pc.filter(pc.list_parent_indices(turns), spoken).to_pylist(), *pc.indices_nonzero(named).to_pylist()}


def _spans(first: int, ends: list[int], is_forward: bool) -> Iterator[tuple[int, int]]:
    """Every conversation once, as stretches within one batch each, from `first` on and round; backwards from `first` down and round."""
    batches = list(pairwise((0, *ends)))
    at = bisect_right(ends, first)
    start, stop = batches[at]
    if is_forward:
        yield first, stop
        yield from chain(batches[at + 1 :], batches[:at])
        if start < first:
            yield start, first
    else:
        yield start, first + 1
        yield from chain(reversed(batches[:at]), reversed(batches[at + 1 :]))
        if first + 1 < stop:
            yield first + 1, stop

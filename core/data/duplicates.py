"""Rows that say the same as an earlier one: found with 16 bytes a row, however long the rows are."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.conversation import Conversation
from core.data.batch import Batch, Columns
from core.data.cursor import Record
from core.data.datafile import DataFile
from core.data.mapping import ColumnMapping
from core.data.records import beginning_of, read_record
from core.data.rules import Finding, shorten

BLOCK_ROWS = 1 << 16


def fingerprint(conversation: Conversation) -> int:
    """A 64-bit number that two conversations share if they are the same, whatever their ids. It holds within one process."""
    turns = conversation.turns
    return _number((turns[0].role if turns else "", *(turn.content for turn in turns)))  # who speaks first says who speaks when


def _fingerprints(columns: Columns) -> Iterator[int]:
    """The fingerprints of many conversations."""
    _, lengths, roles, contents, _ = columns
    at = 0
    for length in lengths:
        yield hash((roles[at], *contents[at : at + length])) or 1
        at += length


def _number(value: object) -> int:
    return hash(value) or 1  # 0 stands for "nothing to compare"


class Numbers:
    """A long row of 64-bit numbers, 8 bytes each, in blocks of pages of their own, which the system gives as they are filled."""

    def __init__(self) -> None:
        self._blocks: list[memoryview] = []
        self._count = 0

    def extend(self, numbers: Iterable[int]) -> None:
        numbers = array("q", numbers)  # a tuple of them would end among the free ones of its length, which Python hardly ever empties
        at = self._count % BLOCK_ROWS
        if not at:
            self._blocks.append(memoryview(mmap.mmap(-1, 8 * BLOCK_ROWS)).cast("q"))
        fitting = numbers[: BLOCK_ROWS - at]
        self._blocks[-1][at : at + len(fitting)] = fitting
        self._count += len(fitting)
        if len(fitting) < len(numbers):
            self.extend(numbers[len(fitting) :])

    def repeated(self) -> dict[int, int]:
        """`{row: first row with the same number}` for every row that repeats an earlier one's number."""
        import numpy as np

        blocks = [np.frombuffer(block, dtype=np.int64) for block in self._blocks]  # the zeros behind the last row repeat nothing
        num_parts = -(-len(blocks) // 8)  # as many numbers as 8 blocks hold are sorted at a time
        first: dict[int, int] = {}
        repeated: dict[int, int] = {}
        for part in range(num_parts):
            ordered = np.concatenate([block[block % num_parts == part] for block in blocks])
            ordered.sort()
            twice = ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)]
            if not len(twice):
                continue
            for number, block in enumerate(blocks):
                for row in np.flatnonzero(np.isin(block, twice)):
                    index = number * BLOCK_ROWS + int(row)
                    earlier = first.setdefault(int(block[row]), index)
                    if earlier != index:
                        repeated[index] = earlier
        return repeated


class DuplicateIndex:
    """One number for each row's conversation and one for its id. The rows themselves are read again only when two numbers are equal."""

    def __init__(self) -> None:
        self._conversations = Numbers()
        self._ids = Numbers()

    def add(self, record: Record, conversation: Conversation | None) -> None:
        """Note the next row. A row that is no conversation is compared by its id alone."""
        self._conversations.extend([0 if conversation is None else fingerprint(conversation)])
        identifier = record.value.get("id") if type(record.value) is dict else None
        self._ids.extend([_number(str(identifier)) if type(identifier) in (str, int) else 0])

    def add_batch(self, batch: Batch) -> None:
        """Note the next rows."""
        self._conversations.extend(_fingerprints(batch.columns))
        self._ids.extend(map(_number, batch.columns.ids))

    def findings(self, path: Path, mapping: ColumnMapping | None = None) -> Iterator[tuple[Record, Finding]]:
        """Every repeated id and conversation of the file at `path`, each with the first row that has it."""
        ids, conversations = self._ids.repeated(), self._conversations.repeated()
        last = max((*ids, *conversations), default=-1)
        if last < 0:
            return
        for record in DataFile(path, mapping).records():
            if (first := ids.get(record.row)) is not None:
                yield record, Finding("duplicate-id", {"text": shorten(str(record.value["id"])), "other": first})
            if (first := conversations.get(record.row)) is not None:
                conversation, _, _ = read_record(record.value, record.row)
                assert conversation, "only conversations are compared"
                yield record, Finding("duplicate-conversation", {"text": beginning_of(conversation), "other": first})
            if record.row == last:
                return

"""Rows that say the same as an earlier one: found with 16 bytes a row, however long the rows are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from core.conversation import Conversation
from core.data.cursor import Record
from core.data.reader import read_records
from core.data.records import beginning_of, read_record
from core.data.rules import Finding, shorten


def fingerprint(conversation: Conversation) -> int:
    """A 64-bit number that two conversations share if they are the same, whatever their ids. It holds within one process."""
    return _number(tuple((turn.role, turn.content) for turn in conversation.turns))


def _number(value: object) -> int:
    return hash(value) & 0xFFFF_FFFF_FFFF_FFFF or 1  # 0 stands for "nothing to compare"


class DuplicateIndex:
    """One number for each row's conversation and one for its id. The rows themselves are read again only when two numbers are equal."""

    def __init__(self) -> None:
        self._conversations = array("Q")
        self._ids = array("Q")

    def add(self, record: Record, conversation: Conversation | None) -> None:
        """Note the next row. A row that is no conversation is compared by its id alone."""
        self._conversations.append(0 if conversation is None else fingerprint(conversation))
        identifier = record.value.get("id") if type(record.value) is dict else None
        self._ids.append(_number(str(identifier)) if type(identifier) in (str, int) else 0)

    def findings(self, path: Path) -> Iterator[tuple[Record, Finding]]:
        """Every repeated id and conversation of the file at `path`, each with the first row that has it."""
        ids, conversations = _repeated(self._ids), _repeated(self._conversations)
        last = max((*ids, *conversations), default=-1)
        if last < 0:
            return
        for record in read_records(path):
            if (first := ids.get(record.row)) is not None:
                yield record, Finding("duplicate-id", {"text": shorten(str(record.value["id"])), "other": first})
            if (first := conversations.get(record.row)) is not None:
                conversation, _, _ = read_record(record.value, record.row)
                assert conversation, "only conversations are compared"
                yield record, Finding("duplicate-conversation", {"text": beginning_of(conversation), "other": first})
            if record.row == last:
                return


def _repeated(numbers: array[int]) -> dict[int, int]:
    """`{row: first row with the same number}` for every row that repeats an earlier one's number."""
    import numpy as np

    values = np.frombuffer(numbers, dtype=np.uint64) if numbers else np.zeros(0, dtype=np.uint64)
    ordered = np.sort(values)
    twice = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)])
    first: dict[int, int] = {}
    repeated: dict[int, int] = {}
    for row in np.flatnonzero(np.isin(values, twice)) if len(twice) else ():
        earlier = first.setdefault(int(values[row]), int(row))
        if earlier != row:
            repeated[int(row)] = earlier
    return repeated

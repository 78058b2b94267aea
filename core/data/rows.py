"""Every row of a data file with its conversation, or with what stands in the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from core.conversation import Conversation
from core.data.batch import Batch
from core.data.cursor import FileFinding, Record
from core.data.datafile import DataFile
from core.data.mapping import ColumnMapping
from core.data.records import read_record
from core.data.rules import Finding, is_error, make_issue
from core.errors import UserError


class Checked(NamedTuple):
    """One row: its record, the conversation when it is fit for training, and the findings."""

    record: Record
    conversation: Conversation | None
    findings: list[Finding]


def check_rows(
    path: Path,
    on_finding: Callable[[FileFinding], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
    mapping: ColumnMapping | None = None,
) -> Iterator[Checked]:
    """Every row with all that can be said about it by itself. A conversation is there if and only if no finding is an error."""
    for item in check_batches(path, on_finding, on_bytes, mapping):
        if isinstance(item, Batch):
            yield from rows_of(item)
        else:
            yield item


def check_batches(
    path: Path,
    on_finding: Callable[[FileFinding], None] | None = None,
    on_bytes: Callable[[int], None] | None = None,
    mapping: ColumnMapping | None = None,
) -> Iterator[Checked | Batch]:
    """As `check_rows`, but rows without any finding come many at a time."""
    first_layout, file = "", DataFile(path, mapping)
    for item in file.batches(on_finding, on_bytes):
        if not isinstance(item, Batch):
            checked, layout = _check(item, first_layout, file.is_json)
            first_layout = first_layout or layout
            yield checked
        elif first_layout in ("", item.layout.name):
            first_layout = item.layout.name
            yield item
        else:
            yield from (_check(record, first_layout)[0] for record in item.records())


def rows_of(batch: Batch) -> Iterator[Checked]:
    """The rows of a batch, one by one."""
    return (Checked(record, conversation, []) for record, conversation in zip(batch.records(), batch.conversations(), strict=True))


def _check(record: Record, first_layout: str, is_json: bool = True) -> tuple[Checked, str]:
    """The row of `record`, and its layout (empty: none)."""
    if not record.is_readable:
        return Checked(record, None, list(record.findings)), ""
    conversation, findings, layout = read_record(record.value, record.row, record.raw if is_json else None)
    if record.findings:
        named = {finding.code for finding in findings}
        # A surrogate found in a turn need not be reported for the whole record again.
        findings += [finding for finding in record.findings if finding.code != "lone-surrogate" or finding.code not in named]
        if any(is_error(finding) for finding in findings):
            conversation = None
    if layout and first_layout and layout != first_layout:
        findings.append(Finding("mixed-formats", {"format": layout, "first": first_layout}))
    return Checked(record, conversation, findings), layout


class FileRows:
    """The conversations of a file that is in no dataset."""

    def __init__(self, path: Path, mapping: ColumnMapping | None = None) -> None:
        self._path, self._mapping = path, mapping

    def numbered(self) -> Iterator[tuple[Conversation, int]]:
        """Every conversation with its row (0-based)."""
        for record, conversation, _ in check_rows(self._path, mapping=self._mapping):
            if conversation is not None:
                yield conversation, record.row


def conversation_at(path: Path, row: int, mapping: ColumnMapping | None = None) -> Conversation:
    """The conversation of one row of a file.

    Raises:
        UserError: there is no such file or row, or the row has an error.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name!r}.", str(path), "Check the path.")
    count = 0
    for record, conversation, findings in check_rows(path, mapping=mapping):
        if record.row == row:
            if conversation is not None:
                return conversation
            issue = make_issue(next(finding for finding in findings if is_error(finding)), row, record.line, record.byte)
            raise UserError(issue.problem, f"{path.name}, row {row}, line {record.line}", issue.remedy)
        count = record.row + 1
    raise UserError(f"There is no row {row}: the file has {count} rows.", str(path), "Rows are counted from 0.")

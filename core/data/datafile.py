"""A data file as records with turns, whatever its container and layout: the one way in for everything that reads conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel

from core.conversation import Conversation
from core.data.batch import Batch
from core.data.csvrows import read_csv
from core.data.cursor import FileFinding, Record
from core.data.layouts import TITLES, Layout, detect, mapped, mapping_of_row
from core.data.mapping import ColumnMapping, convert, first_turns_key
from core.data.parquetrows import read_parquet
from core.data.reader import read_batches, read_records
from core.data.records import read_record
from core.data.rules import Finding, make_issue, shorten

OnFinding = Callable[[FileFinding], None] | None
OnBytes = Callable[[int], None] | None


class DataFile:
    """The file at `path`, read as its layout says or as `mapping` does."""

    def __init__(self, path: Path, mapping: ColumnMapping | None = None) -> None:
        self.path = path
        self.layout: Layout = detect(path) if mapping is None else mapped(path, mapping)

    @property
    def is_json(self) -> bool:
        """Whether a record's raw text is JSON."""
        return self.layout.container != "csv"

    def records(self, on_finding: OnFinding = None, on_bytes: OnBytes = None) -> Iterator[Record]:
        """Every row as a record with turns, readable or not; `raw` stays the text of the row as it stands in the file. Arguments as `batches`."""
        for item in self.batches(on_finding, on_bytes):
            if isinstance(item, Batch):
                yield from item.records()
            else:
                yield item

    def batches(self, on_finding: OnFinding = None, on_bytes: OnBytes = None) -> Iterator[Record | Batch]:
        """As `records`, but rows of plain Vicuna or messages JSON that are good in every respect come many at a time.

        Args:
            on_finding: called with each finding about the file as a whole.
            on_bytes: called with the bytes read so far.
        """
        if self.layout.is_plain and self.layout.kind != "unknown":
            return read_batches(self.path, on_finding, on_bytes)
        return self._converted(on_finding or (lambda _: None), on_bytes)

    def _converted(self, tell: Callable[[FileFinding], None], on_bytes: OnBytes) -> Iterator[Record]:
        layout = self.layout
        if layout.kind == "unknown" and layout.columns:
            tell(FileFinding(Finding("unknown-layout", {"text": _names([column.name for column in layout.columns])})))
        elif not layout.has_own_records and (ignored := layout.ignored()):
            tell(FileFinding(Finding("columns-ignored", {"text": _names(ignored)})))
        for record in self._raw(tell, on_bytes):
            yield self._convert(record) if record.is_readable and layout.kind != "unknown" else record

    def _raw(self, tell: Callable[[FileFinding], None], on_bytes: OnBytes) -> Iterator[Record]:
        match self.layout.container:
            case "json":
                return read_records(self.path, tell, on_bytes)
            case "csv":
                return read_csv(self.path, self.layout.mapping.has_header, tell, on_bytes)
            case "parquet":
                return read_parquet(self.path, tell, on_bytes)

    def _convert(self, record: Record) -> Record:
        if self.layout.has_own_records and first_turns_key(record.value):
            return record  # its own keys are judged as they stand
        mapping = self.layout.mapping
        value, findings = convert(record.value, mapping, record.row)
        is_of_another = any(finding.code == "missing-column" for finding in findings)
        if is_of_another and self.layout.kind != "mapped" and (own := mapping_of_row(record.value)):
            value, findings = convert(record.value, own, record.row)
            findings.append(Finding("mixed-formats", {"format": _form(own), "first": TITLES[self.layout.kind]}))
        return record._replace(value=value, is_readable=value is not None or record.value is None, findings=(*record.findings, *findings))


class Previewed(BaseModel):
    """A row as it would be imported: its conversation, or what stands in the way."""

    row: int  # 0-based
    line: int  # 1-based; 0 in a Parquet file
    messages: list[dict[str, str]]  # role and content; empty when the row would be rejected
    problems: list[str]


def preview(path: Path, mapping: ColumnMapping | None = None, n: int = 5) -> list[Previewed]:
    """The first `n` rows of the file as they would be imported."""
    shown: list[Previewed] = []
    records = DataFile(path, mapping).records()
    for _, record in zip(range(n), records, strict=False):
        conversation: Conversation | None = None
        findings = list(record.findings)
        if record.is_readable:
            conversation, found, _ = read_record(record.value, record.row)
            findings += found
        issues = [make_issue(finding, record.row, record.line, record.byte) for finding in findings]
        if any(issue.severity == "error" for issue in issues):
            conversation = None
        problems = [f"{issue.problem} {issue.remedy}" for issue in issues if issue.severity != "note"]
        messages = conversation.messages() if conversation else []
        shown.append(Previewed(row=record.row, line=record.line, messages=messages, problems=problems))
    return shown


def _form(mapping: ColumnMapping) -> str:
    columns = mapping.turns or f"{mapping.question}, {mapping.answer}"
    return f"({columns})"


def _names(columns: list[str]) -> str:
    more = f" and {len(columns) - 12} more" if len(columns) > 12 else ""
    return ", ".join(shorten(name) for name in columns[:12]) + more

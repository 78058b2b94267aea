"""The report on a data file: every row accounted for, every fault named with its row, turn, line, byte and remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from core.conversation import Conversation
from core.data.batch import Batch
from core.data.cursor import FileFinding
from core.data.duplicates import DuplicateIndex, fingerprint
from core.data.mapping import ColumnMapping
from core.data.places import Places
from core.data.records import beginning_of
from core.data.render import tokenize
from core.data.rows import Checked, check_batches, check_rows, rows_of
from core.data.rules import RULES, Finding, Issue, is_error, make_issue, shorten
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError

MAX_KEPT_ISSUES = 100_000


class Report(BaseModel):
    """What was found in a file. ``num_rows == num_valid + num_rejected``; a row is rejected if and only if it has an error."""

    num_rows: int
    num_valid: int
    num_rejected: int
    counts: dict[str, int]  # of every finding by code
    issues: list[Issue]  # the first MAX_KEPT_ISSUES in the order of the file, its own findings first; `on_issue` hears of all

    @property
    def has_errors(self) -> bool:
        return any(RULES[code].severity == "error" for code in self.counts)


class Listeners(NamedTuple):
    """Who hears what while a file is read: each issue, each row (rejected ones too), and the bytes read so far."""

    on_issue: Callable[[Issue], None] | None = None
    on_row: Callable[[Checked], None] | None = None
    on_bytes: Callable[[int], None] | None = None


def validate(
    path: Path,
    *,
    tokenizer: ChatTokenizer | None = None,
    max_length: int | None = None,
    eval_path: Path | None = None,
    on_issue: Callable[[Issue], None] | None = None,
    mapping: ColumnMapping | None = None,
) -> Report:
    """Read and judge the whole file.

    Args:
        tokenizer: also report conversations without loss and, with `max_length` (tokens), those that would be cut.
        eval_path: also report conversations that are in this evaluation file too.
        on_issue: called with each issue as it is found.
        mapping: what the columns mean; None finds it out.

    Raises:
        UserError: there is no such file.
    """
    return examine(path, Listeners(on_issue), tokenizer, max_length, eval_path, mapping)


def examine(
    path: Path,
    listeners: Listeners,
    tokenizer: ChatTokenizer | None = None,
    max_length: int | None = None,
    eval_path: Path | None = None,
    mapping: ColumnMapping | None = None,
    places: Places | None = None,
) -> Report:
    """As `validate`, with every listener. Of a file made of several, `places` says where its rows and findings begin in theirs."""
    if not path.is_file():
        raise UserError(f"There is no file {path.name!r}.", str(path), "Check the path.")
    account = _Account(listeners.on_issue, places)
    evaluated = _evaluation_rows(eval_path, account) if eval_path else {}
    duplicates = DuplicateIndex()
    looks_inside = bool(evaluated) or tokenizer is not None or listeners.on_row is not None
    for item in check_batches(path, account.file_finding, listeners.on_bytes, mapping):
        if isinstance(item, Batch) and not looks_inside:
            duplicates.add_batch(item)
            account.good_rows(len(item))
            continue
        for checked in rows_of(item) if isinstance(item, Batch) else (item,):
            record, conversation, findings = checked
            if conversation is not None:
                _check_eval(conversation, evaluated, findings)
                if tokenizer is not None and not _check_length(conversation, tokenizer, max_length, findings):
                    checked = Checked(record, None, findings)
            duplicates.add(record, checked.conversation)
            account.row(checked)
            if listeners.on_row:
                listeners.on_row(checked)
    for record, finding in duplicates.findings(path, mapping):
        account.add(finding, record.row, record.line, record.byte)
    return account.report()


def _check_length(conversation: Conversation, tokenizer: ChatTokenizer, max_length: int | None, findings: list[Finding]) -> bool:
    """Whether anything is left to learn within max_length."""
    beginning = beginning_of(conversation)
    try:
        sample = tokenize(conversation, tokenizer, max_length)
    except UserError as error:
        findings.append(Finding("template-refused", {"reason": error.problem, "remedy": error.remedy}))
        return False
    fields: dict[str, object] = {"tokens": sample.full_length, "max_length": max_length, "text": beginning}
    if sample.num_loss_tokens == 0:
        findings.append(Finding("zero-loss", fields))
        return False
    if sample.truncated_answer_tokens:
        findings.append(Finding("answer-truncated", {**fields, "lost": sample.truncated_answer_tokens}))
    return True


def _evaluation_rows(eval_path: Path, account: _Account) -> dict[int, int]:
    """Row numbers of the evaluation file's conversations by fingerprint."""
    if not eval_path.is_file():
        raise UserError(f"There is no file {eval_path.name!r}.", str(eval_path), "Check the path of the evaluation data.")
    rows: dict[int, int] = {}
    for record, conversation, _ in check_rows(eval_path):
        if conversation is not None:
            rows.setdefault(fingerprint(conversation), record.row)
    if not rows:
        account.file_finding(FileFinding(Finding("eval-empty", {"text": shorten(eval_path.name)})))
    return rows


def _check_eval(conversation: Conversation, evaluated: dict[int, int], findings: list[Finding]) -> None:
    if evaluated and (other := evaluated.get(fingerprint(conversation))) is not None:
        findings.append(Finding("eval-leak", {"text": beginning_of(conversation), "other": other}))


class _Account:
    """Adds up a report while the file is read."""

    def __init__(self, on_issue: Callable[[Issue], None] | None, places: Places | None) -> None:
        self._on_issue, self._places = on_issue, places
        self._counts: Counter[str] = Counter()
        self._issues: list[Issue] = []
        self._num_rows = self._num_rejected = 0

    def add(self, finding: Finding, row: int | None, line: int, byte: int) -> None:
        self._counts[finding.code] += 1
        if self._on_issue is None and len(self._issues) >= MAX_KEPT_ISSUES:
            return
        if row is not None and self._places:
            line, byte = self._places.of(row)
        issue = make_issue(finding, row, line, byte)
        if len(self._issues) < MAX_KEPT_ISSUES:
            self._issues.append(issue)
        if self._on_issue:
            self._on_issue(issue)

    def file_finding(self, found: FileFinding) -> None:
        self.add(found.finding, None, found.line, found.byte)

    def row(self, checked: Checked) -> None:
        self._num_rows += 1
        self._num_rejected += checked.conversation is None
        assert (checked.conversation is None) == any(is_error(finding) for finding in checked.findings), checked
        for finding in checked.findings:
            self.add(finding, checked.record.row, checked.record.line, checked.record.byte)

    def good_rows(self, count: int) -> None:
        self._num_rows += count

    def report(self) -> Report:
        self._issues.sort(key=lambda issue: (-1 if issue.row is None else issue.row, -1 if issue.turn is None else issue.turn))
        return Report(
            num_rows=self._num_rows,
            num_valid=self._num_rows - self._num_rejected,
            num_rejected=self._num_rejected,
            counts=dict(sorted(self._counts.items())),
            issues=self._issues,
        )

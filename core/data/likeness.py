"""Near-duplicates as findings: looked for when asked, because it takes a second reading of the whole file."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

from core import paths
from core.data.dataset import LISTED, REPORT, Dataset
from core.data.duplicates import fingerprint
from core.data.findings import keep
from core.data.mapping import ColumnMapping
from core.data.near import THRESHOLD, NearIndex
from core.data.places import Places
from core.data.records import beginning_of
from core.data.rows import FileRows, check_rows
from core.data.rules import Finding, Issue, make_issue
from core.data.split import leakage
from core.data.twins import repeated
from core.data.validate import MAX_KEPT_ISSUES, Report

CODE, LEAK_CODE = "near-duplicate", "near-eval-leak"
PROGRESS_ROWS = 500
OnProgress = Callable[[int, int], None]


def _within(on_progress: OnProgress, dataset: Dataset) -> Callable[[int], None]:
    return lambda row: on_progress(row, dataset.manifest.num_rows)


def near_duplicates(
    path: Path, mapping: ColumnMapping | None = None, threshold: float = THRESHOLD, on_row: Callable[[int], None] | None = None
) -> Iterator[Issue]:
    """Every conversation of the file that is almost the same as an earlier one. Those that are the same word for word are not among them.

    Args:
        on_row: hears now and then how many rows were read.
    """
    rows, lines, places = array("q"), array("q"), array("q")
    prints = array("q")
    with NearIndex() as index:
        for record, conversation, _ in check_rows(path, mapping=mapping):
            if on_row and record.row % PROGRESS_ROWS == 0:
                on_row(record.row)
            if conversation is not None:
                prints.append(fingerprint(conversation))
                rows.append(record.row)
                lines.append(record.line)
                places.append(record.byte)
                index.add_conversation(conversation)
        same = repeated(prints)
        found = {pair.row: pair for pair in index.pairs(threshold, lambda row, other: row not in same and other not in same)}
    if not found:
        return
    at = -1
    for _, conversation, _ in check_rows(path, mapping=mapping):
        at += conversation is not None
        if conversation is not None and (pair := found.get(at)):
            fields = {"text": beginning_of(conversation), "other": rows[pair.other], "share": f"{pair.similarity:.0%}"}
            yield make_issue(Finding(CODE, fields), rows[at], lines[at], places[at])


def near_leaks(path: Path, eval_path: Path, mapping: ColumnMapping | None = None, threshold: float = THRESHOLD) -> Iterator[Issue]:
    """Conversations of a file that are almost, but not quite, in the evaluation file."""
    leaks = {
        leak.row: leak for leak in leakage(FileRows(path, mapping), FileRows(eval_path), threshold=threshold).leaks if not leak.is_exact
    }
    if not leaks:
        return
    for record, conversation, _ in check_rows(path, mapping=mapping):
        if conversation is not None and (leak := leaks.get(record.row)):
            fields = {"text": beginning_of(conversation), "other": leak.eval_row, "share": f"{leak.similarity:.0%}"}
            yield make_issue(Finding(LEAK_CODE, fields), record.row, record.line, record.byte)


def with_near_duplicates(
    report: Report,
    path: Path,
    mapping: ColumnMapping | None = None,
    threshold: float = THRESHOLD,
    on_issue: Callable[[Issue], None] | None = None,
    eval_path: Path | None = None,
) -> Report:
    """The report on a file with its near-duplicates and, with `eval_path`, near leaks; `on_issue` hears of each."""
    issues = list[Issue]()
    counts = Counter[str]()
    leaks = near_leaks(path, eval_path, mapping, threshold) if eval_path else ()
    for issue in chain(near_duplicates(path, mapping, threshold), leaks):
        counts[issue.code] += 1
        if on_issue:
            on_issue(issue)
        if len(report.issues) + len(issues) < MAX_KEPT_ISSUES:
            issues.append(issue)
    merged = sorted([*report.issues, *issues], key=_place)
    return report.model_copy(update={"issues": merged, "counts": dict(sorted({**report.counts, **counts}.items()))})


def find_near_duplicates(dataset: Dataset, threshold: float = THRESHOLD, on_progress: OnProgress | None = None) -> Report:
    """Look for the near-duplicates of a dataset and keep them among its findings, in the place of those found before; returns its report.

    Args:
        on_progress: called with the rows compared and their number; may raise to give up, and nothing is kept.
    """
    near = near_duplicates(dataset.source, dataset.manifest.mapping, threshold, on_progress and _within(on_progress, dataset))
    places = dataset.places()
    found = [_in_its_file(issue, places) for issue in near]
    before = (issue for issue in dataset.findings() if issue.code != CODE)
    keep(dataset.folder, chain(before, found))
    report = dataset.report()
    report = report.model_copy(update={"counts": _counted(report, len(found)), "issues": dataset.findings()[:LISTED]})
    paths.write_text(dataset.folder / REPORT, report.model_dump_json(indent=1) + "\n")
    return report


def _in_its_file(issue: Issue, places: Places | None) -> Issue:
    """The finding with the line and byte of the file that its row came from, where the source was made of several."""
    return issue.model_copy(update=places.of(issue.row)._asdict()) if places and issue.row is not None else issue


def _counted(report: Report, count: int) -> dict[str, int]:
    counts = {code: number for code, number in report.counts.items() if code != CODE}
    return dict(sorted((counts | ({CODE: count} if count else {})).items()))


def _place(issue: Issue) -> tuple[int, int]:
    return -1 if issue.row is None else issue.row, -1 if issue.turn is None else issue.turn

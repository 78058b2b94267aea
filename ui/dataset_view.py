"""What the Dataset tab says of a whole file, as HTML: the first sentence and the findings."""

from __future__ import annotations

from core.data.findings import Findings
from core.data.origin import Origin
from core.data.rules import RULES, Issue, Severity
from core.data.validate import Report
from ui.mask_view import TONES
from ui.view import chip, count, empty, sentence, table, text

WORDS: dict[Severity, str] = {"error": "cannot be trained", "warning": "worth a look", "note": "good to know"}
PAGE_ROWS = 25

NOTHING = empty(
    "Choose the conversations your model will learn from.",
    "Take an example with one click, or drop a file: JSON, JSONL, CSV or Parquet, as Vicuna, ShareGPT, OpenAI messages, Alpaca, or question "
    "and answer. Every row is checked before anything is trained.",
)


def lead(name: str, report: Report, counted: int, cut: int, max_length: int) -> str:
    """The first sentence. Of the first `counted` conversations `cut` lose part of an answer at `max_length` tokens."""
    said = count(report.num_rows, "conversation")
    said += f", {report.num_rejected:,} cannot be trained" if report.num_rejected else ", all of them can be trained"
    more = []
    if cut:
        who = f"{cut:,} more" if counted == report.num_valid else f"Of the first {counted:,}, {cut:,}"
        more.append(f"{who} {'loses' if cut == 1 else 'lose'} part of an answer at {max_length:,} tokens.")
    warned = sum(number for code, number in report.counts.items() if RULES[code].severity == "warning")
    if warned:
        more.append(f"{count(warned, 'finding')} {'is' if warned == 1 else 'are'} worth a look.")
    if not report.counts:
        more.append("Nothing was found wrong.")
    return sentence(f"{name}: {said}.", " ".join(more))


def why_not(report: Report) -> str:
    """Why nothing can be trained on this, or nothing."""
    return "" if report.num_valid else "No conversation in this file can be trained. The findings say how to mend it."


def severities(report: Report) -> list[tuple[str, str]]:
    """The choices of the first filter: each severity that was found, with its count."""
    found = {severity: sum(number for code, number in report.counts.items() if RULES[code].severity == severity) for severity in WORDS}
    total = sum(found.values())
    return [
        (f"All {total:,}", ""),
        *((f"{WORDS[name][0].upper()}{WORDS[name][1:]} {number:,}", name) for name, number in found.items() if number),
    ]


def codes(report: Report, severity: str) -> list[tuple[str, str]]:
    """The choices of the second filter: each code of a severity with its count, the worst and the most frequent first."""
    order = list(WORDS)
    chosen = [code for code in report.counts if severity in ("", RULES[code].severity)]
    ordered = sorted(chosen, key=lambda code: (order.index(RULES[code].severity), -report.counts[code]))
    return [("Every kind", ""), *((f"{RULES[code].title} {report.counts[code]:,}", code) for code in ordered)]


def findings(found: Findings, page: int, origin: Origin) -> str:
    """A page (counted from 1) of the findings, each with a button that opens its row; where there were several files, with its file."""
    if not len(found):
        return '<p class="quiet">No findings: every row can be read and trained.</p>'
    first = (page - 1) * PAGE_ROWS
    shown: list[Issue] = found[first : first + PAGE_ROWS]
    is_long = len(found) > PAGE_ROWS
    where = f"Findings {first + 1:,} to {first + len(shown):,} of {len(found):,}" if is_long else count(len(found), "finding")
    return f'<p class="quiet" role="status">{where}</p>' + table(
        ("Row", "Line", "Finding", "What to do"), (_finding(issue, origin) for issue in shown), "Findings", numeric=(1,)
    )


def row_button(row: int) -> str:
    """What opens a row wherever rows are listed."""
    return f'<button type="button" class="jump" data-row="{row}" aria-label="Open row {row}">{row:,}</button>'


def stood(origin: Origin, row: int) -> str:
    """In which of several files a row stood, and where; nothing when there was one file."""
    place = origin.place(row)
    return f"row {place.row:,} of {place.file}" if place else ""


def _finding(issue: Issue, origin: Origin) -> tuple[str, ...]:
    row = "file" if issue.row is None else row_button(issue.row)
    turn = f", turn {issue.turn}" if issue.turn is not None else ""
    in_file = f", {text(where)}" if issue.row is not None and (where := stood(origin, issue.row)) else ""
    head = f"{chip(RULES[issue.code].title, TONES[issue.severity])} <span class='quiet'>{WORDS[issue.severity]}{turn}{in_file}</span>"
    return row, f"{issue.line:,}", f"{head}<p>{text(issue.problem)}</p>", f"<p>{text(issue.remedy)}</p>"

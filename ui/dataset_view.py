"""What the Dataset tab says of a whole file, as HTML: the first sentence and the findings."""

from __future__ import annotations

from core.data.findings import Findings
from core.data.origin import Origin, Place
from core.data.rules import RULES, Issue, Severity
from core.data.validate import Report
from ui.mask_view import TONES
from ui.view import chip, count, empty, sentence, text

WORDS: dict[Severity, str] = {"error": "cannot be trained", "warning": "worth a look", "note": "good to know"}
PIECE_ROWS = 50  # of the findings, as many as are sent at once

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


def findings(found: Findings, origin: Origin, of: str) -> str:
    """The table of the findings, however many, as ``ui/js/long_list.js`` scrolls it; each has a button that opens its row.

    Of more than one piece only the first is there. `of` says what the table is of, so that a piece of another one is not taken for its own;
    `origin` names the file of each row where there were several.
    """
    if not len(found):
        return '<p class="quiet">No findings: every row can be read and trained.</p>'
    said = f'<p class="quiet"><span role="status">{count(len(found), "finding")}</span><span class="seen"></span></p>'
    heads = "<th scope=col>Row</th><th scope=col class=num>Line</th><th scope=col>Finding</th><th scope=col>What to do</th>"
    return (
        f'{said}<div class="table long-list" tabindex="0" role="region" aria-label="Findings" data-total="{len(found)}" '
        f'data-piece="{PIECE_ROWS}" data-of="{text(of)}"><div class="gap"></div><table aria-rowcount="{len(found) + 1}">'
        f'<thead><tr>{heads}</tr></thead><tbody>{finding_rows(found, 0, origin)}</tbody></table><div class="gap"></div></div>'
    )


def finding_rows(found: Findings, first: int, origin: Origin) -> str:
    """A piece of the table: the rows from number `first` (counted from 0)."""
    shown: list[Issue] = found[first : first + PIECE_ROWS]
    return "".join(f'<tr aria-rowindex="{first + number + 2}">{_finding(issue, origin)}</tr>' for number, issue in enumerate(shown))


def row_button(row: int) -> str:
    """What opens a row wherever rows are listed."""
    return f'<button type="button" class="jump" data-row="{row}" aria-label="Open row {row}">{row:,}</button>'


def stood(place: Place) -> str:
    """In which of several files a row stood, and where."""
    return f"row {place.row:,} of {place.file}"


def _finding(issue: Issue, origin: Origin) -> str:
    row = "file" if issue.row is None else row_button(issue.row)
    turn = f", turn {issue.turn}" if issue.turn is not None else ""
    in_file = f", {text(stood(place))}" if issue.row is not None and (place := origin.place(issue.row)) else ""
    head = f"{chip(RULES[issue.code].title, TONES[issue.severity])} <span class='quiet'>{WORDS[issue.severity]}{turn}{in_file}</span>"
    said = f"<td>{head}<p>{text(issue.problem)}</p></td><td><p>{text(issue.remedy)}</p></td>"
    return f"<td>{row}</td><td class=num>{issue.line:,}</td>{said}"

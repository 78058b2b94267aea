"""An import as HTML: how far it is, why it ended, and for an unknown layout its columns and its first rows as they would be imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.data.imports import ImportJob
from core.data.layouts import Column, Layout
from core.errors import UserError
from ui import feedback
from ui.mask_view import ROLES
from ui.view import count, left, meter, percent, sentence, size, table, text

STOPPED = '<p class="quiet" role="status">The import was stopped; nothing of it is left.</p>'


def progress(job: ImportJob) -> str:
    """How far an import is that goes on."""
    share = job.done_bytes / job.total_bytes if job.total_bytes else 0.0
    label = _label(job)
    return f'{meter(share, label)}<p class="quiet" role="status">{text(label)}</p>'


def _label(job: ImportJob) -> str:
    if not job.stage or not job.total_bytes:
        return f"{job.name}: beginning"
    parts = [f"{size(job.done_bytes)} of {size(job.total_bytes)}"]
    parts += [f"{count(job.rows, 'row')}"] if job.rows else []
    parts += [f"{job.rows_per_s:,.0f} rows per second"] if job.rows_per_s else []
    parts += [left(job.eta_s)] if job.eta_s is not None else []
    return f"{job.name}: {'fetched' if job.stage == 'fetching' else 'checked'} {', '.join(parts)}"


def ended(job: ImportJob) -> str:
    """Why an import that has ended made no dataset."""
    if job.state == "cancelled":
        return STOPPED
    assert job.error, "an import that failed says why"
    return feedback.card(UserError.from_dict(job.error))


def question(job: ImportJob, layout: Layout) -> str:
    """What a person is asked about a file whose layout nobody knows."""
    return sentence(f"{job.name}: which columns hold the question and the answer?", layout.why)


def columns(found: Sequence[Column]) -> str:
    """The columns of the file with what the rows looked at have in them."""
    rows = [
        (
            f"<b>{text(column.name)}</b>",
            text(", ".join(column.kinds)),
            percent(column.share),
            "".join(f"<p>{text(sample)}</p>" for sample in column.samples),
        )
        for column in found
    ]
    return table(("Column", "Holds", "In rows", "For example"), rows, "Columns of the file", numeric=(2,))


def preview(rows: Sequence[dict[str, Any]]) -> str:
    """The first rows as they would be imported, each with what stands in its way."""
    items = "".join(f'<li><span class="role">Row {row["row"]:,}</span>{_row(row)}</li>' for row in rows)
    return f'<ol class="previews" aria-label="First rows as they would be imported">{items}</ol>'


def _row(row: dict[str, Any]) -> str:
    problems = "".join(f'<p class="problem">{text(problem)}</p>' for problem in row["problems"])
    said = "".join(f"<p><b>{ROLES[message['role']]}</b> {text(_short(message['content']))}</p>" for message in row["messages"])
    return said + problems or '<p class="problem">Nothing would be imported.</p>'


def _short(said: str) -> str:
    return said if len(said) <= 300 else f"{said[:300]}…"

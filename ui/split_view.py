"""A split, and what two datasets share, as HTML; and the section about both as it begins."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.data.dataset import Dataset
from core.data.split import Leakage
from ui.dataset_view import row_button
from ui.view import count, percent, table, text

LEAK_ROWS = 50  # that are listed


def reset() -> dict[str, Any]:
    """The section as it begins with a dataset that was just opened, by the names of the tab's outputs."""
    return {"parts": gr.Accordion(open=False), "split_said": "", "split_progress": "", "leaks": ""}


def made(train: Dataset, held_out: Dataset) -> str:
    """The two sides of a split."""
    total = max(1, len(train) + len(held_out))
    said = f"{count(len(train), 'conversation')} to train on, {len(held_out):,} ({percent(len(held_out) / total)}) to evaluate on."
    more = f"{train.name} is open now. The Train tab evaluates on {held_out.name}."
    return f'<p class="sum" role="status"><b>{text(said)}</b> {text(more)}</p>'


def leakage(found: Leakage, other: str) -> str:
    """What the open dataset shares with another one."""
    if not found.num_exact and not found.num_near:
        return f'<p class="sum" role="status">No conversation of this dataset is in {text(other)}, word for word or almost.</p>'
    said = f"{found.num_exact:,} word for word, {found.num_near:,} almost"
    rows = (
        (row_button(leak.row), f"{leak.eval_row:,}", "the same words" if leak.is_exact else f"{percent(leak.similarity)} alike")
        for leak in found.leaks[:LEAK_ROWS]
    )
    shown = table(("Row here", f"Row in {other}", "How much"), rows, "Shared conversations", numeric=(1,))
    listed = len(found.leaks[:LEAK_ROWS])
    total = found.num_exact + found.num_near
    more = f'<p class="quiet">The first {listed:,} are listed.</p>' if total > listed else ""
    are = "is" if total == 1 else "are"
    lead = f"{count(total, 'conversation')} of this dataset {are} in {text(other)} too: {said}."
    return f'<p class="sum" role="status">{lead}</p>{shown}{more}'

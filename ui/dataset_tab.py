"""The Dataset tab: choose conversations, read what was found, look at any row and at what training does with each of its tokens."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import (
    dataset_clean,
    dataset_findings,
    dataset_mapping,
    dataset_origin,
    dataset_rows,
    dataset_sources,
    dataset_split,
    dataset_statistics,
    downloads,
    feedback,
)
from ui import dataset_handlers as on
from ui import dataset_view as view
from ui.opening import opening
from ui.shell import DATASET, Shell, listen_api

VERB = "Train on this dataset"
SHOW_TOP = "() => document.getElementById('dataset-sentence')?.scrollIntoView({behavior: 'smooth', block: 'center'})"


def build(shell: Shell) -> None:
    """Lay the tab out and attach its handlers."""
    top = opening(DATASET, VERB, view.NOTHING)
    slot = feedback.slot()
    at: dict[str, Any] = {
        "dataset_id": shell.dataset_id,
        "form": shell.form,
        "import_id": shell.import_id,
        "import_timer": shell.import_timer,
    }
    at |= top.named | dataset_sources.part()
    with gr.Column(visible=False, elem_id="dataset-evidence") as at["evidence"]:
        at |= dataset_origin.part() | dataset_findings.part() | dataset_rows.part()
        with gr.Column(elem_classes=["sections"]):
            at |= dataset_statistics.part() | dataset_clean.part()
            options = at.pop("options")
            at |= options | dataset_split.part()
    at["file"] = downloads.link("dataset-file")
    dataset_sources.attach(shell, at, slot)
    dataset_mapping.attach(shell, at)
    dataset_findings.attach(shell, at, slot)
    dataset_origin.attach(shell, at, slot)
    dataset_rows.attach(shell, at)
    dataset_statistics.attach(shell, at)
    dataset_clean.attach(shell, at, options)
    dataset_split.attach(shell, at)
    shell.listen(at["seen_as"].change, on.judge_again, inputs=[at["seen_as"], shell.dataset_id], outputs=at)
    shell.listen(shell.tab[DATASET].select, on.list_models, inputs=shell.dataset_id, outputs=at)
    shell.listen(top.action.click, on.go_on, inputs=shell.dataset_id, outputs=shell.tabs, slot=slot)
    shell.dataset_id.change(None, js=SHOW_TOP, api_visibility="private")
    listen_api(on.validate_dataset, "validate_dataset")

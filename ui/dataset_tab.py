"""The Dataset tab: choose or upload conversations, read the report, look at any row and at what training does with each of its tokens."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import dataset_handlers as on
from ui import dataset_view as view
from ui import feedback
from ui.opening import opening
from ui.shell import DATASET, Shell, listen_api

VERB = "Train on this dataset"
JUMP = """element.addEventListener('click', event => {
  const button = event.target.closest('[data-row]');
  if (button) trigger('click', {row: Number(button.dataset.row)});
})"""
SHOW_ROWS = "() => document.getElementById('dataset-rows')?.scrollIntoView({behavior: 'smooth', block: 'start'})"


def build(shell: Shell) -> None:
    """Lay the tab out and attach its handlers."""
    top = opening(DATASET, VERB, view.NOTHING)
    slot = feedback.slot()
    with gr.Row(elem_classes=["sources"], equal_height=True):
        with gr.Column(scale=2, min_width=240):
            gr.HTML('<h2 class="part">Take an example</h2>', container=False, padding=False)
            identity = gr.Button("Identity: teach the starter a new name", elem_id="example-identity")
            broken = gr.Button("Broken: a file with every kind of fault", elem_id="example-broken")
        with gr.Column(scale=3, min_width=260):
            gr.HTML('<h2 class="part">Or bring your own</h2>', container=False, padding=False)
            upload = gr.File(
                label="A Vicuna JSON or JSONL file", file_types=[".json", ".jsonl"], height=112, show_label=False, elem_id="dataset-upload"
            )
        with gr.Column(scale=2, min_width=240):
            before = gr.Dropdown([], label="Or one imported before", visible=False, elem_id="dataset-before")
    progress = gr.HTML("", container=False, padding=False, elem_classes=["working"])
    with gr.Column(visible=False, elem_id="dataset-evidence") as evidence:
        at = _findings_part() | _rows_part()
    at |= {"upload": upload, "before": before, "progress": progress, "evidence": evidence, "dataset_id": shell.dataset_id} | top.named
    for button, handler in ((identity, on.example_identity), (broken, on.example_broken)):
        shell.listen(button.click, handler, inputs=_settings(at), outputs=at, slot=slot)
    _attach_sources(shell, at, slot)
    _attach_findings(shell, at, slot)
    _attach_rows(shell, at)
    shell.listen(shell.tab[DATASET].select, on.list_models, inputs=shell.dataset_id, outputs=at)
    shell.listen(top.action.click, on.go_on, inputs=shell.dataset_id, outputs=shell.tabs, slot=slot)
    listen_api(on.validate_dataset, "validate_dataset")


def _findings_part() -> dict[str, Any]:
    gr.HTML('<h2 class="part">Findings</h2>', container=False, padding=False)
    code = gr.Radio(
        [("All", "")], value="", label="Show", show_label=False, elem_classes=["chips"], container=False, elem_id="dataset-codes"
    )
    table = gr.HTML("", js_on_load=JUMP, container=False, padding=False, elem_id="dataset-findings")
    with gr.Row(elem_classes=["pager"]):
        earlier = gr.Button("Previous findings", size="sm", scale=0, min_width=150, visible=False)
        later = gr.Button("More findings", size="sm", scale=0, min_width=150, visible=False)
    return {"code": code, "table": table, "page": gr.State(0), "earlier": earlier, "later": later}


def _rows_part() -> dict[str, Any]:
    gr.HTML('<h2 class="part" id="dataset-rows">Rows, as a chat and as training sees them</h2>', container=False, padding=False)
    with gr.Row(elem_classes=["row-controls"], equal_height=False):
        row = gr.Number(0, label="Row, counted from 0", precision=0, minimum=0, min_width=130, elem_id="dataset-row")
        back = gr.Button("Previous row", scale=0, min_width=120)
        forth = gr.Button("Next row", scale=0, min_width=120)
        model = gr.Dropdown([("Embedded starter", "starter")], value="starter", label="Tokenizer and template of", min_width=200)
        max_length = gr.Number(256, label="Maximum length (tokens)", precision=0, minimum=1, min_width=150)
        loss_on = gr.Dropdown(
            [("every answer", "answers"), ("the last answer", "last"), ("the whole text", "all")],
            value="answers",
            label="Loss on",
            min_width=150,
        )
    slot = feedback.slot()
    with gr.Row(elem_classes=["row-view"]):
        chat = gr.HTML("", elem_id="dataset-bubbles", container=False, padding=False)
        tokens = gr.HTML("", elem_id="dataset-tokens", container=False, padding=False)
    lengths = gr.HTML("", elem_id="dataset-lengths", container=False, padding=False)
    return {"row": row, "back": back, "forth": forth, "model": model, "max_length": max_length, "loss_on": loss_on, "row_slot": slot,
            "chat": chat, "tokens": tokens, "lengths": lengths}  # fmt: skip


def _settings(at: dict[str, Any]) -> list[Any]:
    return [at["model"], at["max_length"], at["loss_on"]]


def _attach_sources(shell: Shell, at: dict[str, Any], slot: gr.HTML) -> None:
    opens: dict[str, Any] = {"outputs": at, "slot": slot}
    shell.listen(at["before"].input, on.choose, inputs=[at["before"], *_settings(at)], **opens)
    shell.listen(shell.demo.load, on.reopen, inputs=[shell.dataset_id, *_settings(at)], **opens)
    shell.listen(at["upload"].upload, on.take_upload, inputs=[at["upload"], *_settings(at)], concurrency_limit=4, **opens)


def _attach_findings(shell: Shell, at: dict[str, Any], slot: gr.HTML) -> None:
    turns: dict[str, Any] = {"outputs": at, "slot": slot}
    shell.listen(at["code"].input, on.first_page, inputs=[shell.dataset_id, at["code"]], **turns)
    shell.listen(at["earlier"].click, on.previous_page, inputs=[shell.dataset_id, at["code"], at["page"]], **turns)
    shell.listen(at["later"].click, on.next_page, inputs=[shell.dataset_id, at["code"], at["page"]], **turns)
    jumped = shell.listen(at["table"].click, on.jump, outputs=at["row"], slot=at["row_slot"])
    jumped.then(None, js=SHOW_ROWS)


def _attach_rows(shell: Shell, at: dict[str, Any]) -> None:
    moves: dict[str, Any] = {"inputs": [shell.dataset_id, at["row"]], "outputs": at["row"], "slot": at["row_slot"]}
    shell.listen(at["back"].click, on.previous_row, **moves)
    shell.listen(at["forth"].click, on.next_row, **moves)
    look = {"inputs": [shell.dataset_id, at["row"], *_settings(at)], "slot": at["row_slot"], "trigger_mode": "always_last"}
    shell.listen(at["row"].change, on.look_at, outputs=at, **look)
    shell.listen([at["model"].input, at["max_length"].input, at["loss_on"].input], on.look_again, outputs=at, **look)

"""Where a dataset comes from: an example, a file, or one imported before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.data.render import LossOn
from ui import background, dataset_rows
from ui import dataset_data as data
from ui import dataset_handlers as on
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import meter, size, text

Shown = dict[str, Any]  # values by the names of the tab's outputs


def part() -> Shown:
    """Lay it out; returns the components by name."""
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
    return {"identity": identity, "broken": broken, "upload": upload, "before": before, "progress": progress}


def attach(shell: Shell, at: Shown, slot: gr.HTML) -> None:
    settings = dataset_rows.settings(at)
    opens: dict[str, Any] = {"outputs": at, "slot": slot}
    for button, handler in ((at["identity"], example_identity), (at["broken"], example_broken)):
        shell.listen(button.click, handler, inputs=settings, **opens)
    shell.listen(at["before"].input, on.choose, inputs=[at["before"], *settings], **opens)
    shell.listen(at["upload"].upload, take_upload, inputs=[at["upload"], *settings], concurrency_limit=4, **opens)


@allowed("public")
def example_identity(model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return on.opened(data.import_example("identity"), model, max_length, loss_on, caller)


@allowed("public")
def example_broken(model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return on.opened(data.import_example("broken"), model, max_length, loss_on, caller)


@allowed("public")
def take_upload(upload: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    """Import an uploaded file, with a bar while it takes long; then show it."""
    for work in background.watch(lambda tell: data.import_upload(upload, caller, tell)):
        if work.is_finished:
            yield {"progress": "", "upload": None} | on.opened(work.result, model, max_length, loss_on, caller)
        else:
            yield {"progress": _bar(work)}


def _bar(work: background.Work) -> str:
    share = work.done / work.total if work.total else 0.0
    speed = work.done / work.elapsed_s if work.elapsed_s else 0.0
    label = f"Checked {size(work.done)} of {size(work.total)}, {size(speed)} per second" if work.total else "Reading the file"
    return f'{meter(share, label)}<p class="quiet" role="status">{text(label)}</p>'

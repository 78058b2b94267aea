"""The open dataset in two parts, to train and to evaluate on; what it shares with another one; and as a file to take away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.data.render import LossOn
from core.data.split import By, leakage, split_dataset
from core.data.writer import Form, write
from core.errors import UserError
from ui import background, dataset_rows, downloads, feedback, handles, shares, split_view
from ui import dataset_data as data
from ui import dataset_handlers as on
from ui.access import Caller, allowed
from ui.dataset_findings import JUMP, SHOW_ROWS, jump
from ui.shell import Shell
from ui.train_handlers import HANDED_OVER, fresh
from ui.view import meter

Shown = dict[str, Any]  # values by the names of the tab's outputs
SUFFIXES = [("JSONL", ".jsonl"), ("JSON", ".json"), ("Parquet", ".parquet")]
MAX_SEED = 2**31 - 1


def part() -> Shown:
    """Lay it out; returns the components by name."""
    html: dict[str, Any] = {"container": False, "padding": False}
    closed: dict[str, Any] = {"open": False, "elem_classes": ["group"]}
    with gr.Accordion("Split and download", elem_id="dataset-split", **closed) as parts:
        gr.HTML('<h3 class="part">Two datasets: to train on and to evaluate on</h3>', **html)
        with gr.Row(elem_classes=["fields"], equal_height=False):
            share = gr.Number(5, label="Share to evaluate on (%)", minimum=0.1, maximum=90, elem_id="split-share")
            seed = gr.Number(42, label="Seed", info="The same seed gives the same split.", precision=0, minimum=0, maximum=MAX_SEED)
            by = gr.Dropdown([("conversations", "count"), ("characters", "characters")], value="count", label="Share counted in")
            near = gr.Checkbox(
                True, label="Keep near-duplicates on one side", info="Conversations that are the same word for word always stay together."
            )
        slot = feedback.slot()
        progress = gr.HTML("", elem_classes=["working"], **html)
        with gr.Row(elem_classes=["actions"]):
            split = gr.Button("Split the dataset", scale=0, min_width=200, elem_id="split-now")
        gr.HTML('<h3 class="part">Leakage: what is in another dataset too</h3>', **html)
        with gr.Row(elem_classes=["fields"], equal_height=False):
            other = gr.Dropdown([], label="Evaluation dataset", elem_id="leakage-other")
        with gr.Row(elem_classes=["actions"]):
            compare = gr.Button("Look for leakage", scale=0, min_width=200, elem_id="leakage-now")
        leaks = gr.HTML("", js_on_load=JUMP, elem_id="leaks", **html)
        gr.HTML('<h3 class="part">As a file</h3>', **html)
        with gr.Row(elem_classes=["fields"], equal_height=False):
            form = gr.Dropdown([("Vicuna", "vicuna"), ("OpenAI messages", "messages")], value="vicuna", label="Layout")
            suffix = gr.Dropdown(SUFFIXES, value=".jsonl", label="File", elem_id="download-suffix")
        with gr.Row(elem_classes=["actions"]):
            save = gr.Button("Download the conversations", scale=0, min_width=260, elem_id="download-now")
    return {
        "parts": parts, "share": share, "seed": seed, "by": by, "near": near, "split_slot": slot, "split_progress": progress,
        "split_now": split, "other": other, "compare": compare, "leaks": leaks, "layout": form, "suffix": suffix, "save": save,
    }  # fmt: skip


def attach(shell: Shell, at: Shown) -> None:
    to: dict[str, Any] = {"outputs": at, "slot": at["split_slot"], "concurrency_limit": 2}
    shell.listen(at["parts"].expand, list_others, inputs=shell.dataset_id, outputs=at, slot=at["split_slot"])
    chosen = [shell.dataset_id, at["share"], at["seed"], at["by"], at["near"], shell.form, *dataset_rows.settings(at)]
    shell.listen(at["split_now"].click, split, inputs=chosen, **to)
    shell.listen(at["compare"].click, compare, inputs=[shell.dataset_id, at["other"], at["near"]], **to)
    shell.listen(at["save"].click, save, inputs=[shell.dataset_id, at["layout"], at["suffix"]], **to)
    jumped = shell.listen(at["leaks"].click, jump, outputs=at["row"], slot=at["row_slot"])
    jumped.then(None, js=SHOW_ROWS)


@allowed("public")
def list_others(dataset_id: str, caller: Caller) -> Shown:
    """What the open dataset can be compared with."""
    return {"other": gr.Dropdown([choice for choice in data.earlier(caller) if choice[1] != dataset_id], value=None)}


@allowed("public")
def split(
    dataset_id: str,
    share: float,
    seed: float,
    by: By,
    near: bool,
    form: dict[str, Any] | None,
    model: str,
    max_length: float,
    loss_on: LossOn,
    caller: Caller,
) -> Iterator[Shown]:
    """Make both parts, open the one to train on, and put the other into the form of the Train tab."""
    dataset = handles.open_for(dataset_id, caller)
    shares.require_room(dataset.manifest.size_bytes, caller)
    fraction, number = (share or 0) / 100, int(seed or 0)
    for work in background.watch(lambda _: shares.made(lambda: split_dataset(dataset, fraction, number, by, near), caller)):
        if not work.is_finished:
            yield {"split_progress": _working("Splitting"), "split_now": gr.Button(interactive=False)}
            continue
        train, held_out = work.result
        kept = form or fresh()
        kept = kept | {"values": kept["values"] | {"eval_dataset": handles.of(held_out, caller)}, HANDED_OVER: True}
        said = {"split_said": split_view.made(train, held_out), "split_now": gr.Button(interactive=True), "form": kept}
        yield on.opened(train, model, max_length, loss_on, caller) | said


@allowed("owner")
def compare(dataset_id: str, other_id: str, near: bool, caller: Caller) -> Iterator[Shown]:
    """Every conversation that the open dataset shares with another one."""
    if not other_id:
        raise UserError("No evaluation dataset is chosen.", "Evaluation dataset", "Choose one that was imported before.")
    dataset, other = handles.open_for(dataset_id, caller), handles.open_for(other_id, caller)
    for work in background.watch(lambda _: leakage(dataset, other, near)):
        if not work.is_finished:
            yield {"leaks": _working("Comparing")}
        else:
            yield {"leaks": split_view.leakage(work.result, other.name)}


@allowed("public")
def save(dataset_id: str, layout: Form, suffix: str, caller: Caller) -> Iterator[Shown]:
    """Write the conversations that can be trained to a file for the browser."""
    dataset = handles.open_for(dataset_id, caller)
    if suffix not in dict(SUFFIXES).values():
        raise UserError(f"{suffix!r} is no kind of file.", "File", "Choose one from the list.")
    path = downloads.place(dataset.name, suffix)
    yield from downloads.sent(path, lambda: write(dataset, path, layout), "split_progress")


def _working(doing: str) -> str:
    return f'{meter(1.0, doing)}<p class="quiet" role="status">{doing}</p>'

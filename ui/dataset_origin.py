"""Where the open dataset came from; after a cleaning the account of its rows, and those that were dropped, to look at and to take back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.data import clean as cleaning
from core.data import imports
from core.data.render import LossOn
from core.errors import UserError
from ui import background, dataset_mapping, dataset_rows, feedback, handles, origin_view, shares
from ui import dataset_data as data
from ui import dataset_handlers as on
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import count

Shown = dict[str, Any]  # values by the names of the tab's outputs
SHOW_MAPPING = "() => document.getElementById('dataset-mapping')?.scrollIntoView({behavior: 'smooth'})"


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Row(elem_classes=["origin-row"], equal_height=True):
        origin = gr.HTML("", container=False, padding=False, elem_id="dataset-origin")
        open_parent = gr.Button("Open what it was made from", size="sm", scale=0, min_width=160, visible=False, elem_id="dataset-parent")
        map_columns = gr.Button("Map the columns", size="sm", scale=0, min_width=140, visible=False, elem_id="dataset-map")
    said = gr.HTML("", container=False, padding=False, elem_id="split-said")
    with gr.Column(visible=False, elem_classes=["part-of-tab"]) as lineage:
        account = gr.HTML("", container=False, padding=False, elem_id="dataset-account")
        with gr.Accordion("Dropped rows", open=False, elem_classes=["group"], elem_id="dataset-dropped") as dropped:
            code = gr.Radio([("All", "")], value="", label="Dropped by", show_label=False, elem_classes=["chips"], container=False)
            listed = gr.HTML("", container=False, padding=False)
            rows = gr.CheckboxGroup([], label="Rows to take back as they were", elem_id="dropped-rows")
            with gr.Row(elem_classes=["pager"]) as pager:
                earlier = gr.Button("Previous rows", size="sm", scale=0, min_width=130)
                later = gr.Button("More rows", size="sm", scale=0, min_width=130)
            slot = feedback.slot()
            progress = gr.HTML("", container=False, padding=False, elem_classes=["working"])
            with gr.Row(elem_classes=["actions"]):
                take_back = gr.Button("Take the chosen rows back", scale=0, min_width=230, interactive=False, elem_id="take-back")
    return {
        "origin": origin, "open_parent": open_parent, "map_columns": map_columns, "lineage": lineage, "account_done": account,
        "dropped": dropped, "dropped_code": code, "dropped_said": listed, "split_said": said, "dropped_rows": rows,
        "dropped_page": gr.State(1), "dropped_pager": pager, "dropped_earlier": earlier, "dropped_later": later, "dropped_slot": slot,
        "take_progress": progress, "take_back": take_back,
    }  # fmt: skip


def attach(shell: Shell, at: Shown, slot: gr.HTML) -> None:
    settings = dataset_rows.settings(at)
    shell.listen(at["open_parent"].click, open_parent, inputs=[shell.dataset_id, *settings], outputs=at, slot=slot)
    shell.listen(at["map_columns"].click, map_columns, inputs=shell.dataset_id, outputs=at, slot=slot).then(None, js=SHOW_MAPPING)
    pages: dict[str, Any] = {
        "inputs": [shell.dataset_id, at["dropped_code"], at["dropped_page"]],
        "outputs": at,
        "slot": at["dropped_slot"],
    }
    shell.listen([at["dropped"].expand, at["dropped_code"].input], first_dropped, **pages)
    shell.listen(at["dropped_earlier"].click, earlier_dropped, **pages)
    shell.listen(at["dropped_later"].click, later_dropped, **pages)
    shell.listen(at["dropped_rows"].input, choose_rows, inputs=at["dropped_rows"], outputs=at, slot=at["dropped_slot"])
    shell.listen(
        at["take_back"].click,
        take_back,
        inputs=[shell.dataset_id, at["dropped_rows"], *settings],
        outputs=at,
        slot=at["dropped_slot"],
        concurrency_limit=2,
    )


@allowed("public")
def open_parent(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    parent = origin_view.parent_of(handles.open_for(dataset_id, caller))
    if parent is None:
        raise UserError("What this dataset was made from is not here any more.", "the workspace", "Import it again.")
    return on.opened(parent, model, max_length, loss_on, caller)


@allowed("public")
def map_columns(dataset_id: str, caller: Caller) -> Shown:
    """Ask which columns of the open dataset's source mean what; what is made by the answer is another dataset."""
    import_id = shares.imported(imports.ask(handles.open_for(dataset_id, caller)), caller)
    return {"import_id": import_id, **dataset_mapping.opened(import_id)}


@allowed("public")
def first_dropped(dataset_id: str, code: str, page: int, caller: Caller) -> Shown:
    return origin_view.dropped_page(handles.open_for(dataset_id, caller), code or "", 1)


@allowed("public")
def earlier_dropped(dataset_id: str, code: str, page: int, caller: Caller) -> Shown:
    return origin_view.dropped_page(handles.open_for(dataset_id, caller), code or "", page - 1)


@allowed("public")
def later_dropped(dataset_id: str, code: str, page: int, caller: Caller) -> Shown:
    return origin_view.dropped_page(handles.open_for(dataset_id, caller), code or "", page + 1)


@allowed("public")
def choose_rows(rows: list[str]) -> Shown:
    """The button says how many rows it takes back."""
    label = f"Take {count(len(rows), 'row')} back" if rows else "Take the chosen rows back"
    return {"take_back": gr.Button(label, interactive=bool(rows))}


@allowed("public")
def take_back(dataset_id: str, rows: list[str], model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    """Make the dataset anew with these rows as they were, then open it."""
    dataset = handles.open_for(dataset_id, caller)
    shares.require_room(dataset.manifest.size_bytes, caller)
    tokenizer = data.tokenizer_of(model, caller) if (dataset.manifest.made_by or {}).get("tokenizer") else None
    numbers = [int(row) for row in rows]
    for work in background.watch(lambda tell: shares.made(lambda: cleaning.restore(dataset, numbers, tokenizer, tell), caller)):
        if work.is_finished:
            yield {"take_progress": ""} | on.opened(work.result, model, max_length, loss_on, caller)
        else:
            yield {"take_progress": background.bar(work, "Made"), "take_back": gr.Button(interactive=False)}

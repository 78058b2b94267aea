"""What the Dataset tab answers to: each handler calls the engine, makes HTML of it, and returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.data.dataset import Dataset, open_dataset
from core.data.render import LossOn, tokenize
from core.data.validate import validate
from core.errors import UserError
from ui import background
from ui import dataset_data as data
from ui import dataset_view as view
from ui.access import Caller, allowed
from ui.feedback import card
from ui.opening import said_by_name
from ui.shell import TRAIN
from ui.view import meter, size, text

NO_DATA = "Choose a dataset first."
LISTED_BY_API = 1000  # findings that one call of the endpoint returns
Shown = dict[str, Any]  # values by the names of the tab's outputs


@allowed("public")
def example_identity(model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return _opened(data.import_example("identity"), model, max_length, loss_on, caller)


@allowed("public")
def example_broken(model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return _opened(data.import_example("broken"), model, max_length, loss_on, caller)


@allowed("owner")
def choose(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return _opened(open_dataset(dataset_id), model, max_length, loss_on, caller)


@allowed("public")
def take_upload(upload: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    """Import an uploaded file, with a bar while it takes long; then show it."""
    for work in background.watch(lambda tell: data.import_upload(upload, caller, tell)):
        if work.is_finished:
            yield {"progress": "", "upload": None} | _opened(work.result, model, max_length, loss_on, caller)
        else:
            yield {"progress": _bar(work)}


@allowed("public")
def reopen(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """The dataset that was open before a reload; nothing when it is gone."""
    try:
        dataset = open_dataset(dataset_id)
    except UserError:
        return said_by_name(view.NOTHING, NO_DATA) | {"dataset_id": "", "before": _before(caller)}
    return _opened(dataset, model, max_length, loss_on, caller)


def _opened(dataset: Dataset, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """Everything that depends on which dataset is open."""
    report, row = data.report_of(dataset.id), _first_row(dataset)
    chat, tokens = _row(dataset, row, model, max_length, loss_on)
    return {
        "dataset_id": dataset.id,
        "evidence": gr.Column(visible=True),
        "code": gr.Radio(view.codes(report), value="", visible=bool(report.counts)),
        "row": row,
        "chat": chat,
        "tokens": tokens,
        "lengths": _lengths(dataset, model, max_length, loss_on),
        "before": _before(caller, dataset.id),
        **said_by_name(_lead(dataset, model, max_length, loss_on), view.why_not(report)),
        **_page(dataset.id, "", 0),
    }


def _first_row(dataset: Dataset) -> int:
    return dataset.source_position(0)[0] if len(dataset) else 0


def _lead(dataset: Dataset, model: str, max_length: float, loss_on: LossOn) -> str:
    found = data.lengths(dataset.id, model, int(max_length), loss_on)
    return view.lead(dataset.name, data.report_of(dataset.id), len(found.tokens), found.num_cut, int(max_length))


def _lengths(dataset: Dataset, model: str, max_length: float, loss_on: LossOn) -> str:
    found = data.lengths(dataset.id, model, int(max_length), loss_on)
    return view.lengths(found.tokens, int(max_length), len(dataset))


def _page(dataset_id: str, code: str, page: int) -> Shown:
    """A page of findings: the table, the page's number, and the buttons to the pages beside it."""
    report = data.report_of(dataset_id)
    last = view.num_pages(report, code) - 1
    page = max(0, min(page, last))
    table = view.findings(report, code, page)
    return {"table": table, "page": page, "earlier": gr.Button(visible=page > 0), "later": gr.Button(visible=page < last)}


@allowed("public")
def first_page(dataset_id: str, code: str) -> Shown:
    return _page(dataset_id, code or "", 0)


@allowed("public")
def previous_page(dataset_id: str, code: str, page: int) -> Shown:
    return _page(dataset_id, code or "", page - 1)


@allowed("public")
def next_page(dataset_id: str, code: str, page: int) -> Shown:
    return _page(dataset_id, code or "", page + 1)


@allowed("public")
def jump(event: gr.EventData) -> int:
    """The row whose button in the findings was pressed."""
    return int(event.row)


@allowed("public")
def previous_row(dataset_id: str, row: float) -> int:
    return _within(dataset_id, (row or 0) - 1)


@allowed("public")
def next_row(dataset_id: str, row: float) -> int:
    return _within(dataset_id, (row or 0) + 1)


def _within(dataset_id: str, row: float) -> int:
    return max(0, min(int(row), open_dataset(dataset_id).manifest.num_rows - 1))


@allowed("public")
def look_at(dataset_id: str, row: float, model: str, max_length: float, loss_on: LossOn) -> Shown:
    chat, tokens = _row(open_dataset(dataset_id), int(row or 0), model, max_length, loss_on)
    return {"chat": chat, "tokens": tokens}


@allowed("public")
def look_again(dataset_id: str, row: float, model: str, max_length: float, loss_on: LossOn) -> Shown:
    """The row, the lengths and the sentence after a change of model, maximum length or loss."""
    dataset = open_dataset(dataset_id)
    chat, tokens = _row(dataset, int(row or 0), model, max_length, loss_on)
    graph, lead = _lengths(dataset, model, max_length, loss_on), _lead(dataset, model, max_length, loss_on)
    return {"chat": chat, "tokens": tokens, "lengths": graph, "sentence": lead}


def _row(dataset: Dataset, row: int, model: str, max_length: float, loss_on: LossOn) -> tuple[str, str]:
    """The row as a chat, and its tokens; for a rejected row its raw text and why."""
    conversation = data.conversation_of(dataset, row)
    if conversation is None:
        return view.rejected(*data.rejected_row(dataset, row), row), ""
    try:
        tokenizer = data.tokenizer_of(model)
        return view.bubbles(conversation), view.tokens(tokenize(conversation, tokenizer, max(1, int(max_length)), loss_on), tokenizer)
    except UserError as error:
        return view.bubbles(conversation), card(error)


@allowed("public")
def list_models(dataset_id: str, caller: Caller) -> Shown:
    return {"model": gr.Dropdown(data.tokenizers()), "before": _before(caller, dataset_id)}


def _before(caller: Caller, dataset_id: str = "") -> gr.Dropdown:
    """What was imported before, with the open one chosen; hidden while there is nothing to choose from."""
    choices = data.earlier(caller)
    chosen = dataset_id if dataset_id in {value for _, value in choices} else None
    return gr.Dropdown(choices, value=chosen, visible=bool(choices))


@allowed("public")
def go_on(dataset_id: str) -> gr.Tabs:
    """To the Train tab, which finds the dataset by the id that travels along."""
    open_dataset(dataset_id)
    return gr.Tabs(selected=TRAIN)


@allowed("public")
def validate_dataset(file: gr.FileData, caller: Caller) -> dict[str, Any]:
    """Check a Vicuna JSON or JSONL file: counts, and the first findings with row, turn, line, byte, problem and remedy."""
    path = data.uploaded(file)
    data.check_size(path.stat().st_size, caller)
    report = validate(path).model_dump(mode="json")
    return report | {"issues": report["issues"][:LISTED_BY_API]}


def _bar(work: background.Work) -> str:
    share = work.done / work.total if work.total else 0.0
    speed = work.done / work.elapsed_s if work.elapsed_s else 0.0
    label = f"Checked {size(work.done)} of {size(work.total)}, {size(speed)} per second" if work.total else "Reading the file"
    return f'{meter(share, label)}<p class="quiet" role="status">{text(label)}</p>'

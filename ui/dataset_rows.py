"""One row of the open dataset, as a chat and as training sees it: by its number, by a finding, or by words it holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.data.dataset import Dataset
from core.data.lookup import Rejected, look_up, search
from core.data.render import LossOn
from core.errors import UserError
from ui import dataset_data as data
from ui import feedback, handles, mask_view
from ui.access import Caller, allowed
from ui.dataset_view import stood
from ui.shell import Shell
from ui.view import text

Shown = dict[str, Any]  # values by the names of the tab's outputs
SAID_EVERY_S = 0.3
LONGEST_WORDS = 300  # characters that can be searched for
LOSSES = [("every answer", "answers"), ("the last answer", "last"), ("the whole text", "all")]


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Column(elem_classes=["part-of-tab"]):
        gr.HTML('<h2 class="part" id="dataset-rows">Rows, as a chat and as training sees them</h2>', container=False, padding=False)
        with gr.Row(elem_classes=["row-controls"], equal_height=False):
            row = gr.Number(0, label="Row, counted from 0", precision=0, minimum=0, min_width=120, elem_id="dataset-row")
            back = gr.Button("Previous row", scale=0, min_width=120)
            forth = gr.Button("Next row", scale=0, min_width=110)
            words = gr.Textbox(
                label="Find in conversations",
                placeholder="any words, upper or lower case alike",
                max_length=LONGEST_WORDS,
                min_width=200,
                scale=2,
                elem_id="dataset-words",
            )
            hit_before = gr.Button("Previous hit", scale=0, min_width=120)
            hit_after = gr.Button("Next hit", scale=0, min_width=110)
        with gr.Row(elem_classes=["row-controls", "settings"], equal_height=False):
            model = gr.Dropdown(
                data.tokenizers(),
                value="starter",
                label="Tokenizer and template of",
                allow_custom_value=True,
                min_width=220,
                scale=2,
                elem_id="dataset-model",
            )
            max_length = gr.Number(
                256, label="Maximum length (tokens)", precision=0, minimum=1, min_width=150, elem_id="dataset-max-length"
            )
            loss_on = gr.Dropdown(LOSSES, value="answers", label="Loss on", min_width=150, elem_id="dataset-loss-on")
        slot = feedback.slot()
        sought = gr.HTML("", container=False, padding=False, elem_id="dataset-sought")
        found_here = gr.HTML("", container=False, padding=False, elem_id="dataset-row-findings")
        with gr.Row(elem_classes=["row-view"]):
            chat = gr.HTML("", elem_id="dataset-bubbles", container=False, padding=False)
            tokens = gr.HTML("", elem_id="dataset-tokens", container=False, padding=False)
    return {
        "row": row, "back": back, "forth": forth, "words": words, "hit_before": hit_before, "hit_after": hit_after, "model": model,
        "max_length": max_length, "loss_on": loss_on, "row_slot": slot, "sought": sought, "found_here": found_here,
        "chat": chat, "tokens": tokens, "seen_as": gr.State(None),
    }  # fmt: skip


def settings(at: Shown) -> list[Any]:
    """What every view of tokens depends on."""
    return [at["model"], at["max_length"], at["loss_on"]]


def attach(shell: Shell, at: Shown) -> None:
    moves: dict[str, Any] = {"inputs": [shell.dataset_id, at["row"]], "outputs": at["row"], "slot": at["row_slot"]}
    shell.listen(at["back"].click, previous_row, **moves)
    shell.listen(at["forth"].click, next_row, **moves)
    look = {"inputs": [shell.dataset_id, at["row"], at["words"], *settings(at)], "slot": at["row_slot"]}
    changed = [component.input for component in settings(at)]
    shell.listen(changed, settle, inputs=settings(at), outputs=at["seen_as"])
    shell.listen([at["row"].change, at["seen_as"].change], look_at, outputs=at, concurrency_limit=4, **look)
    seek: dict[str, Any] = {"inputs": [shell.dataset_id, at["words"], at["row"], *settings(at)], "outputs": at, "slot": at["row_slot"]}
    shell.listen([at["hit_after"].click, at["words"].submit], next_hit, concurrency_limit=4, **seek)
    shell.listen(at["hit_before"].click, previous_hit, concurrency_limit=4, **seek)


@allowed("public")
def settle(model: str, max_length: float, loss_on: LossOn) -> list[Any]:
    """The settings as one value, whose change every view of tokens listens to. (A state tells of its change only in queued events.)"""
    return [model, max_length, loss_on]


def opened(dataset: Dataset, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """The first row that can be trained, or the first one."""
    row = dataset.source_position(0)[0] if len(dataset) else 0
    shown = _row(dataset, row, "", model, max_length, loss_on, caller) if dataset.manifest.num_rows else _nothing()
    return {"row": row, "sought": "", "words": "", **shown}


def _nothing() -> Shown:
    return {"chat": "", "tokens": "", "found_here": ""}


def _row(dataset: Dataset, row: int, words: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """The row as a chat, and its tokens; for a rejected row its raw text; in both cases what was found on it."""
    found = look_up(dataset, row)
    place = dataset.manifest.origin.place(row)
    issues = (_said(f"This is {stood(place)}.") if place else "") + mask_view.row_findings(dataset.findings(), row)
    if isinstance(found, Rejected):
        return {"chat": mask_view.rejected(found, place.file if place else "the file"), "tokens": "", "found_here": issues}
    try:
        tokens = mask_view.tokens(data.masked(found, model, max(1, int(max_length or 1)), loss_on, caller))
    except UserError as error:
        tokens = feedback.card(error)
    return {"chat": mask_view.bubbles(found, (words or "").strip()), "tokens": tokens, "found_here": issues}


@allowed("public")
def look_at(dataset_id: str, row: float, words: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """The row of this number. The number may arrive before the dataset that it belongs to."""
    return _row(handles.open_for(dataset_id, caller), int(row or 0), words, model, max_length, loss_on, caller) if dataset_id else {}


@allowed("public")
def previous_row(dataset_id: str, row: float, caller: Caller) -> int:
    return _within(handles.open_for(dataset_id, caller), (row or 0) - 1)


@allowed("public")
def next_row(dataset_id: str, row: float, caller: Caller) -> int:
    return _within(handles.open_for(dataset_id, caller), (row or 0) + 1)


def _within(dataset: Dataset, row: float) -> int:
    return max(0, min(int(row), dataset.manifest.num_rows - 1))


@allowed("public")
def next_hit(dataset_id: str, words: str, row: float, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    yield from _seek(handles.open_for(dataset_id, caller), words, int(row or 0), (model, max_length, loss_on, caller), is_forward=True)


@allowed("public")
def previous_hit(
    dataset_id: str, words: str, row: float, model: str, max_length: float, loss_on: LossOn, caller: Caller
) -> Iterator[Shown]:
    yield from _seek(handles.open_for(dataset_id, caller), words, int(row or 0), (model, max_length, loss_on, caller), is_forward=False)


def _seek(dataset: Dataset, words: str, row: int, shown_as: tuple[Any, ...], *, is_forward: bool) -> Iterator[Shown]:
    """Say how far the search is while it takes long; then go to the row, which is shown with the words marked."""
    words = words.strip()[:LONGEST_WORDS]
    if not words:
        yield {"sought": _said("Type the words to look for first.")}
        return
    said_s = time.monotonic()
    for progress in search(dataset, words, row, is_forward=is_forward):
        if progress.row == row:
            yield {"sought": _said(f"Found in row {row:,}. It is the only one.")} | _row(dataset, row, words, *shown_as)
            return
        if progress.row is not None:
            yield {"sought": _said(f"Found in row {progress.row:,}."), "row": progress.row}  # its change shows the row
            return
        if time.monotonic() - said_s > SAID_EVERY_S:
            said_s = time.monotonic()
            yield {"sought": _said(f"Looked through {progress.done:,} of {progress.total:,} conversations.")}
    yield {"sought": _said(f"No conversation has the words “{words}”.")}


def _said(sentence: str) -> str:
    return f'<p class="quiet" role="status">{text(sentence)}</p>'

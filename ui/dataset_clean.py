"""Cleaning the open dataset: repairs are chosen one by one, counted and shown before they are applied; the result is a new dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from core.data import clean as cleaning
from core.data.account import Account
from core.data.dataset import Dataset
from core.data.render import LossOn
from core.data.repairs import REPAIRS, Chosen
from core.data.tokenizer import ChatTokenizer
from ui import background, clean_form, clean_view, feedback, handles, shares
from ui import dataset_data as data
from ui import dataset_handlers as on
from ui.access import Caller, allowed
from ui.dataset_findings import JUMP, SHOW_ROWS, jump
from ui.shell import Shell

Shown = dict[str, Any]  # values by the names of the tab's outputs
INTRODUCTION = (
    '<p class="quiet">This dataset stays as it is: what you choose makes a new one, and every row is accounted for. '
    "Rejected rows are mended too, where a repair can.</p>"
)


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Accordion("Clean: mend, split or drop rows", open=False, elem_classes=["group"], elem_id="dataset-clean") as section:
        gr.HTML(INTRODUCTION, container=False, padding=False)
        repairs = gr.CheckboxGroup(
            clean_form.choices(), value=list(clean_form.SAFE), label="Repairs, in the order in which they are applied", elem_id="repairs"
        )
        options = clean_form.fields([code for code in REPAIRS if code not in clean_form.SAFE])
        with gr.Accordion("Settings of the other repairs", open=False, elem_classes=["group", "inner"]):
            options |= clean_form.fields(clean_form.SAFE)
        slot = feedback.slot()
        progress = gr.HTML("", container=False, padding=False, elem_classes=["working"])
        total = gr.HTML("", container=False, padding=False, elem_id="clean-total")
        with gr.Row(elem_classes=["actions"]):
            make = gr.Button("Make the cleaned dataset", scale=0, min_width=230, interactive=False, elem_id="clean-make")
            count = gr.Button("Count what they would do", scale=0, min_width=230)
        effects = gr.HTML("", js_on_load=JUMP, container=False, padding=False, elem_id="clean-effects")
    named = {"clean": section, "repairs": repairs, "clean_slot": slot, "clean_progress": progress, "total": total, "effects": effects}
    return named | {"count": count, "make": make, "options": options}


def attach(shell: Shell, at: Shown, options: Shown) -> None:
    """`options`: the fields of the repairs by name."""
    fields = {name: field for name, field in options.items() if not name.endswith(":")}
    asked: dict[str, Any] = {
        "inputs": [shell.dataset_id, at["repairs"], at["model"]], "inputs_kwargs": fields, "outputs": at, "slot": at["clean_slot"],
        "concurrency_limit": 2,
    }  # fmt: skip
    counting = [
        shell.listen(at["clean"].expand, look_first, **asked),
        shell.listen(at["count"].click, count_now, **asked),
        shell.listen(at["repairs"].input, choose_repairs, **asked),
    ]
    forgotten: dict[str, Any] = {"inputs": at["repairs"], "outputs": at, "slot": at["clean_slot"], "cancels": counting}
    shell.listen([field.input for field in fields.values()], forget_counts, **forgotten)
    shell.listen(at["model"].change, forget_tokens, inputs_kwargs=fields, **forgotten)
    inputs = [*asked["inputs"], at["max_length"], at["loss_on"]]
    shell.listen(at["make"].click, make, **asked | {"inputs": inputs}, cancels=counting)
    jumped = shell.listen(at["effects"].click, jump, outputs=at["row"], slot=at["row_slot"])
    jumped.then(None, js=SHOW_ROWS)


@allowed("public")
def look_first(dataset_id: str, codes: list[str], model: str, caller: Caller, **values: Any) -> Iterator[Shown]:
    """The section was opened: what the repairs that ask for no judgement would do; those with nothing to do are not chosen any more."""
    dataset = handles.open_for(dataset_id, caller)
    roles = gr.Textbox(info=f"Each as OLD=NEW, where NEW is human, gpt or system. One a line.{clean_form.unknown_roles(dataset)}")
    yield {"rename-roles.roles": roles} | clean_form.shown_columns(codes)
    if dataset.manifest.num_rows <= data.COUNTED_AT_ONCE:
        yield from _counted(dataset, codes, model, caller, values, is_first=True)


@allowed("public")
def choose_repairs(dataset_id: str, codes: list[str], model: str, caller: Caller, **values: Any) -> Iterator[Shown]:
    """Another choice: its fields, and its counts where counting takes no time."""
    dataset = handles.open_for(dataset_id, caller)
    yield clean_form.shown_columns(codes) | {"make": gr.Button(interactive=False), "total": "", "effects": ""}
    if dataset.manifest.num_rows <= data.COUNTED_AT_ONCE:
        yield from _counted(dataset, codes, model, caller, values)


@allowed("public")
def forget_counts(codes: list[str], caller: Caller) -> Shown:
    """Another setting."""
    return _forgotten(codes)


@allowed("public")
def forget_tokens(codes: list[str], caller: Caller, **values: Any) -> Shown:
    """Another tokenizer, which matters where a repair counts tokens."""
    return _forgotten(codes) if clean_form.counts_tokens(clean_form.chosen(codes, values)) else {}


def _forgotten(codes: list[str]) -> Shown:
    """Nothing is made by settings that were not counted."""
    said = '<p class="quiet" role="status">Count again: a setting has changed.</p>' if codes else ""
    return {"make": gr.Button(interactive=False), "total": said, "effects": "", "clean_progress": ""}


@allowed("public")
def count_now(dataset_id: str, codes: list[str], model: str, caller: Caller, **values: Any) -> Iterator[Shown]:
    yield from _counted(handles.open_for(dataset_id, caller), codes, model, caller, values)


def _counted(
    dataset: Dataset, codes: list[str], model: str, caller: Caller, values: dict[str, Any], is_first: bool = False
) -> Iterator[Shown]:
    """The account that the repairs would give, with a bar while it is counted."""
    if not codes:
        none = '<p class="quiet" role="status">Choose at least one repair.</p>'
        yield {"total": none, "effects": "", "make": gr.Button(interactive=False)}
        return
    repairs, tokenizer = _prepared(dataset, codes, model, caller, values)
    for work in background.watch(lambda tell: cleaning.preview(dataset, repairs, tokenizer, tell), may_be_abandoned=True):
        if not work.is_finished:
            yield {"clean_progress": background.bar(work, "Counted")}
            continue
        found: Account = work.result
        useful = [effect.code for effect in found.effects if effect.num_changed or effect.num_dropped or effect.num_made]
        kept = useful if is_first else codes
        yield {
            "clean_progress": "",
            "repairs": gr.CheckboxGroup(clean_form.choices(found.effects), value=kept),
            "total": clean_view.total(found) if useful else '<p class="quiet" role="status">These repairs would change no row.</p>',
            "effects": clean_view.effects(found),
            "make": gr.Button(interactive=bool(useful)),
            **clean_form.shown_columns(kept),
        }


def _prepared(
    dataset: Dataset, codes: list[str], model: str, caller: Caller, values: dict[str, Any]
) -> tuple[Chosen, ChatTokenizer | None]:
    """The repairs with their settings, and the tokenizer where one of them counts tokens."""
    shares.require_size(dataset.manifest.size_bytes, caller)
    repairs = clean_form.chosen(codes, values)
    return repairs, replace(data.tokenizer_of(model, caller), model=model) if clean_form.counts_tokens(repairs) else None


@allowed("public")
def make(
    dataset_id: str, codes: list[str], model: str, max_length: float, loss_on: LossOn, caller: Caller, **values: Any
) -> Iterator[Shown]:
    """Clean, with a bar while it takes long; then open the new dataset."""
    dataset = handles.open_for(dataset_id, caller)
    shares.require_room(dataset.manifest.size_bytes, caller)
    repairs, tokenizer = _prepared(dataset, codes, model, caller, values)

    def cleaned(tell: Any) -> Dataset:
        return shares.made(lambda: cleaning.clean(dataset, repairs, tokenizer=tokenizer, on_progress=tell), caller)

    for work in background.watch(cleaned):
        if work.is_finished:
            yield on.opened(work.result, model, max_length, loss_on, caller)
        else:
            yield {"clean_progress": background.bar(work, "Cleaned"), "make": gr.Button(interactive=False)}

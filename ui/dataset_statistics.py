"""Two sections on the whole dataset as the chosen model sees it: statistics with plots, and the audit of rows that would teach nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from core.data.audit import Audit, audit, export, listed
from core.data.dataset import Dataset, open_dataset
from core.data.measures import is_measured, measure
from core.data.render import LossOn
from core.data.statistics import TextStatistics, TokenStatistics, estimated_steps, text_statistics, token_statistics
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError
from ui import background, dataset_rows, downloads, feedback, handles, shares, statistics_view, train_data
from ui import dataset_data as data
from ui.access import Caller, allowed
from ui.dataset_findings import JUMP, SHOW_ROWS, jump
from ui.shell import Shell
from ui.train_handlers import fresh

Shown = dict[str, Any]  # values by the names of the tab's outputs
Tell = Callable[[int, int], None]


class Seen(NamedTuple):
    """A dataset through the eyes of a model."""

    dataset: Dataset
    folder: Path  # of the tokenizer
    max_length: int
    loss_on: LossOn

    @property
    def measured(self) -> tuple[Dataset, ChatTokenizer, int, LossOn]:
        """What `core.data.measures` takes."""
        return self.dataset, data.tokenizer_in(self.folder), self.max_length, self.loss_on


def part() -> Shown:
    """Lay it out; returns the components by name."""
    html: dict[str, Any] = {"container": False, "padding": False}
    closed: dict[str, Any] = {"open": False, "elem_classes": ["group"]}
    with gr.Accordion("Statistics: lengths, languages, what carries loss", elem_id="dataset-statistics", **closed) as statistics:
        slot = feedback.slot()
        progress = gr.HTML("", elem_classes=["working"], **html)
        count = gr.Button("Count the tokens of every row", visible=False, scale=0, min_width=240)
        shown = gr.HTML("", js_on_load=JUMP, elem_id="statistics", **html)
    with gr.Accordion("Mask audit: rows that would teach nothing", elem_id="dataset-audit", **closed) as audited:
        audit_slot = feedback.slot()
        audit_progress = gr.HTML("", elem_classes=["working"], **html)
        audit_now = gr.Button("Look at the tokens of every row", visible=False, scale=0, min_width=240)
        said = gr.HTML("", elem_id="audit-sentence", **html)
        which = gr.Radio(
            [("Teach nothing", "silent")], value="silent", label="Audited rows", show_label=False, elem_classes=["chips"], container=False,
            visible=False, elem_id="audit-which",
        )  # fmt: skip
        table = gr.HTML("", js_on_load=JUMP, elem_id="audit-table", **html)
        with gr.Row(elem_classes=["pager"], visible=False) as pager:
            earlier = gr.Button("Previous rows", size="sm", scale=0, min_width=130)
            later = gr.Button("More rows", size="sm", scale=0, min_width=130)
        with gr.Row(elem_classes=["pager", "saves"], visible=False) as saves:
            csv = gr.Button("Download both lists as CSV", size="sm", scale=0, min_width=210, elem_id="audit-csv")
            jsonl = gr.Button("As JSONL", size="sm", scale=0, min_width=100, elem_id="audit-jsonl")
    return {
        "statistics": statistics, "statistics_slot": slot, "statistics_progress": progress, "statistics_count": count,
        "statistics_shown": shown, "statistics_open": gr.State(False), "audit": audited, "audit_slot": audit_slot,
        "audit_progress": audit_progress, "audit_now": audit_now, "audit_said": said, "audit_which": which, "audit_table": table,
        "audit_pager": pager, "audit_earlier": earlier, "audit_later": later, "audit_page": gr.State(1), "audit_open": gr.State(False),
        "audit_saves": saves, "audit_csv": csv, "audit_jsonl": jsonl,
    }  # fmt: skip


def attach(shell: Shell, at: Shown) -> None:
    seen = [shell.dataset_id, *dataset_rows.settings(at)]
    for section, opens, goes, again, closes, form in (
        ("statistics", open_statistics, count_statistics, statistics_again, close_statistics, [shell.form]),
        ("audit", open_audit, count_audit, audit_again, close_audit, []),
    ):
        to: dict[str, Any] = {"outputs": at, "slot": at[f"{section}_slot"], "concurrency_limit": 2}
        button = at["statistics_count" if section == "statistics" else "audit_now"]
        running = [
            shell.listen(at[section].expand, opens, inputs=[*seen, *form], **to),
            shell.listen(button.click, goes, inputs=[*seen, *form], **to),
        ]
        shell.listen(at["seen_as"].change, again, inputs=[at[f"{section}_open"], *seen, *form], **to)
        # Not by the state's own change, which is told as the page opens, too: late, and perhaps after the section was opened.
        gr.on([each.input for each in dataset_rows.settings(at)], None, cancels=running, api_visibility="private")
        shell.listen(at[section].collapse, closes, outputs=at, cancels=running)
    pages: dict[str, Any] = {"inputs": [*seen, at["audit_which"], at["audit_page"]], "outputs": at, "slot": at["audit_slot"]}
    shell.listen(at["audit_which"].input, first_audited, **pages)
    shell.listen(at["audit_earlier"].click, earlier_audited, **pages)
    shell.listen(at["audit_later"].click, later_audited, **pages)
    for kind, handler in (("csv", save_audit_csv), ("jsonl", save_audit_jsonl)):
        shell.listen(at[f"audit_{kind}"].click, handler, inputs=seen, outputs=at, slot=at["audit_slot"], concurrency_limit=2)
    for table in (at["statistics_shown"], at["audit_table"]):
        jumped = shell.listen(table.click, jump, outputs=at["row"], slot=at["row_slot"])
        jumped.then(None, js=SHOW_ROWS)


def _seen(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Seen:
    dataset = handles.open_for(dataset_id, caller)
    shares.require_size(dataset.manifest.size_bytes, caller)
    return Seen(dataset, data.folder_of(model, caller), max(1, int(max_length or 1)), loss_on)


def _takes_no_time(seen: Seen) -> bool:
    return len(seen.dataset) <= data.COUNTED_AT_ONCE or is_measured(*seen.measured)


@allowed("public")
def open_statistics(
    dataset_id: str, model: str, max_length: float, loss_on: LossOn, form: dict[str, Any] | None, caller: Caller
) -> Iterator[Shown]:
    """The section was opened: at once what takes no time, else the button that counts."""
    seen = _seen(dataset_id, model, max_length, loss_on, caller)
    yield {"statistics_open": True, "statistics_count": gr.Button(visible=not _takes_no_time(seen))}
    if _takes_no_time(seen):
        yield from _statistics(seen, form, caller)


@allowed("public")
def count_statistics(
    dataset_id: str, model: str, max_length: float, loss_on: LossOn, form: dict[str, Any] | None, caller: Caller
) -> Iterator[Shown]:
    yield {"statistics_count": gr.Button(visible=False)}
    yield from _statistics(_seen(dataset_id, model, max_length, loss_on, caller), form, caller)


@allowed("public")
def statistics_again(
    is_open: bool, dataset_id: str, model: str, max_length: float, loss_on: LossOn, form: dict[str, Any] | None, caller: Caller
) -> Iterator[Shown]:
    """Another model, maximum length or loss, while the section is open."""
    if is_open:
        yield {"statistics_shown": "", "statistics_progress": ""}
        seen = _seen(dataset_id, model, max_length, loss_on, caller)
        yield {"statistics_count": gr.Button(visible=not _takes_no_time(seen))}
        if _takes_no_time(seen):
            yield from _statistics(seen, form, caller)


@allowed("public")
def close_statistics() -> Shown:
    return {"statistics_open": False, "statistics_progress": "", "statistics_shown": ""}


def _statistics(seen: Seen, form: dict[str, Any] | None, caller: Caller) -> Iterator[Shown]:
    def count(tell: Tell) -> tuple[TextStatistics, TokenStatistics, statistics_view.Planned | str]:
        words, tokens = text_statistics(seen.dataset, tell), token_statistics(*seen.measured, on_progress=tell)
        try:
            return words, tokens, _planned(seen.dataset, (form or fresh())["values"], caller, tell)
        except UserError as error:
            return words, tokens, f"{error.problem} {error.remedy}"

    for work in background.watch(count, may_be_abandoned=True):
        if not work.is_finished:
            yield {"statistics_progress": background.bar(work, "Counted")}
            continue
        words, tokens, planned = work.result
        shown = statistics_view.figures(words, tokens, planned)
        shown += statistics_view.plots(words, tokens) + statistics_view.extremes(tokens)
        yield {"statistics_progress": "", "statistics_shown": shown}


def _planned(dataset: Dataset, values: dict[str, Any], caller: Caller, tell: Tell) -> statistics_view.Planned:
    """What the recipe in the form of the Train tab makes of this dataset: everything by the recipe, whatever is chosen here.

    Raises:
        UserError: the tokenizer of its base model is not to be had.
    """
    model, max_length = values["base_model"], max(1, int(values["max_length"] or 1))
    as_trained = Seen(dataset, data.folder_of(model, caller), max_length, values["loss_on"])
    tokens = token_statistics(*as_trained.measured, on_progress=tell)
    steps = estimated_steps(
        measure(*as_trained.measured),
        max_length,
        packing=bool(values["packing"]),
        eval_fraction=0.0 if values["eval_dataset"] else float(values["eval_fraction"] or 0),
        batch_rows=train_data.batch_rows(values),
        epochs=float(values["num_train_epochs"] or 1),
        max_steps=int(values["max_steps"] or 0),
    )
    packed = "packed" if values["packing"] else "not packed"
    rows = f"{train_data.batch_rows(values)} rows a step, {float(values['num_train_epochs'] or 1):g} epochs, {packed}"
    return statistics_view.Planned(tokens, steps, f"the recipe on the Train tab ({model}, {rows})")


@allowed("public")
def open_audit(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    """As `open_statistics`."""
    seen = _seen(dataset_id, model, max_length, loss_on, caller)
    yield {"audit_open": True, "audit_now": gr.Button(visible=not _takes_no_time(seen))}
    if _takes_no_time(seen):
        yield from _audit(seen)


@allowed("public")
def count_audit(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    yield {"audit_now": gr.Button(visible=False)}
    yield from _audit(_seen(dataset_id, model, max_length, loss_on, caller))


@allowed("public")
def audit_again(is_open: bool, dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    """Another model, maximum length or loss, while the section is open."""
    if is_open:
        yield _empty_audit()
        seen = _seen(dataset_id, model, max_length, loss_on, caller)
        yield {"audit_now": gr.Button(visible=not _takes_no_time(seen))}
        if _takes_no_time(seen):
            yield from _audit(seen)


@allowed("public")
def close_audit() -> Shown:
    return {"audit_open": False} | _empty_audit()


def reset() -> Shown:
    """Both sections as they begin with a dataset that was just opened: closed and empty."""
    closed = {"statistics": gr.Accordion(open=False), "audit": gr.Accordion(open=False), "statistics_open": False, "audit_open": False}
    return {**closed, "statistics_shown": "", "statistics_progress": "", **_empty_audit()}


def _empty_audit() -> Shown:
    hidden = {"audit_which": gr.Radio(visible=False), "audit_pager": gr.Row(visible=False), "audit_saves": gr.Row(visible=False)}
    return {"audit_said": "", "audit_table": "", "audit_progress": "", **hidden}


def _audit(seen: Seen) -> Iterator[Shown]:
    def count(tell: Tell) -> Audit:
        measure(*seen.measured, on_progress=tell)
        return _audited(seen.dataset.id, seen.folder, seen.max_length, seen.loss_on)

    for work in background.watch(count, may_be_abandoned=True):
        if not work.is_finished:
            yield {"audit_progress": background.bar(work, "Looked at")}
            continue
        found: Audit = work.result
        which = "silent" if found.num_zero_loss or not found.num_cut else "cut"
        has_rows = bool(found.num_zero_loss or found.num_cut)
        radio = gr.Radio(statistics_view.audit_choices(found), value=which, visible=has_rows)
        shown = _audit_page(seen, found, which, 1) if has_rows else {"audit_table": "", "audit_pager": gr.Row(visible=False)}
        said = {"audit_progress": "", "audit_said": statistics_view.audit_sentence(found)}
        yield {**said, "audit_which": radio, "audit_saves": gr.Row(visible=has_rows), **shown}


@lru_cache(maxsize=8)
def _audited(dataset_id: str, folder: Path, max_length: int, loss_on: LossOn) -> Audit:
    """Its counts take a moment on many rows, and every page says them."""
    return audit(open_dataset(dataset_id), data.tokenizer_in(folder), max_length, loss_on)


def _audit_page(seen: Seen, found: Audit, which: str, page: int) -> Shown:
    total = found.num_cut if which == "cut" else found.num_zero_loss
    last = max(1, -(-total // statistics_view.AUDIT_ROWS))
    page = max(1, min(page, last))
    first = (page - 1) * statistics_view.AUDIT_ROWS
    rows = list(
        listed(seen.dataset, measure(*seen.measured), "cut" if which == "cut" else "silent", first, first + statistics_view.AUDIT_ROWS)
    )
    return {
        "audit_table": statistics_view.audit_page(rows, first, total),
        "audit_page": page,
        "audit_pager": gr.Row(visible=last > 1),
        "audit_earlier": gr.Button(interactive=page > 1),
        "audit_later": gr.Button(interactive=page < last),
    }


def _turned(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller, which: str, page: int) -> Shown:
    seen = _seen(dataset_id, model, max_length, loss_on, caller)
    return _audit_page(seen, _audited(seen.dataset.id, seen.folder, seen.max_length, seen.loss_on), which, page)


@allowed("public")
def first_audited(dataset_id: str, model: str, max_length: float, loss_on: LossOn, which: str, page: int, caller: Caller) -> Shown:
    return _turned(dataset_id, model, max_length, loss_on, caller, which, 1)


@allowed("public")
def earlier_audited(dataset_id: str, model: str, max_length: float, loss_on: LossOn, which: str, page: int, caller: Caller) -> Shown:
    return _turned(dataset_id, model, max_length, loss_on, caller, which, page - 1)


@allowed("public")
def later_audited(dataset_id: str, model: str, max_length: float, loss_on: LossOn, which: str, page: int, caller: Caller) -> Shown:
    return _turned(dataset_id, model, max_length, loss_on, caller, which, page + 1)


@allowed("public")
def save_audit_csv(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    yield from _saved(_seen(dataset_id, model, max_length, loss_on, caller), ".csv")


@allowed("public")
def save_audit_jsonl(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Iterator[Shown]:
    yield from _saved(_seen(dataset_id, model, max_length, loss_on, caller), ".jsonl")


def _saved(seen: Seen, suffix: str) -> Iterator[Shown]:
    """Every row of both lists as a file for the browser, as `stats --export` writes it."""
    path = downloads.place(f"{seen.dataset.name}-audit", suffix)
    yield from downloads.sent(path, lambda: export(seen.dataset, measure(*seen.measured), path), "audit_progress")

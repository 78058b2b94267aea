"""The findings on the open dataset: filtered by severity and code, page by page, each leading to its row; and as a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.data.dataset import Dataset
from core.data.findings_export import export
from core.data.likeness import CODE, find_near_duplicates
from ui import background, downloads, handles, shares
from ui import dataset_data as data
from ui import dataset_view as view
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import count, text

Shown = dict[str, Any]  # values by the names of the tab's outputs
JUMP = """element.addEventListener('click', event => {
  const button = event.target.closest('[data-row]');
  if (button) trigger('click', {row: Number(button.dataset.row)});
})"""
SHOW_ROWS = "() => document.getElementById('dataset-rows')?.scrollIntoView({behavior: 'smooth', block: 'start'})"


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Column(elem_classes=["part-of-tab"]) as whole:
        gr.HTML('<h2 class="part">Findings</h2>', container=False, padding=False)
        chips: dict[str, Any] = {"show_label": False, "elem_classes": ["chips"], "container": False}
        severity = gr.Radio([("All", "")], value="", label="Findings by severity", elem_id="dataset-severity", **chips)
        code = gr.Radio([("All", "")], value="", label="Findings by kind", elem_id="dataset-codes", **chips)
        table = gr.HTML("", js_on_load=JUMP, container=False, padding=False, elem_id="dataset-findings")
        with gr.Row(elem_classes=["pager"], equal_height=True) as pager:
            earlier = gr.Button("Previous findings", size="sm", scale=0, min_width=150)
            page = gr.Number(1, label="Page of findings", precision=0, minimum=1, show_label=False, container=False, scale=0, min_width=90)
            pages = gr.HTML("", container=False, padding=False)
            later = gr.Button("More findings", size="sm", scale=0, min_width=150)
        saving = gr.HTML("", container=False, padding=False, elem_classes=["working"])
        with gr.Row(elem_classes=["pager", "saves"]) as saves:
            csv = gr.Button("Download these findings as CSV", size="sm", scale=0, min_width=210)
            jsonl = gr.Button("As JSONL", size="sm", scale=0, min_width=100)
        near = gr.Button("Look for near-duplicates", size="sm", elem_id="dataset-near")
        near_said = gr.HTML("", container=False, padding=False, elem_id="dataset-near-said")
    return {
        "findings": whole, "severity": severity, "code": code, "table": table, "pager": pager,
        "earlier": earlier, "page": page, "pages": pages, "later": later, "saving": saving, "saves": saves, "save_csv": csv, "save_jsonl": jsonl,
        "find_near": near, "near_said": near_said,
    }  # fmt: skip


def attach(shell: Shell, at: Shown, slot: gr.HTML) -> None:
    filters = [shell.dataset_id, at["severity"], at["code"]]
    turns: dict[str, Any] = {"outputs": at, "slot": slot}
    shell.listen(at["severity"].input, choose_severity, inputs=filters[:2], **turns)
    shell.listen(at["code"].input, first_page, inputs=filters, **turns)
    for event, handler in ((at["earlier"].click, previous_page), (at["later"].click, next_page), (at["page"].submit, this_page)):
        shell.listen(event, handler, inputs=[*filters, at["page"]], **turns)
    for kind, handler in (("csv", save_csv), ("jsonl", save_jsonl)):
        shell.listen(at[f"save_{kind}"].click, handler, inputs=filters, outputs=at, slot=slot, concurrency_limit=2)
    shell.listen(at["find_near"].click, look_for_near, inputs=shell.dataset_id, outputs=at, slot=slot, concurrency_limit=1)
    jumped = shell.listen(at["table"].click, jump, outputs=at["row"], slot=at["row_slot"])
    jumped.then(None, js=SHOW_ROWS)


def opened(dataset: Dataset) -> Shown:
    """What the part shows of a dataset that was just opened: its first page of all findings."""
    report = data.report_of(dataset.id)
    severities = gr.Radio(view.severities(report), value="", visible=bool(report.counts))
    shown = {"severity": severities, "saving": "", "near_said": "", "saves": gr.Row(visible=bool(report.counts))}
    return {**shown, **_codes(dataset, ""), **_page(dataset, "", "", 1)}


def _codes(dataset: Dataset, severity: str) -> Shown:
    choices = view.codes(data.report_of(dataset.id), severity)
    return {"code": gr.Radio(choices, value="", visible=len(choices) > 2)}


def _page(dataset: Dataset, severity: str, code: str, page: float | None) -> Shown:
    """A page of findings: the table, the page's number, and the way to the pages beside it."""
    found = dataset.findings(code or "", severity or "")
    last = max(1, -(-len(found) // view.PAGE_ROWS))
    number = max(1, min(int(page or 1), last))
    return {
        "table": view.findings(found, number, dataset.manifest.origin),
        "page": number,
        "pages": f'<span class="quiet">of {last:,}</span>',
        "pager": gr.Row(visible=last > 1),
        "earlier": gr.Button(interactive=number > 1),
        "later": gr.Button(interactive=number < last),
    }


@allowed("public")
def choose_severity(dataset_id: str, severity: str, caller: Caller) -> Shown:
    dataset = handles.open_for(dataset_id, caller)
    return _codes(dataset, severity or "") | _page(dataset, severity, "", 1)


@allowed("public")
def first_page(dataset_id: str, severity: str, code: str, caller: Caller) -> Shown:
    return _page(handles.open_for(dataset_id, caller), severity, code, 1)


@allowed("public")
def previous_page(dataset_id: str, severity: str, code: str, page: float | None, caller: Caller) -> Shown:
    return _page(handles.open_for(dataset_id, caller), severity, code, (page or 1) - 1)


@allowed("public")
def next_page(dataset_id: str, severity: str, code: str, page: float | None, caller: Caller) -> Shown:
    return _page(handles.open_for(dataset_id, caller), severity, code, (page or 1) + 1)


@allowed("public")
def this_page(dataset_id: str, severity: str, code: str, page: float | None, caller: Caller) -> Shown:
    return _page(handles.open_for(dataset_id, caller), severity, code, page)


@allowed("public")
def save_csv(dataset_id: str, severity: str, code: str, caller: Caller) -> Iterator[Shown]:
    yield from _saved(handles.open_for(dataset_id, caller), severity, code, ".csv")


@allowed("public")
def save_jsonl(dataset_id: str, severity: str, code: str, caller: Caller) -> Iterator[Shown]:
    yield from _saved(handles.open_for(dataset_id, caller), severity, code, ".jsonl")


def _saved(dataset: Dataset, severity: str, code: str, suffix: str) -> Iterator[Shown]:
    """The findings that are shown, all pages of them, as a file for the browser."""
    found = dataset.findings(code or "", severity or "")
    path = downloads.place(f"{dataset.name}-findings", suffix)
    yield from downloads.sent(path, lambda: export(found, path, origin=dataset.manifest.origin), "saving")


@allowed("owner")
def look_for_near(dataset_id: str, caller: Caller) -> Iterator[Shown]:
    """Compare every conversation with every other by its words, and list those that are almost the same among the findings."""
    dataset = handles.open_for(dataset_id, caller)
    shares.require_size(dataset.manifest.size_bytes, caller)
    for work in background.watch(lambda tell: find_near_duplicates(dataset, on_progress=tell), may_be_abandoned=True):
        if not work.is_finished:
            yield {"near_said": background.bar(work, "Compared")}
            continue
        data.report_of.cache_clear()
        number = work.result.counts.get(CODE, 0)
        if number:
            said = f"{count(number, 'conversation')} almost the same as an earlier one, listed above. Clean can drop them."
        else:
            said = "No two conversations are almost the same."
        yield opened(dataset) | {"near_said": f'<p class="quiet" role="status">{text(said)}</p>'}


@allowed("public")
def jump(event: gr.EventData) -> int:
    """The row whose button was pressed, in the findings or in any other list of rows."""
    return int(event.row)

"""The findings on the open dataset: filtered by severity and code, one table of all of them, each leading to its row; and as a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
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
LONG_LIST = Path(__file__).with_name("js").joinpath("long_list.js").read_text(encoding="utf-8")
SHOW_ROWS = "() => document.getElementById('dataset-rows')?.scrollIntoView({behavior: 'smooth', block: 'start'})"


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Column(elem_classes=["part-of-tab"]) as whole:
        gr.HTML('<h2 class="part">Findings</h2>', container=False, padding=False)
        chips: dict[str, Any] = {"show_label": False, "elem_classes": ["chips"], "container": False}
        severity = gr.Radio([("All", "")], value="", label="Findings by severity", elem_id="dataset-severity", **chips)
        code = gr.Radio([("All", "")], value="", label="Findings by kind", elem_id="dataset-codes", **chips)
        table = gr.HTML("", js_on_load=f"{JUMP};\n{LONG_LIST}", container=False, padding=False, elem_id="dataset-findings", piece=None)
        saving = gr.HTML("", container=False, padding=False, elem_classes=["working"])
        with gr.Row(elem_classes=["pager", "saves"]) as saves:
            csv = gr.Button("Download these findings as CSV", size="sm", scale=0, min_width=210)
            jsonl = gr.Button("As JSONL", size="sm", scale=0, min_width=100)
        near = gr.Button("Look for near-duplicates", size="sm", elem_id="dataset-near")
        near_said = gr.HTML("", container=False, padding=False, elem_id="dataset-near-said")
    return {
        "findings": whole, "severity": severity, "code": code, "table": table, "saving": saving, "saves": saves,
        "save_csv": csv, "save_jsonl": jsonl, "find_near": near, "near_said": near_said,
    }  # fmt: skip


def attach(shell: Shell, at: Shown, slot: gr.HTML) -> None:
    filters = [shell.dataset_id, at["severity"], at["code"]]
    turns: dict[str, Any] = {"outputs": at, "slot": slot}
    shell.listen(at["severity"].input, choose_severity, inputs=filters[:2], **turns)
    shell.listen(at["code"].input, choose_code, inputs=filters, **turns)
    shell.listen(at["table"].select, read_on, inputs=filters, trigger_mode="multiple", **turns)  # one at a time all the same
    for kind, handler in (("csv", save_csv), ("jsonl", save_jsonl)):
        shell.listen(at[f"save_{kind}"].click, handler, inputs=filters, outputs=at, slot=slot, concurrency_limit=2)
    shell.listen(at["find_near"].click, look_for_near, inputs=shell.dataset_id, outputs=at, slot=slot, concurrency_limit=1)
    jumped = shell.listen(at["table"].click, jump, outputs=at["row"], slot=at["row_slot"])
    jumped.then(None, js=SHOW_ROWS)


def opened(dataset: Dataset) -> Shown:
    """What the part shows of a dataset that was just opened: all its findings."""
    report = data.report_of(dataset.id)
    severities = gr.Radio(view.severities(report), value="", visible=bool(report.counts))
    shown = {"severity": severities, "saving": "", "near_said": "", "saves": gr.Row(visible=bool(report.counts))}
    return {**shown, **_codes(dataset, ""), "table": _table(dataset, "", "")}


def _codes(dataset: Dataset, severity: str) -> Shown:
    choices = view.codes(data.report_of(dataset.id), severity)
    return {"code": gr.Radio(choices, value="", visible=len(choices) > 2)}


def _table(dataset: Dataset, severity: str, code: str) -> str:
    return view.findings(dataset.findings(code or "", severity or ""), dataset.manifest.origin, _of(dataset, severity, code))


def _of(dataset: Dataset, severity: str, code: str) -> str:
    """What a table is of."""
    return f"{dataset.id} {severity or ''} {code or ''}"


@allowed("public")
def choose_severity(dataset_id: str, severity: str, caller: Caller) -> Shown:
    dataset = handles.open_for(dataset_id, caller)
    return _codes(dataset, severity or "") | {"table": _table(dataset, severity, "")}


@allowed("public")
def choose_code(dataset_id: str, severity: str, code: str, caller: Caller) -> Shown:
    return {"table": _table(handles.open_for(dataset_id, caller), severity, code)}


@allowed("public")
def read_on(dataset_id: str, severity: str, code: str, event: gr.EventData, caller: Caller) -> Shown:
    """The piece of the findings that begins with the one asked for, to be put into the table where it belongs.

    It carries the time, as Gradio tells the browser nothing of a value that equals the one before (6.31): the same piece may be wanted again.
    """
    dataset = handles.open_for(dataset_id, caller)
    found = dataset.findings(code or "", severity or "")
    first = max(0, min(int(event.index), len(found) - 1))
    rows = view.finding_rows(found, first, dataset.manifest.origin)
    return {"table": gr.HTML(piece={"of": _of(dataset, severity, code), "first": first, "rows": rows, "made": time.monotonic_ns()})}


@allowed("public")
def save_csv(dataset_id: str, severity: str, code: str, caller: Caller) -> Iterator[Shown]:
    yield from _saved(handles.open_for(dataset_id, caller), severity, code, ".csv")


@allowed("public")
def save_jsonl(dataset_id: str, severity: str, code: str, caller: Caller) -> Iterator[Shown]:
    yield from _saved(handles.open_for(dataset_id, caller), severity, code, ".jsonl")


def _saved(dataset: Dataset, severity: str, code: str, suffix: str) -> Iterator[Shown]:
    """The findings that are shown, all of them, as a file for the browser."""
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

"""What the Dataset tab answers as a whole: a dataset is opened, found again after a reload, judged anew, handed on to training."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import process
from core.data.dataset import Dataset
from core.data.render import LossOn
from core.errors import UserError
from ui import clean_form, dataset_findings, dataset_rows, dataset_statistics, handles, origin_view, shares, split_view, upload_shares
from ui import dataset_data as data
from ui import dataset_view as view
from ui.access import Caller, allowed
from ui.opening import said_by_name
from ui.shell import TRAIN

NO_DATA = "Choose a dataset first."
LISTED_BY_API = 1000  # findings that one call of the endpoint returns
CHECK_S = 120.0  # that such a call may take
Shown = dict[str, Any]  # values by the names of the tab's outputs


def opened(dataset: Dataset, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """Everything that depends on which dataset is open."""
    return {
        "dataset_id": handles.of(dataset, caller),
        "evidence": gr.Column(visible=True),
        "before": before(caller, dataset.id),
        "others": gr.Accordion(open=False),
        **said_by_name(_lead(dataset, model, max_length, loss_on, caller), view.why_not(data.report_of(dataset.id))),
        **origin_view.shown(dataset),
        **dataset_findings.opened(dataset),
        **dataset_rows.opened(dataset, model, max_length, loss_on, caller),
        **dataset_statistics.reset(),
        **clean_form.reset(),
        **split_view.reset(),
    }


def before(caller: Caller, dataset_id: str = "") -> gr.Dropdown:
    """What was imported before, with the open one chosen; hidden while there is nothing to choose from."""
    choices = data.earlier(caller)
    chosen = dataset_id if dataset_id in {value for _, value in choices} else None
    return gr.Dropdown(choices, value=chosen, visible=bool(choices))


@allowed("owner")
def choose(dataset_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return opened(handles.open_for(dataset_id, caller), model, max_length, loss_on, caller)


@allowed("public")
def judge_again(seen_as: list[Any] | None, dataset_id: str, caller: Caller) -> Shown:
    """The first sentence after a change of model, maximum length or loss. A state tells of a change as it begins, too: then it is None."""
    return {"sentence": _lead(handles.open_for(dataset_id, caller), *seen_as, caller)} if dataset_id and seen_as else {}


def _lead(dataset: Dataset, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> str:
    limit = max(1, int(max_length or 1))
    try:
        found = data.lengths(dataset.id, model, limit, loss_on, caller)
    except UserError:
        found = data.Lengths(0, 0)  # the model is not there or cannot be read; beside the tokens it says why
    return view.lead(dataset.name, data.report_of(dataset.id), found.num_counted, found.num_cut, limit)


@allowed("public")
def list_models(dataset_id: str, caller: Caller) -> Shown:
    return {"model": gr.Dropdown(data.tokenizers()), "before": before(caller, dataset_id)}


@allowed("public")
def go_on(dataset_id: str, caller: Caller) -> gr.Tabs:
    """To the Train tab, which finds the dataset by the id that travels along."""
    handles.open_for(dataset_id, caller)
    return gr.Tabs(selected=TRAIN)


@allowed("public")
def validate_dataset(file: gr.FileData, caller: Caller) -> dict[str, Any]:
    """Check a Vicuna JSON or JSONL file: counts, and the first findings with row, turn, line, byte, problem and remedy."""
    path = data.uploaded(file, caller)
    try:
        shares.require_size(path.stat().st_size, caller)
        asked = {"path": str(path), "num_issues": LISTED_BY_API}
        return process.call_child("core.data.validate_child", asked, step="Checking the file", timeout_s=CHECK_S)
    finally:
        upload_shares.drop(path, caller)

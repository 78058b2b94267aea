"""Where a dataset comes from: an example, a file, pasted text, the Hub, a path of this machine, or one imported before.

All but the examples are imported by a process of their own; the page keeps its id, looks at it now and then, and finds it after a reload.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.data import imports
from core.data.dataset import open_dataset
from core.data.imports import DATA_SUFFIXES, ImportSource
from core.data.origin import HubRef
from core.data.render import LossOn
from core.errors import UserError
from ui import dataset_data as data
from ui import dataset_handlers as on
from ui import dataset_mapping, dataset_rows, handles, import_view, shares
from ui import dataset_view as view
from ui.access import Caller, allowed
from ui.dataset_mapping import following
from ui.opening import said_by_name
from ui.shell import NO_ID, Shell

Shown = dict[str, Any]  # values by the names of the tab's outputs
MAX_PASTED_BYTES = 7_500_000  # as a request sends it, which may not be much longer
# The page itself does not send what would be refused without a word that says why.
FITS = f"(text) => [new TextEncoder().encode(JSON.stringify(text)).length > {MAX_PASTED_BYTES} ? null : text]"


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Column(elem_classes=["sources"]):
        with gr.Row(equal_height=True, elem_classes=["ways"]):
            with gr.Column(scale=2, min_width=240):
                gr.HTML('<h2 class="part">Take an example</h2>', container=False, padding=False)
                identity = gr.Button("Identity: teach the starter a new name", elem_id="example-identity")
                broken = gr.Button("Broken: a file with every kind of fault", elem_id="example-broken")
            with gr.Column(scale=3, min_width=260):
                gr.HTML('<h2 class="part">Or bring your own</h2>', container=False, padding=False)
                upload = gr.File(
                    label="JSON, JSONL, CSV or Parquet", file_types=list(DATA_SUFFIXES), height=112, show_label=False, elem_id="dataset-upload"
                )  # fmt: skip
            with gr.Column(scale=2, min_width=240):
                before = gr.Dropdown([], label="Or one imported before", visible=False, elem_id="dataset-before")
        others = _others()
    with gr.Row(elem_classes=["following"], equal_height=True):
        progress = gr.HTML("", container=False, padding=False, elem_classes=["working"], elem_id="import-progress")
        stop = gr.Button("Stop the import", size="sm", scale=0, min_width=140, visible=False, elem_id="import-stop")
    said = gr.HTML("", container=False, padding=False, elem_classes=["feedback"], elem_id="import-said")
    named = {"identity": identity, "broken": broken, "upload": upload, "before": before, "progress": progress, "stop": stop}
    return named | others | {"import_said": said} | dataset_mapping.part()


def _others() -> Shown:
    with (
        gr.Accordion(
            "Paste text, fetch from the Hub, or name a file of this machine", open=False, elem_classes=["group", "inner"]
        ) as others,
        gr.Tabs(),
    ):
        with gr.Tab("Paste"):
            pasted = gr.Textbox(
                "", label="Records, as JSON, JSONL, or CSV with a first line of column names", lines=5, max_lines=14, elem_id="paste-text"
            )
            paste = gr.Button("Import the text", scale=0, min_width=180, elem_id="paste-import")
        with gr.Tab("Hugging Face Hub"):
            with gr.Row(elem_classes=["fields"], equal_height=False):
                repo = gr.Textbox(label="Dataset", placeholder="owner/name", max_lines=1, max_length=120, elem_id="hub-repo")
                config = gr.Textbox(label="Config", placeholder="the only one, or default", max_lines=1, max_length=120)
                split = gr.Textbox(label="Split", placeholder="the only one, or train", max_lines=1, max_length=120)
                revision = gr.Textbox(label="Revision", placeholder="main", info="A branch, tag or commit.", max_lines=1, max_length=120)
            fetch = gr.Button("Fetch and import", scale=0, min_width=180, elem_id="hub-import")
        with gr.Tab("This machine", visible=False) as here:
            path = gr.Textbox(label="Path of a data file", placeholder="~/data/conversations.jsonl", max_lines=1, elem_id="path-text")
            take = gr.Button("Import the file", scale=0, min_width=180, elem_id="path-import")
    return {"others": others, "pasted": pasted, "paste": paste, "repo": repo, "config": config, "split": split, "revision": revision,
            "fetch": fetch, "here": here, "path": path, "take": take}  # fmt: skip


def attach(shell: Shell, at: Shown, slot: gr.HTML) -> None:
    settings = dataset_rows.settings(at)
    opens: dict[str, Any] = {"outputs": at, "slot": slot}
    watched = [shell.import_id, *settings]
    shell.listen(shell.demo.load, offer_paths, outputs=at["here"], slot=slot, queue=False)
    reopened = shell.listen(shell.demo.load, reopen, inputs=[shell.dataset_id, *watched], **opens)
    opens["cancels"] = reopened  # who chooses while the page still looks for what was open has chosen
    for button, handler in ((at["identity"], example_identity), (at["broken"], example_broken)):
        shell.listen(button.click, handler, inputs=settings, **opens)
    shell.listen(at["before"].input, on.choose, inputs=[at["before"], *settings], **opens)
    shell.listen(at["upload"].upload, take_upload, inputs=at["upload"], concurrency_limit=4, **opens)
    shell.listen(at["paste"].click, take_text, inputs=at["pasted"], js=FITS, **opens)
    shell.listen([at["take"].click, at["path"].submit], take_path, inputs=at["path"], **opens)
    hub = [at["repo"], at["config"], at["split"], at["revision"]]
    shell.listen([at["fetch"].click, at["repo"].submit], take_hub, inputs=hub, **opens)
    shell.listen(shell.import_timer.tick, look_after, inputs=watched, concurrency_limit=8, **opens | {"cancels": None})
    shell.listen(at["stop"].click, stop, inputs=shell.import_id, **opens)


@allowed("public")
def offer_paths(caller: Caller) -> gr.Tab:
    """Files of this machine are for who sits at it."""
    return gr.Tab(visible=caller.is_local)


@allowed("public")
def example_identity(model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return on.opened(data.import_example("identity"), model, max_length, loss_on, caller)


@allowed("public")
def example_broken(model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return on.opened(data.import_example("broken"), model, max_length, loss_on, caller)


@allowed("public")
def take_upload(upload: str, caller: Caller) -> Shown:
    """Import an uploaded file, which is removed when that has ended."""
    path = data.uploaded({"path": upload}, caller)
    try:
        shares.require_room(path.stat().st_size, caller)
    except UserError:
        path.unlink()
        raise
    return {"upload": None} | following(shares.imported(imports.start(ImportSource(kind="upload", path=str(path), name=path.stem)), caller))


@allowed("public")
def take_text(pasted: str | None, caller: Caller) -> Shown:
    """Import pasted text; None stands for one that is too long to be sent."""
    size_bytes = len(pasted.encode("utf-8", "surrogatepass")) if pasted is not None else MAX_PASTED_BYTES + 1
    if pasted is None or size_bytes > MAX_PASTED_BYTES:
        problem = f"The text is longer than the {MAX_PASTED_BYTES / 1e6:g} MB that can be pasted."
        raise UserError(problem, "the pasted text", "Save it as a file, and upload that.")
    shares.require_room(size_bytes, caller)
    import_id = shares.imported(imports.start(ImportSource(kind="pasted", text=pasted)), caller)
    return {"pasted": "", "others": gr.Accordion(open=False)} | following(import_id)


@allowed("owner")
def take_path(path: str, caller: Caller) -> Shown:
    """Import a file of this machine, for somebody who sits at it."""
    if not caller.is_local:
        raise UserError("Files of the server are not taken by their path.", "the path", "Upload the file.")
    file = imports.local_file(path or "")
    return {"others": gr.Accordion(open=False)} | following(imports.start(ImportSource(kind="path", path=str(file))))


@allowed("owner")
def take_hub(repo: str, config: str, split: str, revision: str, caller: Caller) -> Shown:
    """Fetch a dataset from the Hub with the caller's own token, and import it."""
    chosen = {"config": config, "split": split, "revision": revision}
    ref = HubRef(repo_id=(repo or "").strip(), **{name: (given or "").strip() or None for name, given in chosen.items()})
    return {"others": gr.Accordion(open=False)} | following(imports.start(ImportSource(kind="hub", hub=ref), token=caller.token))


@allowed("public")
def look_after(import_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    return _followed(import_id, model, max_length, loss_on, caller)


def _followed(import_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """How far the import is; when it has ended, what came of it."""
    job = imports.load(import_id)
    if not job.is_terminal:
        return {"progress": import_view.progress(job), "stop": gr.Button(visible=True), "import_timer": gr.Timer(active=True)}
    over: Shown = {
        "progress": "",
        "stop": gr.Button(visible=False),
        "import_timer": gr.Timer(active=False),
        "mapping": gr.Column(visible=False),
    }
    if job.state == "done" and job.dataset_id:
        dataset = open_dataset(job.dataset_id)
        return over | {"import_id": NO_ID, "import_said": ""} | on.opened(dataset, model, max_length, loss_on, caller)
    if job.error and job.error.get("code") == "LAYOUT":
        return over | {"import_said": ""} | dataset_mapping.opened(import_id)
    return over | {"import_id": NO_ID, "import_said": import_view.ended(job)}


@allowed("public")
def stop(import_id: str) -> Shown:
    """End the import; what it has made so far is removed."""
    job = imports.cancel(import_id)
    over: Shown = {"progress": "", "stop": gr.Button(visible=False), "import_timer": gr.Timer(active=False)}
    return {} if job.state == "done" else over | {"import_id": NO_ID, "import_said": import_view.ended(job)}


@allowed("public")
def reopen(dataset_id: str, import_id: str, model: str, max_length: float, loss_on: LossOn, caller: Caller) -> Shown:
    """After a reload: the import that went on, or what became of it, and the dataset that was open."""
    try:
        shown = on.opened(handles.open_for(dataset_id, caller), model, max_length, loss_on, caller)
    except UserError:
        shown = said_by_name(view.NOTHING, on.NO_DATA) | {"dataset_id": "", "before": on.before(caller)}
    if import_id in ("", NO_ID):
        return shown
    try:
        return shown | _followed(import_id, model, max_length, loss_on, caller)
    except UserError:
        return shown | {"import_id": NO_ID}  # it is forgotten

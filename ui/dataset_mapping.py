"""The question which columns mean what, for a file whose layout nobody knows; its first rows are shown as they would be imported."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.data import imports
from core.data.layouts import Layout
from core.data.mapping import ColumnMapping
from ui import feedback, import_view, shares
from ui.access import Caller, allowed
from ui.shell import NO_ID, Shell

Shown = dict[str, Any]  # values by the names of the tab's outputs
PAIR, TURNS = "pair", "turns"
# The fields by what a row is; the names are those of `ColumnMapping`.
FIELDS: dict[str, tuple[str, ...]] = {PAIR: ("question", "answer", "input", "history"), TURNS: ("turns", "role_key", "content_key")}
COMMON = ("system", "id")
LABELS = {
    "question": "Question", "answer": "Answer", "input": "Added to the question", "history": "Earlier turns", "turns": "List of messages",
    "role_key": "In a message: who speaks", "content_key": "In a message: what is said", "system": "System message", "id": "Id",
}  # fmt: skip
NONE = ("none", "")


def part() -> Shown:
    """Lay it out; returns the components by name."""
    with gr.Column(visible=False, elem_classes=["part-of-tab", "mapping"], elem_id="dataset-mapping") as whole:
        asked = gr.HTML("", container=False, padding=False)
        columns = gr.HTML("", container=False, padding=False, elem_id="mapping-columns")
        kind = gr.Radio(
            [("a question and an answer", PAIR), ("a list of messages", TURNS)], value=PAIR, label="Each row has", elem_id="mapping-kind"
        )
        made: Shown = {}
        for group, names in (*FIELDS.items(), ("", COMMON)):
            with gr.Column(visible=group != TURNS) as made[f"{group} fields"], gr.Row(elem_classes=["fields"], equal_height=False):
                for name in names:
                    made[f"map {name}"] = _field(name)
        header = gr.Checkbox(True, label="The first row names the columns", visible=False, elem_id="mapping-header")
        slot = feedback.slot()
        gr.HTML('<h3 class="part">The first rows, as they would be imported</h3>', container=False, padding=False)
        shown = gr.HTML("", container=False, padding=False, elem_id="mapping-preview")
        with gr.Row(elem_classes=["actions"]):
            use = gr.Button("Import with these columns", variant="primary", scale=0, min_width=230, elem_id="mapping-use")
            leave = gr.Button("Leave it", scale=0, min_width=120)
    return {
        "mapping": whole, "asked": asked, "columns": columns, "map kind": kind, **made, "map has_header": header, "map_slot": slot,
        "map_preview": shown, "map_use": use, "map_leave": leave,
    }  # fmt: skip


def _field(name: str) -> gr.Dropdown:
    is_key = name.endswith("_key")
    info = ColumnMapping.model_fields[name].description or ""
    if is_key:
        return gr.Textbox("", label=LABELS[name], info=info, max_lines=1, max_length=100, elem_id=f"mapping-{name}")
    return gr.Dropdown([NONE], value="", label=LABELS[name], info=info, elem_id=f"mapping-{name}")


def attach(shell: Shell, at: Shown) -> None:
    fields = {name.removeprefix("map "): component for name, component in at.items() if name.startswith("map ")}
    typed: dict[str, Any] = {"inputs": shell.import_id, "inputs_kwargs": fields, "outputs": at, "slot": at["map_slot"]}
    changed = [component.input for name, component in fields.items() if name != "has_header"]
    shell.listen(changed, show, concurrency_limit=4, **typed)
    shell.listen(at["map has_header"].input, name_columns, inputs=[shell.import_id, at["map has_header"]], outputs=at, slot=at["map_slot"])
    shell.listen(at["map_use"].click, use, **typed)
    shell.listen(at["map_leave"].click, leave, inputs=shell.import_id, outputs=at, slot=at["map_slot"])


def opened(import_id: str) -> Shown:
    """The question, with what a person will most likely choose."""
    layout = imports.look(imports.files_of(import_id)[0]).layout
    asked = import_view.question(imports.load(import_id), layout)
    return {"mapping": gr.Column(visible=True), "asked": asked, **_proposed(import_id, layout)}


def _proposed(import_id: str, layout: Layout) -> Shown:
    """The fields with the columns of the file to choose from."""
    proposed = layout.mapping
    choices = [NONE, *((column.name, column.name) for column in layout.columns)]
    kind = TURNS if proposed.turns else PAIR
    fields: Shown = {}
    for name in (*FIELDS[PAIR], *FIELDS[TURNS], *COMMON):
        value = getattr(proposed, name) or ""
        fields[f"map {name}"] = value if name.endswith("_key") else gr.Dropdown(choices, value=value)
    return {
        "columns": import_view.columns(layout.columns),
        "map kind": kind,
        "map has_header": gr.Checkbox(value=proposed.has_header, visible=layout.container == "csv"),
        **fields,
        **_groups(kind),
        **_preview(import_id, proposed),
    }


def _groups(kind: str) -> Shown:
    return {f"{group} fields": gr.Column(visible=group == kind) for group in FIELDS}


def _preview(import_id: str, mapping: ColumnMapping) -> Shown:
    if not mapping.is_complete:
        wanted = "Choose the columns of question and answer." if mapping.turns is None else "Choose the column of the messages."
        return {"map_preview": f'<p class="quiet" role="status">{wanted}</p>', "map_use": gr.Button(interactive=False)}
    look = imports.look(imports.files_of(import_id)[0], mapping)
    return {"map_preview": import_view.preview(look.rows), "map_use": gr.Button(interactive=any(row["messages"] for row in look.rows))}


def mapping_of(values: dict[str, Any]) -> ColumnMapping:
    """What is chosen; the fields of the other kind of row do not count."""
    kind = TURNS if values.get("kind") == TURNS else PAIR
    chosen = {name: str(values.get(name) or "").strip() or None for name in (*FIELDS[kind], *COMMON)}
    return ColumnMapping.model_validate(chosen | {"has_header": bool(values.get("has_header", True))})


@allowed("public")
def show(import_id: str, **values: Any) -> Shown:
    """Something was chosen: the rows as they would be imported now."""
    kind = TURNS if values.get("kind") == TURNS else PAIR
    return _groups(kind) | _preview(import_id, mapping_of(values))


@allowed("public")
def name_columns(import_id: str, has_header: bool) -> Shown:
    """For CSV: the first row names the columns, or is one of the rows; then they have numbers for names."""
    empty = ColumnMapping(has_header=has_header)
    layout = imports.look(imports.files_of(import_id)[0], empty, 0).layout
    return _proposed(import_id, layout.model_copy(update={"mapping": empty}))


@allowed("public")
def use(import_id: str, caller: Caller, **values: Any) -> Shown:
    """Import with the columns chosen."""
    shares.require_room(sum(file.stat().st_size for file in imports.files_of(import_id)), caller)
    return {"mapping": gr.Column(visible=False)} | following(shares.imported(imports.again(import_id, mapping_of(values)), caller))


@allowed("public")
def leave(import_id: str) -> Shown:
    """Nothing is imported."""
    imports.forget(import_id)
    return {"mapping": gr.Column(visible=False), "import_id": NO_ID}


def following(import_id: str) -> Shown:
    """What the page shows from the moment an import begins."""
    return {
        "import_id": import_id,
        "import_timer": gr.Timer(active=True),
        "progress": import_view.progress(imports.load(import_id)),
        "import_said": "",
        "stop": gr.Button(visible=True, interactive=True),
    }

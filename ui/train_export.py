"""The recipe of the form as a file for elsewhere: YAML, accelerate command, TRL script, notebook, SLURM batch file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import UserError
from core.training import exports
from ui import downloads
from ui import train_data as data
from ui.access import Caller, allowed
from ui.shell import Shell

TITLES: dict[str, str] = {
    "yaml": "Recipe in YAML, for python -m core train",
    "command": "accelerate launch command, for a shell",
    "script": "Plain TRL script, which needs nothing of Transmute",
    "notebook": "Jupyter notebook",
    "slurm": "SLURM batch file",
}


def add(shell: Shell, slot: gr.HTML) -> None:
    """Put the closed group onto the page."""
    with gr.Accordion(
        "Take the recipe elsewhere: YAML, command, script, notebook, SLURM",
        open=False,
        elem_classes=["group"],
        elem_id="train-export-group",
    ):
        with gr.Row(elem_classes=["fields"]):
            choices = [(title, name) for name, title in TITLES.items()]
            to = gr.Dropdown(choices, value="yaml", label="Export as", elem_id="train-export-as")
        save = gr.Button("Save the file", size="sm", elem_id="train-export")
        said = gr.HTML("", container=False, padding=False)
        file = downloads.link("train-export-file")
    shell.listen(save.click, write, inputs=[to, shell.form], outputs={"said": said, "file": file}, slot=slot)


@allowed("public")
def write(to: exports.To, kept: dict[str, Any] | None, caller: Caller) -> Iterator[dict[str, Any]]:
    """Write the form's recipe for the browser to save."""
    if to not in exports.FORMATS:
        raise UserError(f"{to!r} is no kind of export.", "Export as", "Choose one from the list.")
    recipe, hardware = data.recipe_of((kept or {}).get("values") or {}, caller), data.machine()
    path = downloads.place(recipe.name, exports.SUFFIXES[to])
    estimate = exports.known_estimate(recipe, hardware) if to in ("command", "slurm") else None
    yield from downloads.sent(path, lambda: path.write_text(exports.export(recipe, to, hardware, estimate), encoding="utf-8"), "said")

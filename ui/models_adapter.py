"""The adapter of a run by itself, as a file that llama.cpp adds to a GGUF of the base when it loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import UserError
from core.export.artifacts import Artifact
from core.export.gguf import adapter_file
from ui import downloads, feedback, picks
from ui.access import allowed
from ui.shell import Shell

ABOUT = (
    "<p>A small file beside a GGUF of the base model: <code>llama-cli -m BASE.gguf --lora FILE.gguf</code>. "
    "So several adapters share one base; the levels above are for those who want one file.</p>"
)


def build(shell: Shell, run: Any) -> None:
    """Put the closed group onto the page; it is there for a run that has an adapter."""
    with gr.Accordion(
        "The adapter by itself, for llama.cpp", open=False, visible=False, elem_classes=["group"], elem_id="models-adapter"
    ) as part:
        gr.HTML(ABOUT, container=False, padding=False)
        save = gr.Button("Save it as a GGUF LoRA file", size="sm", elem_id="models-adapter-save")
        said = gr.HTML("", container=False, padding=False)
        file = downloads.link("models-adapter-file")
    slot = feedback.slot()
    shell.listen(run.change, offer, inputs=run, outputs=part, slot=slot, queue=False, trigger_mode="multiple")
    shell.listen(save.click, write, inputs=run, outputs={"said": said, "file": file}, slot=slot, concurrency_limit=1)


@allowed("public")
def offer(run_id: str | None) -> gr.Accordion:
    return gr.Accordion(visible=_adapter(run_id) is not None)


@allowed("owner")
def write(run_id: str | None) -> Iterator[dict[str, Any]]:
    """Convert the run's adapter, and hand the file to the browser."""
    adapter = _adapter(run_id)
    if adapter is None:
        raise UserError("This run has no adapter.", "the run", "Choose one that was trained by LoRA or QLoRA.")
    path = downloads.place(adapter.name, ".gguf")
    yield from downloads.sent(path, lambda: adapter_file(adapter, path.parent), "said")


def _adapter(run_id: str | None) -> Artifact | None:
    return next((artifact for artifact in picks.of_run(run_id) if artifact.kind == "adapter"), None) if run_id else None

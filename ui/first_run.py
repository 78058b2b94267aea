"""What a tab without models offers in one click: the way to a first run, which the Train tab has filled in with the example."""

from __future__ import annotations

import gradio as gr

from ui import picks
from ui.access import allowed
from ui.shell import TRAIN, Shell

VERB = "Set up a run"


def offer(shell: Shell, tab_id: str) -> None:
    """Put the button onto the tab; it is there as long as nothing was made here."""
    button = gr.Button(VERB, visible=False, size="sm", elem_id=f"{tab_id}-first-run")
    shell.listen([shell.demo.load, shell.tab[tab_id].select], is_of_use, outputs=button, queue=False)
    shell.listen(button.click, open_train, outputs=shell.tabs, queue=False)


@allowed("public")
def is_of_use() -> gr.Button:
    return gr.Button(visible=not picks.runs_with_models())


@allowed("public")
def open_train() -> gr.Tabs:
    return gr.Tabs(selected=TRAIN)

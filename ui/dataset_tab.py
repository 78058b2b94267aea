"""The Dataset tab."""

from __future__ import annotations

import gradio as gr

from ui.shell import Shell
from ui.view import empty


def build(shell: Shell) -> None:
    gr.HTML(empty("Nothing here yet.", "It is being built."))

"""Files made for one download: written into Gradio's own cache, under a name nobody can guess and swept away with it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ui import background
from ui.view import meter

CLICK = "() => { setTimeout(() => document.querySelector('#%s')?.click(), 50); }"


def place(name: str, suffix: str) -> Path:
    """Where to write a file that is then given to a `link`. `name` is anybody's text; the file's name is made of its harmless part."""
    folder = Path(get_upload_folder()) / "made" / secrets.token_hex(16)
    folder.mkdir(parents=True)
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "dataset"
    return folder / f"{stem}{suffix}"


def link(elem_id: str) -> gr.DownloadButton:
    """A button that nobody sees; as soon as a handler gives it a file as its value, the browser downloads that."""
    button = gr.DownloadButton("Save the file", visible="hidden", elem_id=elem_id)
    button.change(None, js=CLICK % elem_id, api_visibility="private")
    return button


def sent(path: Path, write: Callable[[], Any], progress: str) -> Iterator[dict[str, Any]]:
    """Write a file with `write`, saying so under the output `progress` while it takes long; then hand it to the `link` named ``file``."""
    for work in background.watch(lambda _: write()):
        if not work.is_finished:
            yield {progress: f'{meter(1.0, "Writing the file")}<p class="quiet" role="status">Writing the file</p>'}
        else:
            yield {progress: "", "file": str(path)}

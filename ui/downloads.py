"""Files made for one download: written into Gradio's own cache, under a name nobody can guess and swept away with it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import processing_utils
from gradio.utils import get_upload_folder
from starlette.datastructures import MutableHeaders

from core.errors import UserError
from ui import background
from ui.view import meter

ASKED_FOR = re.compile(r"/file[=/](.*)", re.DOTALL)  # both routes by which Gradio hands out files, and fetches URLs for whoever asks
CLICK = "() => { setTimeout(() => document.querySelector('#%s')?.click(), 50); }"


def place(name: str, suffix: str) -> Path:
    """Where to write a file that is then given to a `link`. `name` is anybody's text; the file's name is made of its harmless part."""
    folder = _made() / secrets.token_hex(16)
    folder.mkdir(parents=True)
    stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:60] or "dataset"
    return folder / f"{stem}{suffix}"


def _made() -> Path:
    return Path(get_upload_folder()).absolute() / "made"


class OnlyMade:
    """ASGI middleware: of all files of this server those of `place` alone are handed out, to whoever was given the name (rules R11, R21).

    Gradio by itself also hands out what others have uploaded, and fetches any address of the internet. A browser saves such a file and never
    shows it as a page of this address, whatever somebody has got into it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        asked = ASKED_FOR.search(scope["path"]) if scope["type"] == "http" else None
        if asked is None:
            await self._app(scope, receive, send)
            return
        if is_made(asked[1]):
            await self._app(scope, receive, _to_be_saved(send))
            return
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain; charset=utf-8")]})
        await send({"type": "http.response.body", "body": b"This is no file that was made for you."})


def _to_be_saved(send: Any) -> Any:
    """`send`, with the answer marked as a file to be saved under its own name."""

    async def marked(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            said = headers.get("content-disposition", "")
            headers["content-disposition"] = "attachment" + said[said.find(";") :] if ";" in said else "attachment"
            headers["x-content-type-options"] = "nosniff"
            message = {**message, "headers": headers.raw}
        await send(message)

    return marked


def is_made(path: str) -> bool:
    """Whether `path`, exactly as it is, names a file in a folder of `place`."""
    return os.path.normpath(path) == path and Path(path).parent.parent == _made()


def fetch_nothing() -> None:
    """From now on Gradio fetches no address that stands in the place of an uploaded file (rule R21); nothing on the page needs it."""

    async def refuse(url: str, cache_dir: str) -> str:
        raise UserError("Files are taken by upload only, not by address.", "a file", "Upload the file itself.")

    processing_utils.async_ssrf_protected_download = refuse


def link(elem_id: str) -> gr.DownloadButton:
    """A button that nobody sees; as soon as a handler gives it a file as its value, the browser downloads that."""
    button = gr.DownloadButton("Save the file", elem_classes=["unseen"], elem_id=elem_id)
    button.change(None, js=CLICK % elem_id, api_visibility="private")
    return button


def sent(path: Path, write: Callable[[], Any], progress: str) -> Iterator[dict[str, Any]]:
    """Write a file with `write`, saying so under the output `progress` while it takes long; then hand it to the `link` named ``file``.

    `write` may return another path beside `path`, of a file whose name is only known when it is written.
    """
    for work in background.watch(lambda _: write()):
        if not work.is_finished:
            yield {progress: f'{meter(1.0, "Writing the file")}<p class="quiet" role="status">Writing the file</p>'}
        else:
            yield {progress: "", "file": str(work.result if isinstance(work.result, Path) else path)}

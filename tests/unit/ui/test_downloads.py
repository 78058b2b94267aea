"""Files for a download: their names cannot be guessed, and nothing else on this server is handed out or fetched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio import processing_utils

from core.errors import UserError
from ui import downloads


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def status(path: str) -> int:
    """What the server answers to a request for `path`; 200 stands for Gradio, to which it is passed on."""
    answers: list[Any] = []

    async def gradio(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        answers.append(message)

    asyncio.run(downloads.OnlyMade(gradio)({"type": "http", "path": path}, None, send))
    return answers[0]["status"]


def test_a_file_that_was_made_is_handed_out_and_nothing_beside_it(cache: Path) -> None:
    made = downloads.place("../my data", ".json")
    assert made.name == "my-data.json" and len(made.parent.name) == 32
    assert downloads.place("my data", ".json") != made
    for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
        assert status(f"{prefix}{made}") == 200
        for other in (made.parent, made.parent.parent, f"{made}/", f"{made.parent}/../{made.parent.name}/{made.name}", f"{made.parent}/../../x",
                      f"{made.parent}//{made.name}", str(made)[1:], cache / "an-upload" / "x", "/etc/passwd", "http://example.com", ""):  # fmt: skip
            assert status(f"{prefix}{other}") == 403, other
    for path in ("/", "/config", "/gradio_api/queue/join", "/gradio_api/upload", "/assets/file-abc.js", "/profile"):
        assert status(path) == 200


@pytest.mark.parametrize(
    ("said", "expected"), [('inline; filename="a.json"', 'attachment; filename="a.json"'), ("inline", "attachment"), (None, "attachment")]
)
def test_it_is_saved_and_never_shown_as_a_page_of_this_address(said: str | None, expected: str) -> None:
    given: list[dict[bytes, bytes]] = []

    async def gradio(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/html"), *([(b"content-disposition", said.encode())] if said else [])]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send(message: Any) -> None:
        given.append(dict(message["headers"]))

    made = downloads.place("page", ".html")
    asyncio.run(downloads.OnlyMade(gradio)({"type": "http", "path": f"/gradio_api/file={made}"}, None, send))
    assert given[0][b"content-disposition"] == expected.encode() and given[0][b"x-content-type-options"] == b"nosniff"
    assert given[0][b"content-type"] == b"text/html"


def test_an_address_in_the_place_of_a_file_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", processing_utils.async_ssrf_protected_download)
    downloads.fetch_nothing()
    for address in ("https://example.com/data.json", "http://127.0.0.1:9/x"):
        with pytest.raises(UserError, match="by upload only"):
            asyncio.run(gr.File(render=False).async_move_resource_to_block_cache(address))


def test_a_file_whose_name_is_known_only_when_it_is_written_is_handed_out_under_that_name(cache: Path) -> None:
    path = downloads.place("mine", ".gguf")
    shown = list(downloads.sent(path, lambda: path.with_name("mine-F16.gguf"), "said"))
    assert shown[-1] == {"said": "", "file": str(path.with_name("mine-F16.gguf"))}
    assert list(downloads.sent(path, lambda: 3, "said"))[-1]["file"] == str(path)

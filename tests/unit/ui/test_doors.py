"""Other pages' scripts and forms are turned away, and what Gradio offers beside what the page needs is not there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ui.doors import Doors

HOST = "kim-transmute.hf.space"
EVIL = "https://evil.example"


@pytest.fixture(autouse=True)
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_HOST", HOST)


def status(path: str = "/gradio_api/queue/join", method: str = "POST", **headers: str) -> int:
    """What the server answers; 200 stands for Gradio, to which the request is passed on."""
    answers: list[Any] = []

    async def gradio(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: Any) -> None:
        answers.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in ({"host": "127.0.0.1:7860"} | headers).items()]
    asyncio.run(Doors(gradio)({"type": "http", "method": method, "path": path, "headers": named}, None, send))
    return answers[0]["status"]


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a program
        {"origin": "http://127.0.0.1:7860"},
        {"origin": f"https://{HOST}"},
        {"origin": f"https://{HOST}", "sec_fetch_site": "same-origin"},
        {"origin": "https://a-proxy.example", "sec_fetch_site": "same-origin"},
    ],
)
def test_the_page_itself_and_programs_are_let_in(headers: dict[str, str]) -> None:
    assert status(**headers) == 200


@pytest.mark.parametrize(
    "origin",
    [EVIL, "null", "", "file://", "http://127.0.0.1:3000", "http://127.0.0.1", "https://evil.example:7860", f"https://{HOST}.evil.example",
     "https://huggingface.co", f"https://{HOST}@evil.example", "http://["],
)  # fmt: skip
def test_another_page_is_turned_away(origin: str) -> None:
    for path in ("/gradio_api/queue/join", "/gradio_api/call/publish", "/gradio_api/upload", "/login", "/anything"):
        assert status(path, origin=origin) == 403
    assert status("/gradio_api/queue/data", "GET", origin=origin, sec_fetch_mode="cors", sec_fetch_site="cross-site") == 403


def test_no_header_that_a_script_may_set_makes_it_welcome() -> None:
    assert status(origin=EVIL, x_forwarded_host="evil.example", x_forwarded_proto="https", referer=f"https://{HOST}/") == 403


def test_a_link_from_another_page_is_followed_and_no_form_of_it() -> None:
    for origin in (EVIL, "null"):
        assert status("/login/callback", "GET", origin=origin, sec_fetch_mode="navigate", sec_fetch_site="cross-site") == 200
        assert status("/login", "POST", origin=origin, sec_fetch_mode="navigate", sec_fetch_site="cross-site") == 403


def test_what_the_page_has_no_use_for_is_not_there() -> None:
    for path in (
        "process_recording",
        "/process_recording",
        "vibe-edit/",
        "stream/x/close",
        "proxy=https://example.com",
        "component_server",
        "",
    ):
        assert status(f"/gradio_api/{path}") == 404, path
    for path in ("queue/join", "queue/data", "upload", "file=/tmp/x", "file/x", "call/chat/1", "run/predict", "heartbeat/x", "theme.css"):
        assert status(f"/gradio_api/{path}") == 200, path

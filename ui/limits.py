"""How much a request may send (reliability rule R12): Gradio limits each file, and neither the whole, nor a form's plain fields, nor the disk."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from anyio import to_thread
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.requests import Request

from ui import access

MAX_FILE_BYTES = 2 * 10**9
MAX_UPLOAD_BYTES = MAX_FILE_BYTES + 10**6  # one file, and the form around it
MAX_FIELD_BYTES = 10**6  # of an upload's plain fields together; they are kept in memory
MAX_OTHER_BYTES = 8 * 10**6  # a form with every knob takes 10 kB
VISITOR_BYTES = 5 * 10**6  # of a file that somebody who is not the owner may have checked
DISK_FLOOR_BYTES = 256 * 2**20
IDLE_S = 60.0  # an upload that has sent nothing for so long has broken off

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class RefusedError(Exception):
    """The request sends too much; `status` is HTTP's number for it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class BodyLimit:
    """ASGI middleware that ends a request as soon as it has sent more than it may."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT", "PATCH"):
            await self._app(scope, receive, send)
            return
        began, is_upload = False, is_upload_of(scope)
        limit = MAX_OTHER_BYTES if not is_upload else await to_thread.run_sync(upload_limit, scope)

        async def send_noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._app(scope, _counting(scope, receive, limit), send_noted)
        except RefusedError as refused:
            if not began:
                await _answer(send, refused)
        finally:
            if is_upload:
                asyncio.get_running_loop().call_later(IDLE_S + 1, sweep)


def is_upload_of(scope: Scope) -> bool:
    return scope["path"].endswith("/upload")


def upload_limit(scope: Scope) -> int:
    """How much an upload may send: a visitor of a Space not more than may be imported for them."""
    headers = Headers(scope=scope)
    login = scope.get("session", {}).get("oauth_info", {})
    token = login.get("access_token") or headers.get("authorization", "").removeprefix("Bearer ") or None
    caller = access.identify(Request(scope), token)  # type: ignore[arg-type] - it has the headers and the client that are asked for
    return MAX_UPLOAD_BYTES if caller.may("owner") else VISITOR_BYTES + MAX_FIELD_BYTES


def sweep() -> None:
    """Remove what uploads have left behind that broke off; a whole one lies in a folder of its own."""
    for file in Path(get_upload_folder()).glob("tmp*"):
        with suppress(OSError):
            if file.is_file() and time.time() - file.stat().st_mtime > IDLE_S:
                file.unlink()


def _counting(scope: Scope, receive: Receive, limit: int) -> Receive:
    """`receive` that raises RefusedError when the body, its plain fields or the disk have reached their limit."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    is_upload = is_upload_of(scope)
    announced = headers.get(b"content-length", b"0")
    expected = int(announced) if announced.isdigit() else 0
    fields = _Fields(headers.get(b"content-type", b"")) if is_upload else None
    received = 0

    async def counting() -> Message:
        nonlocal received
        check(max(expected, received), limit, is_upload)
        message = await receive()
        body = message.get("body", b"")
        received += len(body)
        check(received, limit, is_upload)
        if fields:
            fields.read(body)
        return message

    return counting


def check(size_bytes: int, limit: int, is_upload: bool) -> None:
    """Refuse a body of this size."""
    if size_bytes > limit:
        raise RefusedError(413, f"A request may send {limit / 1e6:,.0f} MB here.")
    if is_upload and shutil.disk_usage(Path(tempfile.gettempdir())).free < DISK_FLOOR_BYTES:
        raise RefusedError(507, "The disk of this server is full.")


class _Fields:
    """Adds up the plain fields of a multipart body as it passes, and counts its files."""

    def __init__(self, content_type: bytes) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        boundary = parse_options_header(content_type)[1].get(b"boundary")
        self._is_file, self._bytes, self._files = False, 0, 0
        callbacks = {"on_part_begin": self._begin, "on_header_value": self._header, "on_part_data": self._data}
        self._parser = MultipartParser(boundary, callbacks) if boundary else None

    def read(self, body: bytes) -> None:
        from python_multipart.exceptions import FormParserError

        if self._parser and body:
            try:
                self._parser.write(body)
            except FormParserError:
                self._parser = None  # Gradio's own parser says so to the sender

    def _begin(self) -> None:
        self._is_file = False

    def _header(self, data: bytes, start: int, end: int) -> None:
        if b"filename=" in data[start:end].lower():
            self._is_file = True
            self._files += 1
            if self._files > 1:
                raise RefusedError(413, "A request may send one file.")

    def _data(self, _data: bytes, start: int, end: int) -> None:
        self._bytes += 0 if self._is_file else end - start
        if self._bytes > MAX_FIELD_BYTES:
            raise RefusedError(413, f"The fields of a form may have {MAX_FIELD_BYTES / 1e6:.0f} MB.")


async def _answer(send: Send, refused: RefusedError) -> None:
    body = str(refused).encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

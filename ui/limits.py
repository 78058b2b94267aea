"""How much a request may send, and how many may wait (reliability rules R12 and R22).

Gradio limits each file, and neither the whole, nor a form's plain fields, nor the disk; its queue is limited as a whole, so that one may fill it.
"""

from __future__ import annotations

import asyncio
import json
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

from ui import access, upload_shares

MAX_FILE_BYTES = 2 * 10**9
MAX_UPLOAD_BYTES = MAX_FILE_BYTES + 10**6  # one file, and the form around it
MAX_FIELD_BYTES = 10**6  # of an upload's plain fields together; they are kept in memory
MAX_OTHER_BYTES = 8 * 10**6  # a form with every knob takes 10 kB
VISITOR_BYTES = 5 * 10**6  # of a file that somebody who is not the owner may have checked
DISK_FLOOR_BYTES = 256 * 2**20
OWNERS_DISK_BYTES = 2 * 2**30  # beyond that, what visitors leave free for the owner's uploads and checkpoints
WAITING = 32  # calls of one visitor that may wait in Gradio's queue
VISITORS_WAITING = 192  # of all visitors; the queue is longer by what is left to the owner (ui.layout)
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
        began = False

        async def send_noted(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            if is_upload_of(scope):
                await self._upload(scope, receive, send_noted)
            else:
                if is_call(scope) and not await to_thread.run_sync(may_wait, scope):
                    raise RefusedError(503, "Too many calls wait here already. Try again in a moment.")
                await self._app(scope, _counting(scope, receive, MAX_OTHER_BYTES), send_noted)
        except RefusedError as refused:
            if not began:
                await _answer(send, refused, is_upload_of(scope))

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an upload on, and note whose the files are that Gradio says it has left."""
        caller = await to_thread.run_sync(caller_of, scope)
        limit = MAX_UPLOAD_BYTES if caller.may("owner") else VISITOR_BYTES + MAX_FIELD_BYTES
        if reason := upload_shares.reason_against(limit, caller):
            raise RefusedError(507, reason)
        answer = b""

        async def send_read(message: Message) -> None:
            nonlocal answer
            answer += message.get("body", b"")
            await send(message)

        floor = DISK_FLOOR_BYTES + (0 if caller.may("owner") else OWNERS_DISK_BYTES)
        loop = asyncio.get_running_loop()
        upload_shares.begin(limit, caller)
        try:
            await self._app(scope, _counting(scope, receive, limit, floor), send_read)
        finally:
            loop.call_later(IDLE_S + 1, sweep)
            files = _files_in(answer)  # none, if it broke off: what it has sent lies there until it is swept
            loop.call_later(0 if files else IDLE_S + 1, upload_shares.end, limit, caller, files)


def is_upload_of(scope: Scope) -> bool:
    return scope["path"].endswith("/upload")


def is_call(scope: Scope) -> bool:
    """Whether Gradio puts this request into its queue."""
    return scope["path"].endswith("/queue/join") or "/call/" in scope["path"]


def caller_of(scope: Scope) -> access.Caller:
    login = scope.get("session", {}).get("oauth_info", {})
    token = login.get("access_token") or Headers(scope=scope).get("authorization", "").removeprefix("Bearer ") or None
    return access.identify(Request(scope), token)  # type: ignore[arg-type] - it has the headers and the client that are asked for


def may_wait(scope: Scope) -> bool:
    """Whether one more call of this caller may wait; the owner is asked for only when there are too many for a visitor."""
    queues = scope["app"].get_blocks()._queue.event_queue_per_concurrency_id if "app" in scope else {}
    waiting = [event.request for queue in list(queues.values()) for event in list(queue.queue)]
    address = access.address_of(Request(scope))  # type: ignore[arg-type]
    mine = sum(access.address_of(request) == address for request in waiting)
    return (mine < WAITING and len(waiting) < VISITORS_WAITING) or caller_of(scope).may("owner")


def sweep() -> None:
    """Remove what uploads have left behind that broke off; a whole one lies in a folder of its own."""
    for file in Path(get_upload_folder()).glob("tmp*"):
        with suppress(OSError):
            if file.is_file() and time.time() - file.stat().st_mtime > IDLE_S:
                file.unlink()


def _files_in(answer: bytes) -> list[Path]:
    """The files that Gradio says it has put down."""
    try:
        told = json.loads(answer)
    except ValueError:
        return []
    return [Path(each) for each in told if isinstance(each, str)] if isinstance(told, list) else []


def _counting(scope: Scope, receive: Receive, limit: int, floor: int = 0) -> Receive:
    """`receive` that raises RefusedError when the body, its plain fields or the disk have reached their limit; a `floor` is an upload's."""
    headers = {name.lower(): value for name, value in scope["headers"]}
    announced = headers.get(b"content-length", b"0")
    expected = int(announced) if announced.isdigit() else 0
    fields = _Fields(headers.get(b"content-type", b"")) if floor else None
    received = 0

    async def counting() -> Message:
        nonlocal received
        check(max(expected, received), limit, floor)
        message = await receive()
        body = message.get("body", b"")
        received += len(body)
        check(received, limit, floor)
        if fields:
            fields.read(body)
        return message

    return counting


def check(size_bytes: int, limit: int, floor: int) -> None:
    """Refuse a body of this size, or one for a disk that has less than `floor` free."""
    if size_bytes > limit:
        raise RefusedError(413, f"A request may send {limit / 1e6:,.0f} MB here.")
    if floor and shutil.disk_usage(Path(tempfile.gettempdir())).free < floor:
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


async def _answer(send: Send, refused: RefusedError, is_upload: bool) -> None:
    """Say so, as Gradio's page reads it: a sentence, or a `detail` where it sent a call."""
    body = (str(refused) if is_upload else json.dumps({"detail": str(refused)})).encode()
    content_type = b"text/plain; charset=utf-8" if is_upload else b"application/json"
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

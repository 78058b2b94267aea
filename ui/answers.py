"""How answers are written: also one that repeats what JSON's writer refuses, as half a character, which a browser may send (rule R20)."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import gradio.routes
import orjson
from gradio.route_utils import FnIndexInferError

log = logging.getLogger("transmute")
RUN = re.compile(r"/gradio_api/+(run|api)/")  # where a call does not pass through the queue
NOT_THERE = "This request cannot be read, or asks for what is not there."


class _Writer:
    """orjson as Gradio knows it, but for values that it refuses: a stream would break off there, and the page wait for the rest."""

    def __getattr__(self, name: str) -> Any:
        return getattr(orjson, name)

    @staticmethod
    def dumps(value: Any, default: Any = None, option: int | None = None) -> bytes:
        try:
            return orjson.dumps(value, default, option)
        except TypeError:
            return orjson.dumps(writable(value), default, option)


class Blame:
    """ASGI middleware: HTTP 400 for what the sender of a request got wrong, where Gradio answers 500, a fault of the server.

    Gradio has no other number for a call outside the queue that fails, and says why in its answer. It does not foresee a listener that is not
    there, and fails to write its own answer to a body with NaN, or with bytes that are no text, in it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        began = False

        async def send_blaming(message: Any) -> None:
            nonlocal began
            began = True
            has_failed = message["type"] == "http.response.start" and message["status"] == 500
            await send({**message, "status": 400} if has_failed and RUN.search(scope["path"]) else message)

        try:
            await self._app(scope, receive, send_blaming)
        except (ValueError, LookupError, FnIndexInferError):
            if began:
                raise
            log.warning("a request that Gradio does not foresee", exc_info=True)
            body = json.dumps({"detail": NOT_THERE, "error": NOT_THERE}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 400, "headers": headers})
            await send({"type": "http.response.body", "body": body})


def write_all() -> None:
    """From now on Gradio writes every answer, with `writable` values."""
    gradio.routes.orjson = _Writer()


def writable(value: Any) -> Any:
    """`value` with a question mark for each half of a character in it, and numbers of more than 64 bits as text, however deep they lie."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case int() if not -(2**63) <= value < 2**64:
            return str(value)
        case dict():
            return {writable(name): writable(each) for name, each in value.items()}
        case list() | tuple():
            return [writable(each) for each in value]
        case _:
            return value

"""Which requests reach Gradio at all: those of the page itself and of programs, and those for the routes that the page has a use for.

Gradio answers the pages of other sites too: off this machine its answers name every `Origin` as welcome, with credentials, and its login
cookie is sent along from everywhere. A page that its owner is shown elsewhere could so train, push and delete here.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers

# Of Gradio's own interface; the rest takes videos for ffmpeg, streams, passes requests on, or edits the program.
NEEDED = frozenset(
    "api app_id call cancel file heartbeat info login_check openapi.json queue reset run startup-events theme.css token upload "
    "upload_progress user".split()
)
ROUTE = re.compile(r"/gradio_api/+([^/=]*)")
ELSEWHERE = b"This request comes from another page. Open this page by its own address; what stands in front of it must pass on its Host."


class Doors:
    """ASGI middleware that turns away the scripts and forms of other pages, and asks for routes that nothing here needs."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and is_foreign(scope["method"], Headers(scope=scope)):
            await _answer(send, 403, ELSEWHERE)
        elif scope["type"] == "http" and not is_needed(scope["path"]):
            await _answer(send, 404, b"There is nothing here.")
        else:
            await self._app(scope, receive, send)


def is_foreign(method: str, headers: Headers) -> bool:
    """Whether a page of another site makes this request. A browser says so itself, and no script can change what it says.

    Programs name no origin, and carry nobody's cookie. X-Forwarded-Host is not asked: a script may set it. That a link is followed to here
    is no request of the page with the link, which is not told the answer.
    """
    origin = headers.get("origin")
    if origin is None or headers.get("sec-fetch-site") == "same-origin":
        return False
    if method in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate":
        return False
    own = {headers.get("host", "").lower(), os.environ.get("SPACE_HOST", "").lower()} - {""}
    try:
        return urlsplit(origin).netloc.lower() not in own  # that of "null", of a page without a name, is empty
    except ValueError:
        return True


def is_needed(path: str) -> bool:
    asked = ROUTE.search(path)
    return asked is None or asked[1] in NEEDED


async def _answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""The child side of `core.chat.serve`: llama-cpp-python's server, reachable by this machine's programs and not by its web pages."""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any


def main() -> None:
    payload: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import uvicorn

    uvicorn.run(application(payload), host=payload["host"], port=payload["port"], log_level="warning")


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def application(payload: dict[str, Any]) -> Any:
    """The server for one model. It answers no foreign web page: the library would allow every origin, and any host name."""
    from llama_cpp.server.app import create_app
    from llama_cpp.server.settings import ModelSettings, ServerSettings
    from starlette.middleware.cors import CORSMiddleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    model: dict[str, Any] = {"model": payload["path"], "model_alias": payload["name"], "n_ctx": payload["context_length"], "verbose": False}
    if payload["threads"]:
        model |= {"n_threads": payload["threads"], "n_threads_batch": payload["threads"]}
    if payload["chat_format"]:
        model["chat_format"] = payload["chat_format"]
    server = ServerSettings(host=payload["host"], port=payload["port"], api_key=payload["key"])
    app: Any = create_app(server_settings=server, model_settings=[ModelSettings(**model)])
    app.user_middleware = [middleware for middleware in app.user_middleware if middleware.cls is not CORSMiddleware]
    if payload["is_local"]:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


if __name__ == "__main__":
    main()

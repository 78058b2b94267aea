"""The child's side of `core.process.call_child`: one JSON payload in, JSON lines out."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from core.errors import UserError

Emit = Callable[[dict[str, Any]], None]


def claim_stdout() -> Emit:
    """Keep the real stdout for messages and send everything else that prints, native libraries too, to stderr."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def emit(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    return emit


def serve(handle: Callable[[dict[str, Any], Emit], Any]) -> None:
    """Read the payload from stdin, run ``handle(payload, emit)`` and answer ``{"result"}`` or ``{"error"}``.

    `emit` sends progress in between: ``emit({"event": "progress", ...})``.
    """
    emit = claim_stdout()
    payload = json.loads(sys.stdin.readline())
    try:
        emit({"result": handle(payload, emit)})
    except UserError as error:
        emit({"error": error.as_dict()})
        sys.exit(1)
    except Exception:
        traceback.print_exc()
        raise

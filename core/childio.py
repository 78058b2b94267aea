"""The child's side of `core.process.call_child`: one JSON payload in, JSON lines out."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.process import die_with_parent

Emit = Callable[[dict[str, Any]], None]
TEMPLATE_S = 2.0  # what a chat template may take of time
TEMPLATE_BYTES = 256 * 2**20  # and of memory (reliability rule R19)


def claim_stdout() -> Emit:
    """Keep the real stdout for messages and send everything else that prints, native libraries too, to stderr."""
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)

    def emit(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    return emit


@contextmanager
def limited(seconds: float, extra_bytes: int) -> Generator[None]:
    """Run a block of foreign logic (a chat template) with a limit on time and on memory beyond what is used now.

    Only on the main thread of a child, and on Linux.

    Raises:
        UserError: code LIMIT, when it takes longer or more.
    """

    def expire(_number: int, _frame: object) -> None:
        raise UserError(f"It takes longer than {seconds:.0f} s.", "the chat template", "Give the model a plain template.", code="LIMIT")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    ceiling = pages * resource.getpagesize() + extra_bytes
    resource.setrlimit(resource.RLIMIT_AS, (ceiling if soft == resource.RLIM_INFINITY else min(soft, ceiling), hard))
    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except MemoryError:
        remedy = "Give the model a plain template."
        raise UserError(f"It needs more than {extra_bytes // 2**20} MB.", "the chat template", remedy, code="LIMIT") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def serve(handle: Callable[[dict[str, Any], Emit], Any]) -> None:
    """Read the payload from stdin, run ``handle(payload, emit)`` and answer ``{"result"}`` or ``{"error"}``.

    `emit` sends progress in between: ``emit({"event": "progress", ...})``.
    """
    die_with_parent(signal.SIGKILL)  # the caller waits in `call_child`, so the thread that the kernel watches lives as long as the call
    emit = claim_stdout()
    payload = json.loads(sys.stdin.readline())
    try:
        emit({"result": handle(payload, emit)})
    except UserError as error:
        emit({"error": error.as_dict()})
        sys.exit(1)

"""Several native jobs in one child process, where the one that crashes does not take the others along."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.process import call_child

EVENT_S = 0.2  # between two messages of progress, because each may be written to disk
OnEvent = Callable[[dict[str, Any]], None]


def run_jobs(
    module: str,
    payload: dict[str, Any],
    jobs: list[dict[str, Any]],
    *,
    step: str,
    timeout_s: float,
    on_done: Callable[[str, Any], None],
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, UserError]:
    """What went wrong, by job id; empty when all went well.

    The child does the jobs in order and sends ``{"event": "done", "id", "value"}`` after each; `on_done` gets id and value at once.
    Progress goes to `on_event` a few times per second, and when a job is through. A job that fails or kills the child is set aside, and a
    new child goes on with those after it. So is one that says nothing for `timeout_s`.
    """
    waiting = list(jobs)
    failures: dict[str, UserError] = {}
    told_s = 0.0

    def watch(event: dict[str, Any]) -> None:
        nonlocal told_s
        if event["event"] == "done":
            assert waiting[0]["id"] == event["id"]
            on_done(event["id"], event["value"])
            waiting.pop(0)
        elif on_event and (event.get("done") == event.get("total") or time.monotonic() - told_s >= EVENT_S):
            told_s = time.monotonic()
            on_event(event | {"id": waiting[0]["id"]})

    while waiting:
        before = len(waiting)
        try:
            call_child(module, payload | {"jobs": waiting}, step=f"{step} {waiting[0]['id']}", log=log, on_event=watch, timeout_s=timeout_s)
        except UserError as error:
            if not waiting or error.code == "DISK":
                raise
            failures[waiting.pop(0)["id"]] = error
        assert len(waiting) < before or not waiting
    return failures

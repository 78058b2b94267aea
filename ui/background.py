"""Long work beside the page: done in a thread that goes on when the browser leaves, watched by a generator that tells how far it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ui.view import left, meter, text

POLL_S = 0.25


@dataclass
class Work:
    """How far the work is, and at the end what came out."""

    done: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    result: Any = None
    is_finished: bool = False


class AbandonedError(Exception):
    """Raised inside work that nobody waits for any more."""


def watch(do: Callable[[Callable[[int, int], None]], Any], patience_s: float = 0.4, *, may_be_abandoned: bool = False) -> Iterator[Work]:
    """Run ``do(on_progress)`` in a thread; yield how far it is now and then, and last the finished work.

    Work that ends within `patience_s` is yielded only once. An error of `do` is raised here.

    Args:
        may_be_abandoned: end the work, at its next progress, when the generator is closed; otherwise it goes on to its end.
    """
    work, began = Work(), time.monotonic()
    failure: list[BaseException] = []
    is_left = threading.Event()

    def on_progress(done: int, total: int) -> None:
        if may_be_abandoned and is_left.is_set():
            raise AbandonedError
        work.done, work.total = done, total

    def run() -> None:
        try:
            work.result = do(on_progress)
        except BaseException as error:  # noqa: BLE001 - handed to the generator's caller below
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        thread.join(patience_s)
        while thread.is_alive():
            work.elapsed_s = time.monotonic() - began
            yield work
            thread.join(POLL_S)
    finally:
        is_left.set()
    if failure:
        raise failure[0]
    work.elapsed_s, work.is_finished = time.monotonic() - began, True
    yield work


def bar(work: Work, verb: str) -> str:
    """How far work over rows is, as HTML: ``Counted 40 % of the rows, about 3 s left``."""
    label = "Beginning" if not work.total else f"{verb} {100 * work.done / work.total:.0f} % of the rows"
    if work.total and work.done:
        label += f", {left(work.elapsed_s * (work.total - work.done) / work.done)}"
    return f'{meter(work.done / work.total if work.total else 0.0, label)}<p class="quiet" role="status">{text(label)}</p>'

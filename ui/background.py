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


class Going:
    """Work in a thread that goes on whoever watches, until it is through or stopped."""

    def __init__(self, do: Callable[[Callable[[int, int], None]], Any]) -> None:
        self.work, self.began_s = Work(), time.monotonic()
        self.failure: BaseException | None = None
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(do,), daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def is_stopped(self) -> bool:
        return self._is_stopped.is_set()

    def stop(self) -> None:
        """End it at its next progress."""
        self._is_stopped.set()

    def wait(self, seconds: float) -> None:
        """Until it is over, and at most so long."""
        self._thread.join(seconds)

    def _run(self, do: Callable[[Callable[[int, int], None]], Any]) -> None:
        try:
            self.work.result = do(self._tell)
        except BaseException as error:  # noqa: BLE001 - kept for whoever watches
            self.failure = error

    def _tell(self, done: int, total: int) -> None:
        if self.is_stopped:
            raise AbandonedError
        self.work.done, self.work.total = done, total


def watch(do: Callable[[Callable[[int, int], None]], Any], patience_s: float = 0.4, *, may_be_abandoned: bool = False) -> Iterator[Work]:
    """Run ``do(on_progress)`` in a thread; yield how far it is now and then, and last the finished work.

    Work that ends within `patience_s` is yielded only once. An error of `do` is raised here.

    Args:
        may_be_abandoned: end the work, at its next progress, when the generator is closed; otherwise it goes on to its end.
    """
    going = Going(do)
    work = going.work
    try:
        going.wait(patience_s)
        while not going.is_over:
            work.elapsed_s = time.monotonic() - going.began_s
            yield work
            going.wait(POLL_S)
    finally:
        if may_be_abandoned:
            going.stop()
    if going.failure:
        raise going.failure
    work.elapsed_s, work.is_finished = time.monotonic() - going.began_s, True
    yield work


def bar(work: Work, verb: str) -> str:
    """How far work over rows is, as HTML: ``Counted 40 % of the rows, about 3 s left``."""
    label = "Beginning" if not work.total else f"{verb} {100 * work.done / work.total:.0f} % of the rows"
    if work.total and work.done:
        label += f", {left(work.elapsed_s * (work.total - work.done) / work.done)}"
    return f'{meter(work.done / work.total if work.total else 0.0, label)}<p class="quiet" role="status">{text(label)}</p>'

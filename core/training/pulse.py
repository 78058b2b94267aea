"""Signs of life while one long piece of work says nothing itself: rows that are made and packed, a checkpoint that is sealed."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil

from core import events

ALIVE_S = 60.0  # between two signs of life while nothing is logged
LEAST_S = 0.01  # of processor time for each second; a process that waits for what never comes takes less


@contextmanager
def working(run_dir: Path, step: int = 0, every_s: float = ALIVE_S) -> Generator[None]:
    """Meanwhile an `alive` event each `every_s`, as long as this process or those below it compute: one that hangs falls silent."""
    if os.environ.get("LOCAL_RANK", "0") != "0":  # the first process of a machine speaks for all of them
        yield
        return
    is_over = threading.Event()

    def watch() -> None:
        known = _spent_s()
        while not is_over.wait(every_s):
            spent = _spent_s()
            if spent - known > LEAST_S * every_s:
                events.append(run_dir, "alive", step=step)
            known = spent

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _spent_s() -> float:
    """Processor time of this process and of all below it."""
    own = psutil.Process()
    total_s = 0.0
    for process in (own, *own.children(recursive=True)):
        try:
            total_s += sum(process.cpu_times())
        except psutil.NoSuchProcess:
            continue
    return total_s

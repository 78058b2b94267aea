"""How much a visitor of a Space may ask of its models: one answer at a time, and a few in a minute (fault F15)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from core.errors import UserError
from ui.access import Caller

PER_MINUTE = 10
MINUTE_S = 60.0
LONGEST_S = 300.0  # an answer that nobody has seen the end of bars its visitor no longer
MOST_KNOWN = 10_000  # visitors
REMEDY = "Duplicate this Space to have one of your own, with your own models and no limit."
_asked: dict[str, deque[float]] = {}  # when each visitor asked within the last minute, by `Caller.key`
_asking: dict[str, float] = {}  # since when an answer is being written for whom
_lock = threading.Lock()


@contextmanager
def turn(caller: Caller) -> Iterator[None]:
    """Held while an answer is written for `caller`; the owner may ask as much as they like.

    Raises:
        UserError: an answer to the same visitor is being written still, or they have asked a lot within a minute.
    """
    if caller.may("owner"):
        yield
        return
    began = _begin(caller.key, time.monotonic())
    try:
        yield
    finally:
        with _lock:
            if _asking.get(caller.key) == began:
                del _asking[caller.key]


def _begin(key: str, now: float) -> float:
    with _lock:
        if len(_asked) > MOST_KNOWN:
            for known in [known for known, times in _asked.items() if now - times[-1] > MINUTE_S]:
                del _asked[known]
        if now - _asking.get(key, -LONGEST_S) < LONGEST_S:
            raise UserError("An answer is being written for you still.", "the chat", f"Wait for its end. {REMEDY}", code="BUSY")
        times = _asked.setdefault(key, deque())
        while times and now - times[0] > MINUTE_S:
            times.popleft()
        if len(times) >= PER_MINUTE:
            problem = f"Visitors may ask {PER_MINUTE} times a minute."
            raise UserError(problem, "the chat", f"Ask again in {MINUTE_S - (now - times[0]):.0f} s. {REMEDY}", code="BUSY")
        times.append(now)
        _asking[key] = now
    return now

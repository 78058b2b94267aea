"""Blind votes: which of two answers was better, kept line by line, and what they add up to."""

from __future__ import annotations

import fcntl
import json
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from core import paths

Verdict = Literal["first", "second", "tie", "bad"]
Z = 1.96  # of a 95 % interval


class Vote(BaseModel):
    """One comparison: `first` and `second` are source ids in the order in which they were shown."""

    model_config = ConfigDict(frozen=True)

    first: str
    second: str
    verdict: Verdict
    prompt: str
    answers: tuple[str, str] = ("", "")
    seed: int = 0
    voted_s: float = 0.0


@dataclass(frozen=True)
class Result:
    """What the votes on one pair say. `share` is of the decided ones, ties and both-bad left out; `low` to `high` is its 95 % interval."""

    one: str
    other: str
    wins: int  # of `one`
    losses: int
    ties: int
    bad: int
    share: float
    low: float
    high: float

    @property
    def is_decided(self) -> bool:
        """Whether the interval leaves out an even match."""
        return self.low > 0.5 or self.high < 0.5


def file() -> Path:
    return paths.home() / "chats" / "votes.jsonl"


def cast(vote: Vote) -> None:
    """Append one vote; it is on the disk when this returns, and two at once do not mix."""
    path = file()
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(vote.model_copy(update={"voted_s": time.time()}).model_dump(), ensure_ascii=False).encode(errors="replace") + b"\n"
    with path.open("ab") as out:
        fcntl.flock(out, fcntl.LOCK_EX)
        if out.tell() and not _ends_whole(path):
            out.write(b"\n")  # a crash left half a line, which stays apart
        out.write(line)
        out.flush()
        os.fsync(out.fileno())


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as existing:
        existing.seek(-1, os.SEEK_END)
        return existing.read(1) == b"\n"


def all_votes() -> list[Vote]:
    """In the order in which they were cast; a damaged line is left out."""
    path, votes = file(), list[Vote]()
    if not path.is_file():
        return votes
    for line in path.read_bytes().splitlines():
        try:
            votes.append(Vote.model_validate_json(line))
        except ValidationError:
            continue
    return votes


def results(votes: Iterable[Vote]) -> list[Result]:
    """One line per pair, whichever was shown first; the pairs with most votes first."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for vote in votes:
        one, other = sorted((vote.first, vote.second))
        tally = counts.setdefault((one, other), {"wins": 0, "losses": 0, "ties": 0, "bad": 0})
        if vote.verdict in ("tie", "bad"):
            tally["ties" if vote.verdict == "tie" else "bad"] += 1
        else:
            winner = vote.first if vote.verdict == "first" else vote.second
            tally["wins" if winner == one else "losses"] += 1
    lines = [_result(one, other, tally) for (one, other), tally in counts.items()]
    return sorted(lines, key=lambda line: (-(line.wins + line.losses + line.ties + line.bad), line.one, line.other))


def _result(one: str, other: str, tally: dict[str, int]) -> Result:
    if tally["losses"] > tally["wins"]:  # the better one stands first
        one, other, tally = other, one, tally | {"wins": tally["losses"], "losses": tally["wins"]}
    decided = tally["wins"] + tally["losses"]
    low, high = wilson(tally["wins"], decided)
    share = tally["wins"] / decided if decided else 0.5
    return Result(one, other, tally["wins"], tally["losses"], tally["ties"], tally["bad"], share, low, high)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953); (0, 1) without trials."""
    if not trials:
        return 0.0, 1.0
    share, z2 = successes / trials, Z * Z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)

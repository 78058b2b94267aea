"""The quantisation ladder: which levels are worth having, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.export.artifacts import Artifact
from core.export.levels import GUIDED
from core.units import size

MEMORY_SHARE = 0.7  # of the free memory; the rest is for a longer context and for others
CLOSE_TOP1 = 0.95  # "nearly as good": the same best token at so many places


def is_measured(level: Artifact) -> bool:
    return level.measured.get("kl_mean") is not None


def comparable(levels: Sequence[Artifact]) -> list[Artifact]:
    """The levels measured on the same text against the same f16 file: of several such groups the largest, of equal ones the last."""
    groups: dict[tuple[Any, Any], list[Artifact]] = {}
    for level in levels:
        if is_measured(level):
            groups.setdefault(_measured_on(level), []).append(level)
    return max(reversed(groups.values()), key=len, default=[])


def _measured_on(level: Artifact) -> tuple[Any, Any]:
    return level.measured.get("eval_sha256"), level.measured.get("reference_sha256")


def by_size(levels: Sequence[Artifact]) -> list[Artifact]:
    """Largest first, as a ladder is walked down."""
    return sorted(levels, key=lambda level: (-level.size_bytes, level.level or ""))


def dominated(levels: Sequence[Artifact]) -> set[str]:
    """The ids of levels that another one beats: not larger, not farther from f16, and better in one of the two."""
    measured = [level for level in levels if is_measured(level)]
    return {level.id for level in measured if any(_beats(other, level) for other in measured if _measured_on(other) == _measured_on(level))}


def _beats(other: Artifact, level: Artifact) -> bool:
    ours = (level.size_bytes, level.measured["kl_mean"])
    theirs = (other.size_bytes, other.measured["kl_mean"])
    return theirs != ours and theirs[0] <= ours[0] and theirs[1] <= ours[1]


def smallest_close(levels: Sequence[Artifact]) -> Artifact | None:
    """The smallest level that still picks the same best token as f16 at `CLOSE_TOP1` of all places."""
    close = [level for level in comparable(levels) if level.measured.get("top1_agreement", 0.0) >= CLOSE_TOP1]
    return min(close, key=lambda level: level.size_bytes, default=None)


@dataclass(frozen=True)
class Gain:
    """What an importance matrix buys one level: its mean KL to f16 without and with it."""

    level: str
    plain: float
    guided: float


def gains(levels: Sequence[Artifact]) -> list[Gain]:
    """For each level that was measured both plain and guided, in the order of `levels`."""
    kl = {level.level or "": level.measured["kl_mean"] for level in comparable(levels)}
    return [Gain(name, kl[name], kl[name + GUIDED]) for name in kl if name + GUIDED in kl]


def four_of(levels: Sequence[Artifact]) -> list[Artifact]:
    """Up to four levels to compare: the largest, the smallest and some in between, of those that no other beats if they are enough."""
    beaten = dominated(levels)
    ladder = by_size([level for level in levels if level.id not in beaten])
    if len(ladder) < 4:
        ladder = by_size(levels)
    if len(ladder) <= 4:
        return ladder
    return [ladder[round(index * (len(ladder) - 1) / 3)] for index in range(4)]


def best_within(levels: Sequence[Artifact], max_bytes: float) -> Artifact | None:
    """The level closest to f16 of those that are no larger; of equally close ones the smaller."""
    fitting = [level for level in comparable(levels) if level.size_bytes <= max_bytes]
    return min(fitting, key=lambda level: (level.measured["kl_mean"], level.size_bytes), default=None)


def smallest_with(levels: Sequence[Artifact], min_top1: float) -> Artifact | None:
    """The smallest level that picks f16's best token at least so often (a share of all places)."""
    good = [level for level in comparable(levels) if level.measured["top1_agreement"] >= min_top1]
    return min(good, key=lambda level: (level.size_bytes, level.measured["kl_mean"]), default=None)


def best_in_memory(levels: Sequence[Artifact], free_bytes: float) -> Artifact | None:
    """The level closest to f16 whose process takes no more than `MEMORY_SHARE` of the free memory."""
    fitting = [level for level in comparable(levels) if memory_of(level) <= free_bytes * MEMORY_SHARE]
    return min(fitting, key=lambda level: (level.measured["kl_mean"], level.size_bytes), default=None)


def advice(level: Artifact) -> tuple[str, str]:
    """Which level to take, and what speaks for it: ``Take Q4_K_M.``, ``3.1 GB, ... at 93.4 % of all places.``"""
    share = f"{level.measured['top1_agreement']:.1%}".replace("%", " %")
    why = f"{size(level.size_bytes)}, about {size(memory_of(level))} of memory, KL {level.measured['kl_mean']:.3g}"
    return f"Take {level.level}.", f"{why}; the likeliest token is f16's own at {share} of all places."


def memory_of(level: Artifact) -> int:
    """As measured, or else the file's size and a third."""
    return level.measured.get("resident_bytes") or level.size_bytes * 4 // 3

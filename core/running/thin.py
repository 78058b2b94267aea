"""A growing curve that stays small: what a plot of it needs, kept up to date at a constant cost per point."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

BUCKETS = 240  # at most; each keeps its lowest and its highest point
Point = tuple[float, float]


@dataclass
class Thinned:
    """At most `2 * BUCKETS + 1` points of a curve whose x only grows: every peak and the newest point are among them.

    Each bucket holds `width` points in a row; when there are too many buckets, neighbours are joined and the width doubles.
    """

    width: int = 1
    lows: list[Point] = field(default_factory=list[Point])
    highs: list[Point] = field(default_factory=list[Point])
    in_last: int = 0
    newest: Point | None = None

    def add(self, x: float, y: float | None) -> None:
        """Take one point; what is no number is left out."""
        if y is None or not math.isfinite(y):
            return
        self.newest = (x, y)
        if self.in_last == self.width or not self.lows:
            if len(self.lows) == BUCKETS:
                self._join()
            self.lows.append(self.newest)
            self.highs.append(self.newest)
            self.in_last = 1
            return
        self.in_last += 1
        if y < self.lows[-1][1]:
            self.lows[-1] = self.newest
        if y > self.highs[-1][1]:
            self.highs[-1] = self.newest

    def _join(self) -> None:
        self.lows = [min(self.lows[at : at + 2], key=_height) for at in range(0, BUCKETS, 2)]
        self.highs = [max(self.highs[at : at + 2], key=_height) for at in range(0, BUCKETS, 2)]
        self.width *= 2

    def points(self) -> list[Point]:
        """The curve, in order."""
        kept = [point for low, high in zip(self.lows, self.highs, strict=True) for point in sorted({low, high})]
        return [*kept, self.newest] if self.newest and kept[-1] != self.newest else kept


def _height(point: Point) -> float:
    return point[1]

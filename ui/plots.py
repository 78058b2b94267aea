"""Plots as inline SVG: light, sharp at every width, in the page's own colours, and still when nothing changed.

Lines are drawn in a stretched SVG; numbers and points are ordinary HTML placed in per cent, so that they never stretch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ui.view import text

BUCKETS = 240  # of a line; each keeps its lowest and its highest point
COLUMNS = 24  # places under the pointer that tell their numbers
Number = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A curve: `tone` is a class of the style sheet (main, faint, points, run-0 to run-3)."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    tone: str = "main"


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where `value` lies, in per cent."""
        return 100 * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Decades:
    """A logarithmic axis from 0, its lowest line, over the powers of ten around some values."""

    lowest: int  # the power of ten of the first tick
    highest: int
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float]) -> Decades:
        positive = [value for value in values if value > 0] or [1.0]
        lowest, highest = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
        return cls(lowest, highest, (0.0, *(10.0**power for power in range(lowest, highest + 1))))

    def place(self, value: float) -> float:
        """Where `value` lies, in per cent; 0 and what is below it lie on the lowest line, half a decade under the first tick."""
        low = self.lowest - 0.5
        return 100 * (math.log10(value) - low) / (self.highest - low) if value > 0 else 0.0


def decimate(xs: Sequence[float], ys: Sequence[float], buckets: int = BUCKETS) -> list[tuple[float, float]]:
    """At most two points per bucket, its lowest and its highest, in order: no peak is lost."""
    points = [(x, y) for x, y in zip(xs, ys, strict=False) if y is not None and math.isfinite(y)]
    if len(points) <= 2 * buckets:
        return points
    kept: list[tuple[float, float]] = []
    size = len(points) / buckets
    for index in range(buckets):
        bucket = points[int(index * size) : int((index + 1) * size)]
        ends = {min(bucket, key=_height), max(bucket, key=_height)}
        kept.extend(sorted(ends))
    return kept


def _height(point: tuple[float, float]) -> float:
    return point[1]


def axis(values: Sequence[float], wanted: int = 4, closest: float = 0.0) -> Axis:
    """An axis around `values` with about `wanted` round ticks, none closer than `closest` to the next."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) * 0.1 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(closest, next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(index * step for index in range(first, last + 1)))


def chart(title: str, lines: Sequence[Line], number: Number, unit: str = "", x_name: str = "step") -> str:
    """A plot with a title, the newest value of the first line, a legend when there are several lines, and numbers under the pointer."""
    drawn = [(line, decimate(line.xs, line.ys)) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return ""
    x = axis([point[0] for _, points in drawn for point in points], 5, closest=1)
    x = Axis(min(p[0][0] for _, p in drawn), max(p[-1][0] for _, p in drawn), x.ticks)
    if x.high <= x.low:
        x = Axis(x.low - 0.5, x.high + 0.5, (x.low,))
    y = axis([point[1] for _, points in drawn for point in points])
    last, now = drawn[0][1][-1]
    label = f"{title}: {number(now)} at {x_name} {last:,.0f}, between {number(y.low)} and {number(y.high)}"
    return (
        f'<figure class="plot"><figcaption><span class="title">{text(title)}</span><span class="now">{text(number(now) + unit)}</span>'
        f'{_legend([line for line, _ in drawn])}</figcaption><div class="canvas">{_marks(x, y, number)}'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" aria-label="{text(label)}">'
        f"{''.join(_path(line, points, x, y) for line, points in drawn if line.tone != 'points')}</svg>"
        f"{''.join(_dots(line, points, x, y) for line, points in drawn if line.tone == 'points')}"
        f"{_columns(drawn, x, number, x_name)}</div></figure>"
    )


def _legend(lines: Sequence[Line]) -> str:
    if len(lines) < 2:
        return ""
    keys = "".join(f'<span class="key {line.tone}"><i></i>{text(line.name)}</span>' for line in lines)
    return f'<span class="keys">{keys}</span>'


def _marks(x: Axis, y: Axis, number: Number) -> str:
    across = "".join(
        f'<div class="rule" style="bottom:{y.place(tick):.2f}%"><span>{text(number(tick))}</span></div>'
        for tick in y.ticks
        if y.low <= tick <= y.high
    )
    along = "".join(_tick(x, tick, _step(tick)) for tick in x.ticks if x.low <= tick <= x.high)
    return f'<div class="marks" aria-hidden="true">{across}{along}</div>'


def _step(number: float) -> str:
    """``4,000`` and ``25k``: short enough that five of them stand side by side on a phone."""
    return f"{number:,.0f}" if number < 10_000 else f"{number / 1000:,g}k"


def _tick(x: Axis, tick: float, label: str) -> str:
    """A label under its place; at the right end it ends there, so that it does not stand out of the page."""
    last = " last" if x.place(tick) > 97 else ""
    return f'<span class="tick{last}" style="left:{x.place(tick):.2f}%">{text(label)}</span>'


def _path(line: Line, points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    placed = " ".join(f"{10 * x.place(at):.0f},{1000 - 10 * y.place(value):.0f}" for at, value in points)
    return f'<polyline class="{line.tone}" points="{placed}" vector-effect="non-scaling-stroke"/>'


def _dots(line: Line, points: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    return "".join(
        f'<i class="dot" style="left:{x.place(at):.2f}%;bottom:{y.place(value):.2f}%" aria-hidden="true"></i>' for at, value in points
    )


def _columns(drawn: Sequence[tuple[Line, list[tuple[float, float]]]], x: Axis, number: Number, x_name: str) -> str:
    """Narrow strips over the plot; each shows its numbers when the pointer is over it."""
    width = 100 / COLUMNS
    said: dict[int, dict[str, tuple[float, float]]] = {}
    for line, points in drawn:
        for at, value in points:
            said.setdefault(min(COLUMNS - 1, int(x.place(at) / width)), {})[line.name] = (at, value)
    strips: list[str] = []
    for index, values in sorted(said.items()):
        at = max(at for at, _ in values.values())
        rows = "".join(f"<span>{text(name)} <b>{text(number(value))}</b></span>" for name, (_, value) in values.items())
        side = "right" if index > COLUMNS / 2 else "left"
        strips.append(
            f'<div class="strip {side}" style="left:{index * width:.2f}%;width:{width:.2f}%"><div class="tip">'
            f"<span>{text(x_name)} {at:,.0f}</span>{rows}</div></div>"
        )
    return f'<div class="strips" aria-hidden="true">{"".join(strips)}</div>'


@dataclass(frozen=True)
class Point:
    """One quantisation level in the size and quality plot."""

    name: str
    size_bytes: float
    kl: float
    is_dominated: bool


def ladder(points: Sequence[Point], size: Number, number: Number) -> str:
    """Size against KL: what lies lower left is better; hollow points are beaten by another in both."""
    x, y = axis([0.0, *(point.size_bytes for point in points)], 4), Decades.around([point.kl for point in points])
    sides = _sides([(x.place(point.size_bytes), y.place(point.kl), point.name) for point in points])
    across = "".join(f'<div class="rule" style="bottom:{y.place(tick):.2f}%"><span>{text(number(tick))}</span></div>' for tick in y.ticks)
    along = "".join(_tick(x, tick, size(tick)) for tick in x.ticks)
    dots = "".join(_dot(point, side, x.place(point.size_bytes), y.place(point.kl)) for point, side in zip(points, sides, strict=True))
    said = "; ".join(f"{point.name} {size(point.size_bytes)}, KL {number(point.kl)}" for point in points)
    beaten = '<span class="key hollow"><i></i>beaten by a smaller and closer level</span>' if any(p.is_dominated for p in points) else ""
    return (
        '<figure class="plot ladder"><figcaption><span class="title">Size and distance from f16</span>'
        f'<span class="keys"><span class="key points"><i></i>level</span>{beaten}</span></figcaption>'
        f'<div class="canvas" role="img" aria-label="{text(said)}"><div class="marks" aria-hidden="true">{across}{along}</div>{dots}</div>'
        '<p class="axes"><span>KL to f16 upwards, by powers of ten: lower is closer</span><span>file size to the right</span></p></figure>'
    )


def _dot(point: Point, side: str, across: float, up: float) -> str:
    name = f'<b class="{side}">{text(point.name)}</b>' if side else ""
    hollow = " hollow" if point.is_dominated else ""
    return f'<i class="dot{hollow}" title="{text(point.name)}" style="left:{across:.2f}%;bottom:{up:.2f}%">{name}</i>'


SIDES = ("right", "left", "above", "below", "upper right", "lower right", "upper left", "lower left")
LETTER, LINE, GAP = 1.0, 7.0, 1.8  # of a name, in per cent of a plot 700 by 260 px: a letter's width, a line's height, the way to its point


def _sides(placed: Sequence[tuple[float, float, str]]) -> list[str]:
    """On which side of its point each name stands: the first of `SIDES` where it meets no other name, no point and no edge; empty for none."""
    taken = [(across - GAP / 2, up - LINE / 4, across + GAP / 2, up + LINE / 4) for across, up, _ in placed]
    chosen: list[str] = []
    for index, (across, up, name) in enumerate(placed):
        others = taken[:index] + taken[index + 1 :]
        boxes = {side: _box(side, across, up, LETTER * len(name)) for side in SIDES}
        free = [side for side, box in boxes.items() if 0 <= box[0] and box[2] <= 102 and not any(_meet(box, other) for other in others)]
        chosen.append(free[0] if free else "")
        taken += [boxes[side] for side in free[:1]]
    return chosen


def _box(side: str, across: float, up: float, width: float) -> tuple[float, float, float, float]:
    """Left, bottom, right and top of a name."""
    left = across + GAP if "right" in side else across - GAP - width if "left" in side else across - width / 2
    level, height = side.split()[0], up - LINE / 2
    bottom = height + {"above": 1.25 * LINE, "below": -1.25 * LINE, "upper": 0.8 * LINE, "lower": -0.8 * LINE}.get(level, 0.0)
    return left, bottom, left + width, bottom + LINE


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

"""The loss curve of a model card: an SVG of a few kilobytes, which the Hub shows from the repository as it shows any picture."""

from __future__ import annotations

import math
from collections.abc import Mapping

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 320, 64, 24, 16, 44
MAX_POINTS = 400  # of a line; more would not be seen
TICKS = 4
Points = list[tuple[int, float]]


def curve(losses: Mapping[int, float], evals: Mapping[int, float]) -> str:
    """Loss and evaluation loss by optimizer step; empty when there are not two points to join. Numbers only: nothing here is a name."""
    lines = [(_finite(losses), "#c2410c", "training loss"), (_finite(evals), "#1d4ed8", "evaluation loss")]
    lines = [(points, colour, name) for points, colour, name in lines if len(points) > 1]
    every = [point for points, _, _ in lines for point in points]
    if not every:
        return ""
    last = max(1, max(step for step, _ in every))
    low, high = min(loss for _, loss in every), max(loss for _, loss in every)
    high = high if high > low else low + 1

    def place(step: float, loss: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (high - loss) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for number in range(TICKS + 1):
        loss, step = low + (high - low) * number / TICKS, last * number / TICKS
        y, x = place(0, loss)[1], place(step, low)[0]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:.3g}</text>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="{"end" if number == TICKS else "middle"}">{step:,.0f}</text>'
        )
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 8}">optimizer step</text>')
    for number, (points, colour, name) in enumerate(lines):
        joined = " ".join("{:.1f},{:.1f}".format(*place(step, loss)) for step, loss in _thinned(points))
        parts.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{14 + 14 * number + TOP}" text-anchor="end" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _finite(values: Mapping[int, float]) -> Points:
    """The points in order, without those that are no numbers."""
    return [(step, loss) for step, loss in sorted(values.items()) if math.isfinite(loss)]


def _thinned(points: Points) -> Points:
    """At most MAX_POINTS of a line, its ends among them."""
    stride = math.ceil(len(points) / MAX_POINTS)
    return points if stride == 1 else [*points[:-1:stride], points[-1]]

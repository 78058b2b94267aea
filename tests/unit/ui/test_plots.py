"""Plots lose no peak, stay small, and let nobody's text become HTML."""

import math
import time

from core import events
from core.running.live import Live
from ui import plots, run_view


def test_a_single_peak_among_a_hundred_thousand_points_is_kept():
    ys = [1.0] * 100_000
    ys[54_321] = 9.0
    kept = plots.decimate(range(100_000), ys)
    assert (54_321, 9.0) in kept and len(kept) <= 2 * plots.BUCKETS
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)


def test_points_that_are_no_numbers_are_left_out():
    assert plots.decimate([1, 2, 3, 4], [1.0, math.nan, None, math.inf]) == [(1, 1.0)]
    assert plots.chart("Loss", [plots.Line("loss", [1], [math.nan])], str) == ""


def test_an_axis_has_round_ticks_around_its_values():
    axis = plots.axis([0.13, 3.97])
    assert axis.ticks == (0, 1, 2, 3, 4)
    flat = plots.axis([2.0, 2.0])
    assert flat.low < 2 < flat.high


def a_long_run(points):
    live = Live()
    live.add({"t": 0.0, "kind": "created", "run_id": "r", "name": "m", "method": "lora", "steps": ["train"]})
    for step in range(1, points + 1):
        loss = 3.0 / step + 0.1 * math.sin(step)
        live.add({"t": step * 0.1, "kind": "train_log", "step": step, "loss": loss, "learning_rate": 1e-4, "num_tokens": step * 90.0,
                  "memory_bytes": 1e9 + step})  # fmt: skip
    return live


def test_a_hundred_thousand_points_make_a_small_page_in_little_time():
    live = a_long_run(100_000)
    began = time.perf_counter()
    html = run_view.curves_of(live)
    assert time.perf_counter() - began < 2.0
    assert len(html) < 120_000
    assert html.count("<figure") == 4


def test_what_a_run_is_called_and_says_stays_text():
    evil = '<img src=x onerror="alert(1)">'
    live = Live()
    live.add({"t": 0.0, "kind": "created", "run_id": "r", "name": evil, "method": "lora", "steps": ["train"]})
    live.add({"t": 0.0, "kind": "note", "text": evil})
    live.add({"t": 0.0, "kind": "finished", "state": "failed", "error": {"problem": evil, "where": evil, "remedy": evil}})
    assert "<img" not in run_view.status(live)


def test_every_state_has_a_line_and_a_status():
    for state in ("done", "failed", "cancelled", "interrupted"):
        run = events.fold([{"t": 0.0, "kind": "created", "run_id": "r", "name": "m", "method": "lora", "steps": ["train"]},
                           {"t": 1.0, "kind": "train_began", "step": 0, "max_steps": 8}, {"t": 1.0, "kind": "finished", "state": state}])  # fmt: skip
        assert run_view.line(run).startswith("m\n")
        assert 'class="run"' in run_view.status(Live(run=run))


def test_the_ladder_marks_what_is_beaten_and_says_every_figure():
    points = [plots.Point("q8_0", 5e6, 0.001, False), plots.Point("q4_1", 4e6, 0.2, True)]
    html = plots.ladder(points, lambda value: f"{value / 1e6:.1f} MB", lambda value: f"{value:.3g}")
    assert html.count('class="dot hollow"') == 1
    assert 'aria-label="q8_0 5.0 MB, KL 0.001; q4_1 4.0 MB, KL 0.2"' in html

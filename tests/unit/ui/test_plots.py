"""Plots lose no peak, stay small, and let nobody's text become HTML."""

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from core import events
from core.running.live import Live
from core.running.thin import BUCKETS, Thinned
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
        live.add({"t": step * 0.1, "kind": "train_log", "step": step, "loss": loss,
                  "learning_rate": 1e-4, "grad_norm": 1 + math.cos(step), "num_tokens": step * 90.0,
                  "memory_bytes": 1e9 + step})  # fmt: skip
    return live


def test_a_hundred_thousand_points_make_a_page_of_at_most_50_kB():
    html = run_view.curves_of(a_long_run(100_000))
    assert len(html.encode()) <= 50_000
    assert html.count("<figure") == 5


@given(st.lists(st.one_of(st.floats(), st.none()), max_size=3000))
def test_a_thinned_curve_keeps_its_peaks_its_ends_and_its_order(ys):
    thin = Thinned()
    for x, y in enumerate(ys):
        thin.add(x, y)
    real = [(x, y) for x, y in enumerate(ys) if y is not None and math.isfinite(y)]
    kept = thin.points()
    assert len(kept) <= 2 * BUCKETS + 1 and kept == sorted(set(kept)) and set(kept) <= set(real)
    if real:
        assert min(y for _, y in kept) == min(y for _, y in real) and max(y for _, y in kept) == max(y for _, y in real)
        assert kept[-1] == real[-1]


def test_a_curve_that_was_cut_and_went_on_equals_one_that_was_drawn_at_once():
    live = a_long_run(1000)
    live.add({"t": 0.0, "kind": "train_began", "step": 700, "max_steps": 1000})
    assert live.curves.thin["loss"].points() == a_long_run(700).curves.thin["loss"].points()


def test_what_a_run_is_called_and_says_stays_text():
    evil = '<img src=x onerror="alert(1)">'
    live = Live()
    live.add({"t": 0.0, "kind": "created", "run_id": "r", "name": evil, "method": "lora", "steps": ["train"]})
    live.add({"t": 0.0, "kind": "note", "text": evil})
    live.add({"t": 0.0, "kind": "finished", "state": "failed", "error": {"problem": evil, "where": evil, "remedy": evil}})
    assert "<img" not in run_view.status(live)


def test_the_newest_loss_and_the_newest_evaluation_are_said_while_a_run_goes_on():
    live = a_long_run(9)
    live.add({"t": 0.0, "kind": "evaluated", "step": 0, "eval_loss": 8.7771})
    live.add({"t": 0.0, "kind": "facts", "facts": {"eval_loss_before": 8.7771}})
    assert "<dd>8.777</dd>" in run_view.status(live)
    for step, loss in ((4, 5.1), (8, 1.2344)):
        live.add({"t": 0.0, "kind": "evaluated", "step": step, "eval_loss": loss})
    assert "8.777 → 1.234" in run_view.status(live)
    assert f'<span class="now">{live.curves.loss[-1]:.3g}</span>' in run_view.curves_of(live)


def test_every_state_has_a_line_and_a_status():
    for state in ("done", "failed", "cancelled", "interrupted"):
        run = events.fold([{"t": 0.0, "kind": "created", "run_id": "r", "name": "m", "method": "lora", "steps": ["train"]},
                           {"t": 1.0, "kind": "train_began", "step": 0, "max_steps": 8}, {"t": 1.0, "kind": "finished", "state": state}])  # fmt: skip
        assert run_view.line(Live(run=run)).startswith("m\n")
        assert 'class="run"' in run_view.status(Live(run=run))


def test_the_ladder_marks_what_is_beaten_and_says_every_figure():
    points = [plots.Point("q8_0", 5e6, 0.001, False), plots.Point("q4_1", 4e6, 0.2, True)]
    html = plots.ladder(points, lambda value: f"{value / 1e6:.1f} MB", lambda value: f"{value:.3g}")
    assert html.count('class="dot hollow"') == 1
    assert 'aria-label="q8_0 5.0 MB, KL 0.001; q4_1 4.0 MB, KL 0.2"' in html


def test_the_ladder_gives_kl_its_powers_of_ten_so_that_close_levels_stay_apart():
    points = [plots.Point("f16", 9e6, 0.0, False), plots.Point("q8_0", 5e6, 1e-5, False), plots.Point("IQ2_XXS", 1.4e6, 0.022, False)]
    html = plots.ladder(points, str, lambda value: f"{value:.3g}")
    bottoms = [float(found) for found in re.findall(r'class="dot".*?bottom:([\d.]+)%', html)]
    assert bottoms[0] == 0.0 and 10 < bottoms[1] < 30 and 75 < bottoms[2] < 100
    assert re.findall(r'class="rule".*?<span>(.*?)</span>', html) == ["0", "1e-05", "0.0001", "0.001", "0.01", "0.1"]


def test_no_name_on_the_ladder_covers_another_or_a_point():
    near = [
        ("Q4_K_M", 2.91e6, 2.4e-4),
        ("Q4_K_M+imatrix", 2.92e6, 2.5e-4),
        ("q4_0", 2.8e6, 3.4e-4),
        ("q4_1", 3.0e6, 2.6e-4),
        ("f16", 9e6, 0.0),
    ]
    x, y = plots.axis([0.0, 9e6], 4), plots.Decades.around([kl for _, _, kl in near])
    placed = [(x.place(size), y.place(kl), name) for name, size, kl in near]
    sides = plots._sides(placed)
    boxes = [plots._box(side, across, up, len(name)) for side, (across, up, name) in zip(sides, placed, strict=True) if side]
    assert not any(plots._meet(one, other) for index, one in enumerate(boxes) for other in boxes[:index])
    assert len(set(sides)) > 2 and sides.count("") < 2
    html = plots.ladder([plots.Point(name, size, kl, False) for name, size, kl in near], str, str)
    assert all(f'title="{name}"' in html for name, _, _ in near), "a name that has no room is still there under the pointer"


def test_large_steps_are_written_short():
    xs = range(0, 100_001, 500)
    html = plots.chart("Loss", [plots.Line("Loss", xs, [1.0 / (x + 1) for x in xs])], str)
    assert re.findall(r'class="tick.*?>(.*?)</span>', html) == ["0", "20k", "40k", "60k", "80k", "100k"]

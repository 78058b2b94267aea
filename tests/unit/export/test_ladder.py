"""Levels are judged by size and distance together."""

from hypothesis import given
from hypothesis import strategies as st

from core.export import ladder
from core.export.artifacts import Artifact, FileEntry
from ui.models_view import level_plot


def made(level, size_bytes, kl, top1=1.0):
    files = (FileEntry(name=f"m-{level}.gguf", size_bytes=size_bytes, sha256=""),)
    measured = {} if kl is None else {"kl_mean": kl, "top1_agreement": top1}
    return Artifact(id=f"r-{level.lower()}", kind="gguf", level=level, name="m", files=files, measured=measured)


LEVELS = [
    made("f16", 900, 0.0),
    made("q8_0", 500, 0.001),
    made("q5_0", 350, 0.02, 0.96),
    made("q4_1", 360, 0.07, 0.9),
    made("q4_0", 300, 0.09, 0.88),
]


def test_a_level_is_dominated_when_a_smaller_one_is_closer():
    assert ladder.dominated(LEVELS) == {"r-q4_1"}


def test_equal_levels_do_not_dominate_each_other_and_unmeasured_ones_take_no_part():
    assert ladder.dominated([made("a", 5, 0.1), made("b", 5, 0.1), made("c", 1, None)]) == set()


def test_the_smallest_close_level_is_named():
    assert ladder.smallest_close(LEVELS).level == "q5_0"
    assert ladder.smallest_close([made("c", 1, None)]) is None


def test_four_levels_span_the_ladder_from_largest_to_smallest():
    seven = [made(f"q{index}", 100 - index, 0.0) for index in range(7)]
    assert [level.level for level in ladder.four_of(seven)] == ["q0", "q2", "q4", "q6"]
    assert len(ladder.four_of(LEVELS[:3])) == 3


def test_a_beaten_level_is_not_among_the_four_when_there_are_others():
    assert [level.level for level in ladder.four_of(LEVELS)] == ["f16", "q8_0", "q5_0", "q4_0"]


def test_a_pick_for_a_size_a_quality_and_a_machine():
    assert ladder.best_within(LEVELS, 355).level == "q5_0"
    assert ladder.best_within(LEVELS, 10) is None
    assert ladder.smallest_with(LEVELS, 0.9).level == "q5_0", "q4_1 is good enough and larger"
    assert ladder.smallest_with(LEVELS, 0.5).level == "q4_0" and ladder.smallest_with(LEVELS, 1.1) is None
    assert ladder.best_in_memory(LEVELS, 1000).level == "q8_0"
    measured = [level.model_copy(update={"measured": level.measured | {"resident_bytes": 800}}) for level in LEVELS[1:2]]
    assert ladder.best_in_memory(measured, 1000) is None, "what was measured counts, not what was guessed"
    assert ladder.best_within([made("x", 1, None)], 10) is None


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=8), st.integers(1, 50))
def test_a_pick_is_never_beaten_by_another_level_that_fits(sizes, limit):
    levels = [made(f"q{index}", size, kl) for index, (size, kl) in enumerate(sizes)]
    chosen = ladder.best_within(levels, limit)
    fitting = [level for level in levels if level.size_bytes <= limit]
    assert (chosen is None) == (not fitting)
    assert chosen is None or chosen.id not in ladder.dominated(fitting)


def on(text, level, size_bytes, kl, reference="f"):
    known = made(level, size_bytes, kl)
    return known.model_copy(update={"measured": known.measured | {"eval_sha256": text, "reference_sha256": reference}})


def test_figures_of_different_texts_or_references_are_not_compared():
    same = [on("a", "q8_0", 500, 0.01), on("a", "q4_0", 300, 0.2), on("a", "q4_0+imatrix", 300, 0.1)]
    easy = [on("b", "q5_0", 290, 0.001), on("a", "Q2_K", 200, 0.0001, reference="g")]
    levels = [*same, *easy]
    assert ladder.comparable(levels) == same and ladder.comparable([]) == []
    assert ladder.dominated(levels) == {"r-q4_0"}
    assert ladder.best_within(levels, 400) == same[2] == ladder.best_in_memory(levels, 600)
    assert ladder.smallest_with(levels, 0.5) == same[2] and ladder.smallest_close(levels).size_bytes == 300
    assert ladder.gains(levels) == [ladder.Gain("q4_0", 0.2, 0.1)]
    assert ladder.gains([*same[:2], on("b", "q8_0+imatrix", 500, 0.001)]) == []
    assert level_plot(levels).count("Q2_K") == level_plot(easy).count("q5_0") == 0

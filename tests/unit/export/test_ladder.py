"""Levels are judged by size and distance together."""

from core.export import ladder
from core.export.artifacts import Artifact, FileEntry


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

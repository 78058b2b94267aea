"""A split takes every conversation once, keeps what is alike on one side, and the same seed draws the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.conversation import Conversation, Turn
from core.data.dataset import Dataset, import_dataset
from core.data.near import NearIndex, clusters, jaccard, repeats, shingles
from core.data.split import leakage, split, split_dataset
from core.errors import UserError
from tests.unit.data.files import dump, record, talk


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), max_size=40), st.floats(0, 0.9), st.integers(0, 5))
def test_a_split_takes_every_row_once_and_keeps_the_same_conversation_on_one_side(kinds: list[int], fraction: float, seed: int) -> None:
    dataset = [Conversation(str(row), (Turn("user", str(kind)), Turn("assistant", "x"))) for row, kind in enumerate(kinds)]
    train, held_out = split(dataset, fraction, seed)
    assert sorted(train + held_out) == list(range(len(kinds)))
    assert train == sorted(train)
    assert held_out == sorted(held_out)
    assert not {kinds[row] for row in train} & {kinds[row] for row in held_out}
    assert bool(train) or not kinds
    assert len(held_out) <= max(1, round(len(kinds) * fraction)) * (fraction > 0)
    assert split(dataset, fraction, seed) == (train, held_out)


def test_a_split_by_share_has_that_share_and_another_seed_draws_others() -> None:
    dataset = [Conversation(str(row), (Turn("user", str(row)),)) for row in range(200)]
    train, held_out = split(dataset, 0.1, seed=1)
    assert (len(train), len(held_out)) == (180, 20)
    assert split(dataset, 0.1, seed=2)[1] != held_out
    assert split(dataset, 0.0, seed=1) == (list(range(200)), [])
    with pytest.raises(UserError, match="evaluation share"):
        split(dataset, 1.0, seed=1)


def imported(folder: Path, records: list[object], name: str = "talks") -> Dataset:
    (folder / f"{name}.json").write_text(dump(records), encoding="utf-8")
    return import_dataset(folder / f"{name}.json")


def essay(number: int, changed: int | None = None, words: int = 80) -> dict[str, object]:
    """A record of its own words; with `changed` the word at that place is another."""
    text = [f"w{number}x{place}" for place in range(words)]
    if changed is not None:
        text[changed] = "changed"
    return talk(("human", f"Write number {number}"), ("gpt", " ".join(text)), id=f"{number}-{changed}")


KINDS = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([None, 3, 40, 79])), min_size=4, max_size=30)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kinds=KINDS, seed=st.integers(0, 3), by=st.sampled_from(["count", "characters"]))
def test_a_split_dataset_has_no_leakage_and_loses_nothing(tmp_path: Path, kinds: list[tuple[int, int | None]], seed: int, by: str) -> None:
    dataset = imported(tmp_path, [essay(*kind) for kind in kinds])
    try:
        train, held_out = split_dataset(dataset, 0.3, seed, by)  # type: ignore[arg-type]
    except UserError:
        assert max(map([number for number, _ in kinds].count, range(7))) > 0.3 * len(kinds) or len({number for number, _ in kinds}) == 1
        return
    assert sorted(conversation.id for side in (train, held_out) for conversation in side) == sorted(f"{a}-{b}" for a, b in kinds)
    found = leakage(train, held_out)
    assert (found.num_exact, found.num_near) == (0, 0)
    again = split_dataset(dataset, 0.3, seed, by)  # type: ignore[arg-type]
    assert [side.id for side in again] == [train.id, held_out.id]
    assert train.manifest.parent == held_out.manifest.parent == dataset.id
    assert (train.manifest.made_by or {})["side"] == "train"


def test_a_share_can_be_of_characters(workspace: Path, tmp_path: Path) -> None:
    rows = [essay(number, words=10 if number % 10 else 1000) for number in range(100)]
    dataset = imported(tmp_path, rows)
    _, held_out = split_dataset(dataset, 0.2, seed=1, by="characters")

    def size(part: Dataset) -> int:
        return sum(len(turn.content) for conversation in part for turn in conversation.turns)

    assert 0.15 <= size(held_out) / size(dataset) <= 0.2


def test_without_near_duplicates_kept_together_the_leakage_is_found(workspace: Path, tmp_path: Path) -> None:
    dataset = imported(tmp_path, [essay(number, changed) for number in range(20) for changed in (None, 40)])
    train, held_out = split_dataset(dataset, 0.3, seed=1, near=False)
    found = leakage(train, held_out)
    assert found.num_exact == 0 and found.num_near > 0
    assert leakage(train, held_out, near=False).num_near == 0
    assert [leak.similarity >= 0.8 for leak in found.leaks] == [True] * found.num_near
    leak = found.leaks[0]
    assert train[leak.row].id.partition("-")[0] == held_out[leak.eval_row].id.partition("-")[0]
    apart, alone = split_dataset(dataset, 0.3, seed=1)
    assert leakage(apart, alone).num_near == 0


def test_leakage_names_the_rows_of_both_sources(workspace: Path, tmp_path: Path) -> None:
    train = imported(tmp_path, [7, essay(1), essay(2), essay(3, 5), record(0)], "train")
    evaluation = imported(tmp_path, [essay(9), 7, essay(3), essay(1)], "eval")
    found = leakage(train, evaluation)
    assert [(leak.row, leak.eval_row, leak.is_exact) for leak in found.leaks] == [(1, 3, True), (3, 2, False)]
    assert (found.num_exact, found.num_near) == (1, 1)


def test_a_split_that_leaves_one_side_empty_is_refused(workspace: Path, tmp_path: Path) -> None:
    same = imported(tmp_path, [record(0)] * 5)
    for fraction in (0.0, 0.2):
        with pytest.raises(UserError, match="leaves nothing to"):
            split_dataset(same, fraction, seed=1)


def near(*talks: list[tuple[str, str]]) -> NearIndex:
    index = NearIndex()
    for turns in talks:
        index.add(turns)
    return index


@pytest.mark.parametrize(
    ("one", "two", "least", "most"),
    [
        ("the cat sat on the mat and looked at me", "The cat sat on the mat, and looked at me!", 1.0, 1.0),
        ("今天天气很好我们去公园散步吧然后回家吃饭睡觉", "今天天气很好我们去公园散步吧然后回家吃饭看书", 0.6, 0.95),
        ("今天天气很好我们去公园散步吧", "机器学习是一门研究算法的学科", 0.0, 0.2),
        ("a b c d e f", "f e d c b a", 0.0, 0.3),
    ],
)
def test_likeness_is_a_share_of_runs_of_words_or_characters(one: str, two: str, least: float, most: float) -> None:
    sets = [shingles([("user", "same question"), ("assistant", text)]) for text in (one, two)]
    assert least <= jaccard(*sets) <= most


def test_a_system_message_makes_nothing_alike() -> None:
    system = ("system", "You are a very helpful assistant " * 20)
    sets = [shingles([system, ("user", text), ("assistant", text)]) for text in ("one", "two")]
    assert jaccard(*sets) < 0.5


def test_near_duplicates_are_found_among_many_and_nothing_else(workspace: Path) -> None:
    talks = [[("user", f"q{number}"), ("assistant", " ".join(f"w{number}x{place}" for place in range(60)))] for number in range(400)]
    for number in range(0, 400, 10):
        talks.append([talks[number][0], ("assistant", talks[number][1][1].replace(f"w{number}x30", "other"))])
    with near(*talks) as index:
        pairs = list(index.pairs())
        assert {(pair.row, pair.other) for pair in pairs} == {(400 + place, 10 * place) for place in range(40)}
        assert all(0.8 <= pair.similarity < 1 for pair in pairs)
        assert sorted(repeats(index, 0.8)) == list(range(400, 440))
        assert clusters(index)[400:] == [10 * place for place in range(40)]
        assert list(index.pairs(0.99)) == []
    with near(*talks) as again:
        assert list(again.pairs()) == pairs


def test_many_equal_conversations_cost_little_and_stay_together(workspace: Path) -> None:
    same = [("user", "q"), ("assistant", "the very same answer every time")]
    with near(*[same] * 3000, [("user", "x"), ("assistant", "something else")]) as index:
        assert len(list(index.pairs(every=True))) == 2999
        assert clusters(index) == [0] * 3000 + [3000]


def test_texts_without_words_are_alike_only_when_there_is_nothing_else(workspace: Path) -> None:
    with near([], [("user", "")], [("user", "!?"), ("assistant", "...")]) as index:
        assert len(index) == 3
        assert [pair.other for pair in index.pairs()] == []
    with near() as index:
        assert list(index.pairs()) == []

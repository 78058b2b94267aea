"""Any row of the file is found by its number, and the next row that holds a text, both ways round."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data import dataset as datasets
from core.data import lookup
from core.data.dataset import Dataset, import_dataset
from core.data.lookup import Rejected, look_up, search
from core.errors import UserError

WORDS = ("Fox", "über", "ÜBER hen", "x" * 90, "狐狸", "a.*b")


def talk(words: str) -> dict[str, object]:
    return {"id": "same", "conversations": [{"from": "human", "value": "Tell me."}, {"from": "gpt", "value": words}]}


@pytest.fixture
def make(workspace: Path, tmp_path: Path) -> Callable[[list[object]], Dataset]:
    def write(rows: list[object]) -> Dataset:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return import_dataset(tmp_path / "rows.jsonl")

    return write


@given(kinds=st.lists(st.sampled_from([*WORDS, 7, "long"]), min_size=1, max_size=40))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_found_and_no_other(kinds: list[object], make: Callable[[list[object]], Dataset]) -> None:
    rows = [{"conversations": "n" * 20_000} if kind == "long" else talk(kind) if isinstance(kind, str) else kind for kind in kinds]
    dataset = make(rows)
    for number, row in enumerate(rows):
        found = look_up(dataset, number)
        if isinstance(found, Rejected):
            assert found.row == number and json.loads(found.raw) == row and found.codes
        else:
            assert found.turns[1].content == kinds[number]
    for outside in (-1, len(rows)):
        with pytest.raises(UserError, match="no row"):
            look_up(dataset, outside)


@given(widths=st.lists(st.integers(0, 50), max_size=30), step=st.sampled_from([1, 3, 64]))
def test_the_line_of_a_rejected_row_is_found_whatever_the_lengths(widths: list[int], step: int) -> None:
    lines = [json.dumps({"row": 2 * number, "line": 1, "byte": 0, "codes": [], "raw": "x" * width}) for number, width in enumerate(widths)]
    file = io.BytesIO("".join(line + "\n" for line in lines).encode())
    for number, width in enumerate(widths):
        assert lookup._rejected(file, 2 * number) == Rejected(2 * number, 1, 0, [], "x" * width)
        assert lookup._rejected(file, 2 * number + 1) is None
    for place in range(len(file.getvalue())):
        expected = file.getvalue().rfind(b"\n", 0, place) + 1
        assert lookup._line_start(file, place, 0, step) == expected


@given(
    kinds=st.lists(st.sampled_from([*WORDS, 7]), min_size=1, max_size=30),
    words=st.sampled_from(["fox", "FOX", "hen", "über", "Über", "狐", "tell", ".*", "nowhere"]),
    row=st.integers(0, 31),
    is_forward=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_next_hit_is_the_nearest_one_round(
    kinds: list[object],
    words: str,
    row: int,
    is_forward: bool,
    make: Callable[[list[object]], Dataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datasets, "BATCH_ROWS", 4)
    monkeypatch.setattr(datasets, "BATCH_BYTES", 300)
    kinds = [*kinds, "the end"]
    dataset = make([talk(kind) if isinstance(kind, str) else kind for kind in kinds])
    hits = [n for n, kind in enumerate(kinds) if isinstance(kind, str) and words.casefold() in f"Tell me. {kind}".casefold()]
    ahead = [hit for hit in hits if hit > row] if is_forward else [hit for hit in hits if hit < row][::-1]
    around = hits if is_forward else hits[::-1]
    last = list(search(dataset, words, row, is_forward=is_forward))[-1]
    assert last.row == (ahead + around + [None])[0]
    assert last.done == last.total == len(dataset)


def test_ids_are_searched_too_and_nothing_is_searched_for_nothing(make: Callable[[list[object]], Dataset]) -> None:
    dataset = make([talk("a") | {"id": "first-one"}, talk("b") | {"id": "second-one"}])
    assert [*search(dataset, "SECOND", 0)][-1].row == 1
    assert [*search(dataset, "", 0)][-1].row is None

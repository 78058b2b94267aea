"""Figures of a dataset equal what counting by hand gives, and are taken once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import paths
from core.data import measures
from core.data.audit import audit, export, launch_note
from core.data.dataset import Dataset, import_dataset
from core.data.language import main_script, scripts_of
from core.data.measures import is_measured, measure
from core.data.packing import BATCH_ROWS, packed_rows
from core.data.render import IGNORED, LossOn, tokenize
from core.data.statistics import estimated_steps, histogram, text_statistics, token_statistics
from core.data.tokenizer import ChatTokenizer, load_tokenizer
from core.errors import UserError
from tests.unit.data.files import dump, record, talk

ROWS = [
    record(0),
    7,
    talk(("human", "word " * 80), ("gpt", "late")),
    talk(("human", "q"), ("gpt", "word " * 80)),
    talk(("system", "Be brief."), ("human", "你好"), ("gpt", "你好吗 hi"), ("human", "b"), ("gpt", "c")),
]


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(paths.STARTER)


@pytest.fixture
def dataset(workspace: Path, tmp_path: Path) -> Dataset:
    (tmp_path / "talks.json").write_text(dump(ROWS), encoding="utf-8")
    return import_dataset(tmp_path / "talks.json")


@pytest.mark.parametrize("loss_on", ["answers", "last", "all"])
def test_measures_equal_what_training_would_see(dataset: Dataset, tokenizer: ChatTokenizer, loss_on: LossOn) -> None:
    found = measure(dataset, tokenizer, 64, loss_on)
    for index, conversation in enumerate(dataset):
        cut, whole = tokenize(conversation, tokenizer, 64, loss_on), tokenize(conversation, tokenizer, None, loss_on)
        assert found.tokens[index] == cut.full_length
        assert found.loss_tokens[index] == sum(label != IGNORED for label in cut.labels[1:])
        assert found.loss_tokens[index] + found.lost_tokens[index] == sum(label != IGNORED for label in whole.labels[1:])
    answers = [tokenize(conversation, tokenizer) for conversation in dataset]
    assert found.answers.sum() == sum(sample.num_loss_tokens for sample in answers)
    assert len(found.answers) == 5


def test_the_audit_names_every_row_without_loss_and_every_cut_one(dataset: Dataset, tokenizer: ChatTokenizer) -> None:
    found = audit(dataset, tokenizer, 64)
    assert [(row.row, row.reason) for row in found.no_loss_rows] == [(2, "answer-cut")]
    assert [row.row for row in found.cut_rows] == [3]
    cut = tokenize(dataset[2], tokenizer, 64)
    assert (found.cut_rows[0].lost_tokens, found.cut_rows[0].kept_tokens) == (cut.truncated_answer_tokens, cut.num_loss_tokens)
    assert (found.num_conversations, found.num_rejected, found.num_zero_loss, found.num_cut) == (4, 1, 1, 1)
    note = launch_note(found, "talks")
    assert note.startswith("1 of 4 conversations carry no loss") and "Raise max_length" in note
    assert launch_note(audit(dataset, tokenizer, 4096), "talks") == ""
    with pytest.raises(UserError, match="None of the 4 conversations of talks") as raised:
        launch_note(audit(dataset, tokenizer, 4), "talks")
    assert raised.value.code == "ZERO_LOSS"


def test_the_audit_is_exported_whole_however_many_rows_its_lists_hold(
    dataset: Dataset, tokenizer: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.audit.MAX_LISTED", 0)
    assert audit(dataset, tokenizer, 64).cut_rows == []
    for suffix in (".csv", ".jsonl"):
        assert export(dataset, measure(dataset, tokenizer, 64), tmp_path / f"audit{suffix}") == 2
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["row"], line["reason"]) for line in lines] == [(2, "answer-cut"), (3, "cut")]
    assert list(lines[0]) == ["row", "reason", "tokens", "lost_tokens", "kept_tokens", "problem", "remedy"]
    assert (tmp_path / "audit.csv").read_text(encoding="utf-8").splitlines()[0] == ",".join(lines[0])


def test_a_template_that_refuses_is_a_reason(dataset: Dataset, tokenizer: ChatTokenizer) -> None:
    import dataclasses

    template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tokenizer.template
    strict = dataclasses.replace(tokenizer, template=template, sha256="another")
    assert [(row.row, row.reason, row.tokens) for row in audit(dataset, strict, 64).no_loss_rows] == [
        (2, "answer-cut", audit(dataset, tokenizer, 64).no_loss_rows[0].tokens),
        (4, "template-refused", 0),
    ]
    with pytest.raises(UserError, match="refuses 1 of 4 conversations") as raised:
        launch_note(audit(dataset, strict, 64), "talks")
    assert raised.value.where == "talks, row 4"


def test_measures_are_taken_once_for_each_setting(dataset: Dataset, tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[int, int]] = []
    first = measure(dataset, tokenizer, 64, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(0, 4), (4, 4)]
    assert is_measured(dataset, tokenizer, 64) and not is_measured(dataset, tokenizer, 65)
    monkeypatch.setattr(measures, "RowEncoder", None)
    again = measure(dataset, tokenizer, 64)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in measures.Measures.__annotations__)
    with pytest.raises(TypeError):
        measure(dataset, tokenizer, 65)


def test_text_statistics_count_turns_letters_and_extremes(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    found = text_statistics(dataset)
    assert (found.num_conversations, found.turns, found.num_with_system) == (4, {2: 3, 4: 1}, 1)
    assert found.scripts["Han"] == 5
    assert found.conversations_by_script == {"Latin": 4}
    assert [(row.row, row.length) for row in found.longest[:2]] == [(2, 404), (3, 401)]
    assert found.shortest[0].row == 4 or found.shortest[0].row == 0
    assert sum(row.length for row in found.longest) == found.num_characters
    monkeypatch.setattr("core.data.statistics.scripts_of", None)
    assert text_statistics(dataset) == found, "it is read from the folder"


def test_token_statistics_add_up(dataset: Dataset, tokenizer: ChatTokenizer) -> None:
    found = token_statistics(dataset, tokenizer, 64)
    lengths = [tokenize(conversation, tokenizer).full_length for conversation in dataset]
    assert (found.tokens.largest, sum(found.tokens.counts), sum(found.answers.counts)) == (max(lengths), 4, 5)
    assert (found.num_truncated, found.num_zero_loss, found.zero_loss) == (2, 1, {"answer-cut": 1})
    kept = [min(length, 64) for index, length in enumerate(lengths) if index != 1]
    assert found.num_tokens == sum(kept)
    assert found.packing_efficiency == pytest.approx(sum(kept) / (found.packed_rows * 64))
    assert 0 < found.loss_share < 1
    assert [row.row for row in found.longest[:1]] == [2 if lengths[1] >= lengths[2] else 3]


def test_an_empty_dataset_has_statistics_too(workspace: Path, tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    (tmp_path / "bad.json").write_text('[{"id": "a", "conversations": []}]')
    empty = import_dataset(tmp_path / "bad.json")
    assert text_statistics(empty).num_conversations == 0
    found = token_statistics(empty, tokenizer, 64)
    assert (found.tokens.counts, found.packed_rows, found.packing_efficiency, found.loss_share) == ([0], 0, 0, 0)
    assert audit(empty, tokenizer, 64).num_zero_loss == 0


@given(st.lists(st.integers(-5, 5000), min_size=1, max_size=60))
def test_a_histogram_holds_every_value_once(values: list[int]) -> None:
    found = histogram(values)
    assert len(found.edges) == len(found.counts) + 1 <= 41
    for number, count in enumerate(found.counts):
        assert count == sum(found.edges[number] <= value < found.edges[number + 1] for value in values)
    assert sum(found.counts) == len(values)


@given(st.lists(st.integers(1, 64), max_size=200))
def test_packed_rows_are_never_fewer_than_the_tokens_need_nor_more_than_the_conversations(lengths: list[int]) -> None:
    assert -(-sum(lengths) // 64) <= packed_rows(lengths, 64) <= len(lengths)


def test_packing_goes_by_batches() -> None:
    assert packed_rows([1] * (BATCH_ROWS + 1), 4096) == 2


def test_steps_are_estimated_from_what_is_left_to_train_on(dataset: Dataset, tokenizer: ChatTokenizer) -> None:
    found = measure(dataset, tokenizer, 64)
    common = {"max_length": 64, "batch_rows": 2, "epochs": 3.0}
    assert estimated_steps(found, **common, packing=False, eval_fraction=0.0) == 6  # type: ignore[arg-type]
    assert estimated_steps(found, **common, packing=False, eval_fraction=0.34) == 3  # type: ignore[arg-type]
    assert estimated_steps(found, **common, packing=False, eval_fraction=0.0, max_steps=4) == 4  # type: ignore[arg-type]
    rows = packed_rows([64, *[int(found.tokens[index]) for index in (0, 3)]], 64)
    assert estimated_steps(found, **common, packing=True, eval_fraction=0.0) == -(-rows // 2) * 3  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello wörld", "Latin"),
        ("你好世界 hi", "Han"),
        ("これは日本語です漢字", "Kana"),
        ("Привет", "Cyrillic"),
        ("안녕하세요 hi", "Hangul"),
        ("नमस्ते", "Devanagari"),
        ("مرحبا", "Arabic"),
        ("ሰላም", "Other"),
        ("123 !? 😀", "None"),
        ("", "None"),
    ],
)
def test_the_main_script_is_that_of_most_letters(text: str, script: str) -> None:
    assert main_script([text]) == script


@given(st.text(max_size=60))
def test_no_letter_is_counted_twice(text: str) -> None:
    assert sum(scripts_of(text).values()) <= len(text)

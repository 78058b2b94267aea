"""The embedded default is honest: what is examined was never taught, and the demo data is what it says it is."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.data.likeness import with_near_duplicates
from core.data.rules import RULES
from core.data.tokenizer import load_tokenizer
from core.data.validate import validate
from core.paths import EXAMPLES, STARTER, read_json
from examples import build_data
from examples.conversations import Category, conversations, identity, normalised, old_domain, require_honest

EVAL_RECORDS = [json.loads(line) for line in (EXAMPLES / "starter_eval.jsonl").read_text(encoding="utf-8").splitlines()]
MAX_BYTES = 10_000_000
MAX_PARAMETERS = 4_800_000
MAX_IDENTITY_TOKENS = 30_000


@pytest.fixture(scope="module")
def categories() -> list[Category]:
    return [*old_domain(), identity()]


def questions(records: list[dict[str, Any]]) -> list[str]:
    return [turn["value"] for record in records for turn in record["conversations"] if turn["from"] == "human"]


# --- the starter ---------------------------------------------------------------------------------------------------------------------


def test_no_examined_question_is_in_the_training_set(categories: list[Category]) -> None:
    require_honest(categories)
    taught = {normalised(pair.question) for category in categories for pair in category.training}
    assert [record["question"] for record in EVAL_RECORDS if normalised(record["question"]) in taught] == []


def test_the_honesty_check_sees_a_leak(categories: list[Category]) -> None:
    first = categories[0]
    leaking = Category(first.name, first.weight, first.training, (first.training[0],))
    with pytest.raises(AssertionError, match="training holds"):
        require_honest([leaking])


def test_held_out_sums_are_unseen_also_with_their_operands_swapped(categories: list[Category]) -> None:
    addition = next(category for category in categories if category.name == "addition")

    def operands(question: str) -> tuple[str, ...]:
        return tuple(sorted(re.findall(r"\d+", question)))

    taught = {operands(pair.question) for pair in addition.training}
    assert [pair.question for pair in addition.held_out if operands(pair.question) in taught] == []


def test_drawn_conversations_never_hold_an_examined_question(categories: list[Category]) -> None:
    examined = {normalised(pair.question) for category in categories for pair in category.held_out}
    drawn = itertools.islice(conversations(categories, seed=1), 3000)
    assert [m["content"] for messages in drawn for m in messages if m["role"] == "user" and normalised(m["content"]) in examined] == []


def test_a_question_has_one_right_answer(categories: list[Category]) -> None:
    answers: dict[str, str] = {}
    for category in categories:
        for pair in (*category.training, *category.held_out):
            assert answers.setdefault(pair.question, pair.answer) == pair.answer, pair.question


def test_the_examination_is_the_committed_one(categories: list[Category]) -> None:
    made = [
        {"category": category.name, "question": pair.question, "answer": pair.answer}
        for category in categories
        if category.name != "identity"
        for pair in category.held_out
    ]
    assert made == EVAL_RECORDS
    assert len(EVAL_RECORDS) >= 300


def test_the_result_names_every_category_and_reaches_nine_in_ten() -> None:
    result = read_json(EXAMPLES / "starter_result.json")
    assert set(result["categories"]) == {record["category"] for record in EVAL_RECORDS}
    assert result["questions"] == len(EVAL_RECORDS)
    assert result["accuracy"] >= 0.9
    assert result["parameters"] <= MAX_PARAMETERS


def test_the_starter_is_small_enough_for_a_repository() -> None:
    assert {file.name: file.stat().st_size for file in STARTER.iterdir() if file.stat().st_size > MAX_BYTES} == {}
    config = read_json(STARTER / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"] and config["head_dim"] == 64
    assert config["hidden_size"] % 256 == 0 and config["intermediate_size"] % 256 == 0
    assert "license: apache-2.0" in (STARTER / "README.md").read_text(encoding="utf-8")


# --- the demo data -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["identity.json", "identity_eval.json", "broken.json", "broken.jsonl"])
def test_the_demo_data_is_what_its_script_writes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_data, "EXAMPLES", tmp_path)
    build_data.main()
    assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_identity_is_vicuna_data_in_alternation_and_within_its_budget() -> None:
    records = read_json(EXAMPLES / "identity.json")
    assert len(records) >= 300 and [record["id"] for record in records] == [f"identity_{index}" for index in range(len(records))]
    assert {len(record["conversations"]) for record in records} == {2, 4, 6}
    for record in records:
        assert [turn["from"] for turn in record["conversations"]] == ["human", "gpt"] * (len(record["conversations"]) // 2)
    assert len({json.dumps(record["conversations"]) for record in records}) == len(records)
    assert build_data.total_tokens(records, STARTER) <= MAX_IDENTITY_TOKENS


def test_identity_eval_asks_in_words_that_identity_never_uses() -> None:
    taught = {normalised(question) for question in questions(read_json(EXAMPLES / "identity.json"))}
    records = read_json(EXAMPLES / "identity_eval.json")
    assert len(records) >= 60
    assert [question for question in questions(records) if normalised(question) in taught] == []
    assert len({normalised(question) for question in questions(records)}) == len(records)
    assert all(build_data.NAME in record["conversations"][1]["value"] for record in records)


def test_identity_holds_no_examined_question_of_the_starter() -> None:
    examined = {normalised(record["question"]) for record in EVAL_RECORDS}
    assert [question for question in questions(read_json(EXAMPLES / "identity.json")) if normalised(question) in examined] == []


def test_the_starter_has_never_heard_the_new_name(categories: list[Category]) -> None:
    pairs = [pair for category in categories for pair in (*category.training, *category.held_out)]
    assert [pair for pair in pairs if build_data.NAME.lower() in f"{pair.question} {pair.answer}".lower()] == []
    assert len(load_tokenizer(STARTER).encode(build_data.NAME)[0]) <= 6


def test_broken_json_parses_and_names_its_defects() -> None:
    records = read_json(EXAMPLES / "broken.json")
    named = [record["id"] for record in records if isinstance(record, dict) and isinstance(record.get("id"), str)]
    assert named[0] == "nothing-is-wrong-here" and named[-1] == "duplicate-key-second"
    assert [name for name in named if named.count(name) > 1] == ["duplicate-id", "duplicate-id"]


def test_broken_jsonl_keeps_whole_records_around_the_broken_ones() -> None:
    lines = (EXAMPLES / "broken.jsonl").read_text(encoding="utf-8").splitlines()
    whole = [line for line in lines if line.startswith('{"id": "whole-')]
    assert len(whole) == 3 and all(json.loads(line) for line in whole)
    with pytest.raises(json.JSONDecodeError):
        json.loads(lines[1])


# Codes that no record of broken.json or broken.jsonl can have, and why.
OF_A_WHOLE_FILE = {
    "not-a-text-file", "empty-file", "no-records", "byte-order-mark", "not-utf-8", "other-encoding", "crlf-line-ends", "content-after-list",
    "truncated-file", "object-not-list",
}  # fmt: skip
OF_OTHER_LAYOUTS = {
    "unknown-layout", "columns-ignored", "history-not-pairs", "ragged-row", "broken-row", "duplicate-column", "broken-parquet",
    "unreadable-row",
}  # fmt: skip
ELSEWHERE = {
    "misplaced-comma": "json.loads must still read the list, and lines have no commas",
    "undecodable-bytes": "the files are good UTF-8, as is everything in this repository",
    "record-too-long": "its record alone would have 16 MB",
    "template-refused": "the starter's template takes every conversation that can be trained",
    "too-many-turns": "its conversation alone would have 10,001 turns",
    "too-many-keys": "its record alone would have 1,001 keys",
    "eval-leak": "it needs a second file",
    "near-eval-leak": "it needs a second file",
    "eval-empty": "it needs a second file",
}


def test_the_broken_examples_have_every_code_that_a_record_of_theirs_can_have() -> None:
    path = EXAMPLES / "broken.json"
    report = with_near_duplicates(validate(path, tokenizer=load_tokenizer(STARTER), max_length=2048), path)
    found = {*report.counts, *validate(EXAMPLES / "broken.jsonl").counts}
    assert found.isdisjoint(OF_A_WHOLE_FILE | OF_OTHER_LAYOUTS - {"missing-column"} | set(ELSEWHERE))
    assert set(RULES) - found == OF_A_WHOLE_FILE | OF_OTHER_LAYOUTS | set(ELSEWHERE)

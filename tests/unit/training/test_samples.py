"""What a run trains on comes from the token rows on the disk, and is what tokenizing its conversations gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.data.dataset import Dataset, import_dataset
from core.data.render import tokenize
from core.data.tokenizer import ChatTokenizer, load_tokenizer
from core.errors import UserError
from core.training import samples
from core.training.presets import demo
from tests.unit.data.files import record, talk

LATE = talk(("human", "Why? " * 99), ("gpt", "So."), id="late")


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return load_tokenizer(paths.STARTER)


def imported(folder: Path, name: str, records: list[dict[str, Any]]) -> Dataset:
    (folder / name).write_text(json.dumps(records), encoding="utf-8")
    return import_dataset(folder / name)


def run_of(folder: Path, train: Dataset, held_out: Dataset | None = None, **knobs: Any) -> Path:
    run_dir = folder / "run"
    run_dir.mkdir()
    paths.write_text(run_dir / "recipe.yaml", demo().model_copy(update={"max_length": 64} | knobs).to_yaml())
    paths.write_json(run_dir / "dataset.json", {"train": {"id": train.id}} | ({"eval": {"id": held_out.id}} if held_out else {}))
    return run_dir


def assert_rows(rows: samples.Rows, conversations: list[Any], chat: ChatTokenizer, loss_on: Any = "answers") -> None:
    made = [tokenize(conversation, chat, 64, loss_on) for conversation in conversations]
    wanted = [{"input_ids": each.input_ids, "labels": each.labels} for each in made if each.num_loss_tokens]
    assert rows.dataset().to_list() == wanted
    assert len(rows) == len(wanted)
    assert rows.num_tokens == sum(len(each["input_ids"]) for each in wanted)
    assert rows.num_loss_tokens == sum(label != -100 for each in wanted for label in each["labels"][1:])


@pytest.mark.parametrize("loss_on", ["answers", "last", "all"])
def test_the_rows_of_a_split_dataset(workspace: Path, tmp_path: Path, chat: ChatTokenizer, loss_on: str) -> None:
    data = imported(tmp_path, "talks.json", [*(record(number) for number in range(20)), LATE])
    run_dir = run_of(tmp_path, data, eval_fraction=0.3, loss_on=loss_on)
    rows, conversations = samples.rows_of(run_dir, chat), samples.conversations_of(run_dir)
    assert len(conversations[0]) + len(conversations[1]) == 21
    for side in (0, 1):
        assert_rows(rows[side], conversations[side], chat, loss_on)
    assert len(list((data.folder / "tokens").iterdir())) == 1
    assert samples.rows_of(run_dir, chat)[0].tokens.folder == rows[0].tokens.folder


def test_the_rows_of_two_datasets_and_of_none_held_out(workspace: Path, tmp_path: Path, chat: ChatTokenizer) -> None:
    data = imported(tmp_path, "talks.json", [record(number) for number in range(9)])
    other = imported(tmp_path, "others.json", [record(number) for number in range(50, 53)])
    rows, held_out = samples.rows_of(run_of(tmp_path, data, other), chat)
    assert_rows(rows, list(data), chat)
    assert_rows(held_out, list(other), chat)
    (tmp_path / "second").mkdir()
    rows, held_out = samples.rows_of(run_of(tmp_path / "second", data, eval_fraction=0.0), chat)
    assert (len(rows), len(held_out)) == (9, 0)


def test_a_refused_conversation_stops_the_run_that_trains_on_it(workspace: Path, tmp_path: Path, chat: ChatTokenizer) -> None:
    from dataclasses import replace

    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ m.content }}{% endfor %}"
    data = imported(tmp_path, "talks.json", [record(0), talk(("system", "Be kind."), ("human", "Hi"), ("gpt", "Yes?"))])
    with pytest.raises(UserError, match="no system"):
        samples.rows_of(run_of(tmp_path, data, eval_fraction=0.0), replace(chat, template=template, sha256="strict"))

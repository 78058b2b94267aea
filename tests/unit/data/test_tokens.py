"""Token rows are made once, equal those made one by one, and open as a memory map."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.data import encode, tokens
from core.data.dataset import Dataset, import_dataset
from core.data.encode import RowEncoder
from core.data.render import tokenize
from core.data.tokenizer import ChatTokenizer, load_tokenizer
from core.data.tokens import TokenRows, built_rows, token_rows
from core.errors import UserError
from core.paths import PROJECT, STARTER
from core.process import child_environment
from tests.unit.data.files import record, talk

REFUSING = "{% for m in messages %}{% if m.content == 'Why?' %}{{ raise_exception('No questions.') }}{% endif %}{{ m.content }}{% endfor %}"


@pytest.fixture
def dataset(workspace: Path, tmp_path: Path) -> Dataset:
    records = [record(n) for n in range(40)] + [
        talk(("human", "Why? " * 60), ("gpt", "So."), id="late"),
        talk(("human", "Why?"), ("gpt", "é😀</p>")),
    ]
    (tmp_path / "talks.json").write_text(json.dumps(records), encoding="utf-8")
    return import_dataset(tmp_path / "talks.json")


@pytest.fixture(scope="module")
def chat() -> ChatTokenizer:
    return load_tokenizer(STARTER)


def assert_equal(rows: TokenRows, dataset: Dataset, chat: ChatTokenizer, max_length: int | None) -> None:
    assert len(rows) == len(dataset)
    for number, conversation in enumerate(dataset):
        sample = tokenize(conversation, chat, max_length)
        assert rows[number].input_ids.tolist() == sample.input_ids
        assert rows[number].labels.tolist() == sample.labels
        assert rows.num_tokens[number] == len(sample.input_ids)
        assert rows.num_loss_tokens[number] == sum(label != -100 for label in sample.labels[1:])
        assert (rows.full_length[number], rows.lost[number]) == (sample.full_length, sample.truncated_answer_tokens)


@pytest.mark.parametrize("batch_rows", [1, 7, 4096])
def test_rows_equal_those_made_one_by_one(dataset: Dataset, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch, batch_rows: int) -> None:
    monkeypatch.setattr(tokens, "BATCH_ROWS", batch_rows)
    assert built_rows(dataset, chat, 64) is None
    told: list[tuple[int, int]] = []
    rows = token_rows(dataset, chat, 64, on_progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (42, 42)
    assert_equal(rows, dataset, chat, 64)
    assert (rows.num_loss_tokens == 0).tolist() == [False] * 40 + [True, False]
    with pytest.raises(IndexError):
        rows[42]


def test_the_same_rows_are_made_once_and_others_anew(dataset: Dataset, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    build = tokens._build
    monkeypatch.setattr(tokens, "_build", lambda *rest: made.append(rest[2:4]) or build(*rest))
    for _ in range(2):
        token_rows(dataset, chat, 64)
        token_rows(dataset, chat, 32)
        token_rows(dataset, chat, 64, "last")
        token_rows(dataset, dataclasses.replace(chat, template=chat.template + " ", sha256="other"), 64)
        token_rows(dataset, dataclasses.replace(chat, eos_token="<unk>"), 64)
    assert made == [(64, "answers"), (32, "answers"), (64, "last"), (64, "answers"), (64, "answers")]
    found = built_rows(dataset, chat, 32)
    assert found
    assert found.num_tokens.max() == 32


def test_a_template_that_writes_the_date_is_rendered_anew_the_next_day(
    dataset: Dataset, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = dataclasses.replace(chat, template="{{ strftime_now('%d') }}{% for m in messages %}{{ m.content }}{% endfor %}")
    today = tokens._folder(dataset, dated, None, "answers")
    monkeypatch.setattr(time, "strftime", lambda *_: "2001-01-01")
    assert tokens._folder(dataset, dated, None, "answers") != today
    assert tokens._folder(dataset, chat, None, "answers") == tokens._folder(dataset, chat, None, "answers")


def test_a_conversation_that_the_template_refuses_keeps_its_place_and_its_reason(dataset: Dataset, chat: ChatTokenizer) -> None:
    rows = token_rows(dataset, dataclasses.replace(chat, template=REFUSING, sha256="refusing"))
    assert len(rows) == 42
    assert list(rows.refusals) == [41]
    assert rows.num_tokens[41] == 0
    assert rows[41].input_ids.tolist() == []
    with pytest.raises(UserError, match="No questions") as refused:
        rows.require_accepted()
    assert "conversation 41" in refused.value.where
    with pytest.raises(UserError, match="no chat template"):
        token_rows(dataset, dataclasses.replace(chat, template="", sha256="none"))


def test_a_wrong_fast_way_leaves_no_wrong_row(dataset: Dataset, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "ALL_CHECKED", 0)
    monkeypatch.setattr(encode, "CHECKED_EVERY", 20)
    make = RowEncoder.__init__

    def spoil(self: RowEncoder, *rest: Any, **named: Any) -> None:
        make(self, *rest, **named)
        if self._words:
            self._words.words[" Question"] = b"\5\0\0\0"

    monkeypatch.setattr(RowEncoder, "__init__", spoil)
    assert_equal(token_rows(dataset, chat, 64), dataset, chat, 64)


def test_only_the_last_used_rows_are_kept(dataset: Dataset, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "KEPT", 2)
    token_rows(dataset, chat, 32)
    for length, age in ((32, 30), (33, 20)):
        folder = token_rows(dataset, chat, length).folder
        os.utime(folder, (time.time() - age, time.time() - age))
    kept = token_rows(dataset, chat, 32)  # used again
    token_rows(dataset, chat, 34)
    assert built_rows(dataset, chat, 33) is None
    assert built_rows(dataset, chat, 32)
    assert kept[0].input_ids.tolist() == tokenize(dataset[0], chat, 32).input_ids


def test_two_at_once_make_the_rows_once(dataset: Dataset, chat: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    build = tokens._build

    def slowly(*rest: Any) -> None:
        made.append(1)
        time.sleep(0.3)
        build(*rest)

    monkeypatch.setattr(tokens, "_build", slowly)
    found: list[TokenRows] = []
    others = [threading.Thread(target=lambda: found.append(token_rows(dataset, chat, 64))) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert made == [1]
    assert [len(rows) for rows in found] == [42] * 4


def test_a_killed_build_leaves_nothing_half_and_the_next_one_is_whole(dataset: Dataset, chat: ChatTokenizer) -> None:
    program = """
import sys, time
from core.data import tokens
from core.data.dataset import open_dataset
from core.data.tokenizer import load_tokenizer
from core.paths import STARTER
tokens.BATCH_ROWS = 4
def stop(done, total):
    if done >= 12:
        print("half", flush=True)
        time.sleep(60)
tokens.token_rows(open_dataset(sys.argv[1]), load_tokenizer(STARTER), 64, on_progress=stop)
"""
    environment = child_environment({"TRANSMUTE_HOME": os.environ["TRANSMUTE_HOME"]})
    child = subprocess.Popen([sys.executable, "-c", program, dataset.id], cwd=PROJECT, env=environment, stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"half\n"
    assert built_rows(dataset, chat, 64) is None
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert_equal(token_rows(dataset, chat, 64), dataset, chat, 64)
    assert [path.name for path in (dataset.folder / "tokens").iterdir()] == [token_rows(dataset, chat, 64).folder.name]


def test_the_rows_are_not_read_to_be_opened(dataset: Dataset, chat: ChatTokenizer) -> None:
    """The columns are views of the file: what stands there is what is seen."""
    rows = token_rows(dataset, chat, 64)
    ids = rows[3].input_ids
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    assert np.shares_memory(ids, rows[3].input_ids)

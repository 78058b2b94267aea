"""The ids and labels of training equal those derived by hand and by FastChat's own rule, without the code under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.conversation import Conversation, Turn
from core.data.records import read_record
from core.data.render import IGNORED, mask_row, render, tokenize
from core.data.rows import check_rows
from core.data.tokenizer import VICUNA_SYSTEM, VICUNA_TEMPLATE, ChatTokenizer, load_tokenizer
from core.data.validate import validate
from core.paths import EXAMPLES, STARTER, read_json
from tests.unit.data.files import dump, record, talk

GOLDEN = Path(__file__).parents[2] / "golden" / "vicuna_labels.json"
CASES: list[dict[str, Any]] = read_json(GOLDEN)["cases"]


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(STARTER)


@pytest.fixture(scope="module")
def pieces() -> Any:
    """The starter's vocabulary in the sentencepiece library."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_file=str(STARTER / "tokenizer.model"))


def conversation_of(case: dict[str, Any]) -> Conversation:
    extra = {"system": case["system"]} if "system" in case else {}
    conversation, _, _ = read_record(talk(*map(tuple, case["turns"]), **extra), 0)
    assert conversation
    return conversation


def ids_by_hand(text_pieces: list[tuple[str, bool]], vocabulary: Any) -> tuple[list[int], list[int]]:
    """Ids and labels from the hand-made pieces of a text: BOS, then each part between ``</s>`` encoded alone."""
    ids, labels = [vocabulary.bos_id()], [IGNORED]
    text = "".join(piece for piece, _ in text_pieces)
    has_loss = [flag for piece, flag in text_pieces for _ in piece]
    start = 0
    for part in text.split("</s>"):
        if start > 0:
            ids.append(vocabulary.eos_id())
            labels.append(vocabulary.eos_id() if has_loss[start - 1] else IGNORED)
        for token_id, first, last in spans(part, vocabulary):
            ids.append(token_id)
            labels.append(token_id if any(has_loss[start + first : start + last]) else IGNORED)
        start += len(part) + len("</s>")
    return ids, labels


def spans(part: str, vocabulary: Any) -> list[tuple[int, int, int]]:
    """(id, first, last) of a part's ids, counted by the letters of their pieces: ``▁`` in front stands for no character."""
    found: list[tuple[int, int, int]] = []
    data, at = ("▁" + part.replace(" ", "▁")).encode(), 0
    for token_id in vocabulary.encode(part) if part else []:
        piece = vocabulary.id_to_piece(token_id)
        length = 1 if vocabulary.is_byte(token_id) else len(piece.encode())
        first, last = len(data[:at].decode("utf-8", "ignore")), len(data[: at + length].decode("utf-8", "replace"))
        found.append((token_id, max(0, first - 1), last - 1))
        at += length
    assert at == len(data) or not part
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_text_ids_and_labels_equal_those_written_by_hand(case: dict[str, Any], tokenizer: ChatTokenizer, pieces: Any) -> None:
    conversation = conversation_of(case)
    sample = tokenize(conversation, tokenizer, case.get("max_length"))
    assert sample.text == "".join(piece for piece, _ in case["pieces"])
    ids, labels = ids_by_hand(case["pieces"], pieces)
    cut = case.get("max_length")
    assert sample.input_ids == ids[:cut]
    assert sample.labels == labels[:cut]
    assert sample.truncated_answer_tokens == (sum(label != IGNORED for label in labels[cut:]) if cut else 0)
    rendered = render(conversation, VICUNA_TEMPLATE)
    assert [rendered.text[start:end] for start, end in rendered.answers] == [piece for piece, has_loss in case["pieces"] if has_loss]


def fastchat_labels(conversation: Conversation, vocabulary: Any, length_of: Any) -> tuple[list[int], list[int]] | None:
    """FastChat's `preprocess` (fastchat/train/train.py, legacy tokenizer), written again; None where it gives a sample up."""
    roles = {"user": "USER", "assistant": "ASSISTANT"}
    text = VICUNA_SYSTEM + " "
    for number, turn in enumerate(conversation.turns):
        text += roles[turn.role] + ": " + turn.content + (" " if number % 2 == 0 else "</s>")
    ids = length_of(text)
    target, at = list(ids), 1
    target[0] = IGNORED
    for part in text.split("</s>"):
        if part == "":
            break
        halves = part.split(" ASSISTANT: ")
        if len(halves) != 2:
            break
        prompt = len(length_of(halves[0] + " ASSISTANT: ")) - 2
        target[at : at + prompt] = [IGNORED] * prompt
        at += len(length_of(part))
    target[at:] = [IGNORED] * (len(target) - at)
    return (ids, target) if at == len(ids) else None


def legacy_ids(text: str, vocabulary: Any) -> list[int]:
    """What the legacy Llama tokenizer gives: BOS, and each part between ``</s>`` encoded by sentencepiece on its own."""
    ids = [vocabulary.bos_id()]
    for number, part in enumerate(text.split("</s>")):
        ids += [vocabulary.eos_id()] * (number > 0) + vocabulary.encode(part)
    return ids


def test_labels_equal_fastchats_on_the_demo_data(tokenizer: ChatTokenizer, pieces: Any) -> None:
    compared = 0
    for _, conversation, _ in check_rows(EXAMPLES / "identity.json"):
        if conversation is None or conversation.turns[0].role == "system":
            continue
        theirs = fastchat_labels(conversation, pieces, lambda text: legacy_ids(text, pieces))
        if theirs is not None:
            sample = tokenize(conversation, tokenizer)
            assert (sample.input_ids, sample.labels) == theirs
            compared += 1
    assert compared > 100


def test_the_last_answer_alone_or_the_whole_text_can_carry_loss(tokenizer: ChatTokenizer) -> None:
    conversation = conversation_of(CASES[1])
    every, last, whole = (tokenize(conversation, tokenizer, loss_on=choice) for choice in ("answers", "last", "all"))
    assert [label for label in last.labels if label != IGNORED] == [label for label in every.labels if label != IGNORED][
        -last.num_loss_tokens :
    ]
    assert 0 < last.num_loss_tokens < every.num_loss_tokens
    assert whole.labels == [IGNORED, *whole.input_ids[1:]]


def test_mask_row_shows_what_training_sees(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    (tmp_path / "data.jsonl").write_text(dump(record(0)) + "\n" + dump(record(1)), encoding="utf-8")
    shown = mask_row(tmp_path / "data.jsonl", 1, tokenizer)
    sample = tokenize(Conversation("x", (Turn("user", "Question 1?"), Turn("assistant", "Answer 1."))), tokenizer)
    assert (shown["input_ids"], shown["labels"], shown["text"]) == (sample.input_ids, sample.labels, sample.text)
    assert len(shown["tokens"]) == len(shown["input_ids"])
    assert shown["tokens"][0] == tokenizer.bos_token


def test_cut_answers_and_rows_without_loss_are_reported(tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    long = talk(("human", "What is blue?"), ("gpt", "The sky. " * 50), id="long")
    (tmp_path / "data.json").write_text(dump([record(0), long, talk(("human", "Why? " * 100), ("gpt", "So."))]), encoding="utf-8")
    report = validate(tmp_path / "data.json", tokenizer=tokenizer, max_length=100)
    assert [(issue.row, issue.code) for issue in report.issues] == [(1, "answer-truncated"), (2, "zero-loss")]
    sample = tokenize(Conversation("x", (Turn("user", "What is blue?"), Turn("assistant", "The sky. " * 50))), tokenizer, 100)
    assert f"{sample.truncated_answer_tokens} with loss" in report.issues[0].problem
    assert (report.num_valid, report.num_rejected) == (2, 1)

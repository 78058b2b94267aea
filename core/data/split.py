"""Training and evaluation data out of one dataset, without leakage; and the leakage between two datasets."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, Field

from core.conversation import Conversation
from core.data.dataset import Dataset, make_dataset
from core.data.duplicates import fingerprint
from core.data.near import THRESHOLD, NearIndex, clusters
from core.data.writer import full_disk_said, line, write_lines
from core.errors import UserError

By = Literal["count", "characters"]
VERSION = 1  # raised when the same seed comes to give another split
MAX_LEAKS = 10_000


def split(dataset: Iterable[Conversation], eval_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The indices of the training and of the evaluation conversations, both in the dataset's order.

    Whole conversations are drawn; those that are the same word for word stay on one side. The same seed gives the same split.

    Raises:
        UserError: the fraction is not from 0 up to (not including) 1.
    """
    groups: dict[int, list[int]] = {}
    for index, conversation in enumerate(dataset):
        groups.setdefault(fingerprint(conversation), []).append(index)
    return _draw(list(groups.values()), eval_fraction, seed, len)


def split_dataset(
    dataset: Dataset, eval_fraction: float, seed: int, by: By = "count", near: bool = True, threshold: float = THRESHOLD
) -> tuple[Dataset, Dataset]:
    """Two new datasets of the conversations of `dataset`: to train on and to evaluate on. Rows that cannot be trained are in neither.

    Args:
        by: what `eval_fraction` is a share of: conversations or characters.
        near: also keep near-duplicates (`core.data.near`) on one side, not only those that are the same word for word.

    Raises:
        UserError: the fraction leaves one side empty, or the disk is full.
    """
    train, held_out = _sides(dataset, eval_fraction, seed, by, near, threshold)
    if not held_out or not train:
        raise UserError(
            f"A share of {eval_fraction} of {len(dataset)} conversations leaves nothing to {'train' if not train else 'evaluate'} on.",
            "eval_fraction",
            "Choose another share; conversations that are alike stay on one side.",
        )
    made_by = {"verb": "split", "eval_fraction": eval_fraction, "seed": seed, "by": by, "near": near, "threshold": threshold}
    return _make(dataset, train, "train", made_by), _make(dataset, held_out, "eval", made_by)


def _sides(dataset: Dataset, eval_fraction: float, seed: int, by: By, near: bool, threshold: float) -> tuple[list[int], list[int]]:
    sizes = array("Q")
    groups: dict[int, list[int]] = {}
    if not near:
        for index, conversation in enumerate(dataset):
            sizes.append(_characters(conversation))
            groups.setdefault(fingerprint(conversation), []).append(index)
    else:
        with NearIndex() as index_of_near:
            for conversation in dataset:
                sizes.append(_characters(conversation))
                index_of_near.add_conversation(conversation)
            for index, first in enumerate(clusters(index_of_near, threshold)):
                groups.setdefault(first, []).append(index)
    size = len if by == "count" else lambda group: sum(sizes[index] for index in group)
    return _draw(list(groups.values()), eval_fraction, seed, size)


def _draw(groups: list[list[int]], eval_fraction: float, seed: int, size: Callable[[Sequence[int]], int]) -> tuple[list[int], list[int]]:
    """Draw whole groups until their size is the share wanted, never beyond; one group at least is left to train on."""
    if not 0 <= eval_fraction < 1:
        raise UserError(f"The evaluation share is {eval_fraction}.", "eval_fraction", "Choose a share from 0 up to, but not including, 1.")
    sizes = {group[0]: size(group) for group in groups}
    wanted = max(1, round(sum(sizes.values()) * eval_fraction)) if eval_fraction > 0 else 0
    random.Random(seed).shuffle(groups)
    held_out: list[int] = []
    taken = 0
    for group in groups[:-1]:
        if taken + sizes[group[0]] <= wanted:
            held_out += group
            taken += sizes[group[0]]
    held = set(held_out)
    return sorted(index for group in groups for index in group if index not in held), sorted(held_out)


def _characters(conversation: Conversation) -> int:
    return sum(len(turn.content) for turn in conversation.turns)


def _make(dataset: Dataset, rows: list[int], side: str, made_by: dict[str, Any]) -> Dataset:
    wanted = array("B", bytes(len(dataset)))
    for row in rows:
        wanted[row] = 1

    def write(source: Path, _folder: Path) -> None:
        with full_disk_said(source):
            write_lines((line(conversation.vicuna()) for index, conversation in enumerate(dataset) if wanted[index]), source)

    made_by = {**made_by, "side": side}
    return make_dataset([VERSION, dataset.id, made_by], f"{dataset.name}, {side}", write, dataset.id, made_by)


class Leak(BaseModel):
    """A conversation of the training data that is also in the evaluation data, word for word or almost."""

    row: int  # 0-based, in the source of the training data
    eval_row: int  # in the source of the evaluation data
    similarity: float  # 1: the same words
    is_exact: bool


class Leakage(BaseModel):
    """What two datasets share."""

    num_exact: int = 0  # conversations of the training data that are in the evaluation data word for word
    num_near: int = 0  # those that are almost the same as one there
    leaks: list[Leak] = Field(default_factory=list[Leak])  # the first MAX_LEAKS, in the order of the training data


class Numbered(Protocol):
    """What gives its conversations, each with its row, as often as they are asked for: a dataset, or a file."""

    def numbered(self) -> Iterator[tuple[Conversation, int]]: ...


def leakage(train: Numbered, evaluation: Numbered, near: bool = True, threshold: float = THRESHOLD) -> Leakage:
    """Every conversation of `train` that is in `evaluation` too, word for word or (with `near`) almost."""
    first_of: dict[int, int] = {}
    eval_rows, train_rows = array("Q"), array("Q")
    exact: dict[int, int] = {}  # index in train: row in evaluation
    for conversation, row in evaluation.numbered():
        first_of.setdefault(fingerprint(conversation), row)
        eval_rows.append(row)
    for index, (conversation, row) in enumerate(train.numbered()):
        train_rows.append(row)
        if (found := first_of.get(fingerprint(conversation))) is not None:
            exact[index] = found
    alike = dict(_near_leaks(train, evaluation, exact, threshold)) if near else {}
    leaks = [Leak(row=train_rows[index], eval_row=row, similarity=1.0, is_exact=True) for index, row in exact.items()]
    leaks += [
        Leak(row=train_rows[index], eval_row=eval_rows[other], similarity=similarity, is_exact=False)
        for index, (other, similarity) in alike.items()
    ]
    leaks.sort(key=lambda leak: leak.row)
    return Leakage(num_exact=len(exact), num_near=len(alike), leaks=leaks[:MAX_LEAKS])


def _near_leaks(train: Numbered, evaluation: Numbered, exact: dict[int, int], threshold: float) -> Iterator[tuple[int, tuple[int, float]]]:
    """(index in train, (index in evaluation, similarity)) of what is alike and not the same."""
    with NearIndex() as index:
        for conversation, _ in evaluation.numbered():
            index.add_conversation(conversation)
        num_eval = len(index)
        for conversation, _ in train.numbered():
            index.add_conversation(conversation)
        across = index.pairs(threshold, lambda row, other: other < num_eval <= row and row - num_eval not in exact)
        for pair in across:
            yield pair.row - num_eval, (pair.other, pair.similarity)

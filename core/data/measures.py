"""The length of every conversation in tokens, what of it carries loss, and what max_length cuts off: measured once, kept beside the dataset."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import paths
from core.data.dataset import Dataset
from core.data.encode import RowEncoder
from core.data.render import IGNORED, LossOn
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1  # raised when the same settings come to give other numbers
PROGRESS_ROWS = 500
# Why a conversation adds nothing to training, as numbers in `Measures.reason`.
REASONS = ("", "template-refused", "answer-cut", "no-answer")

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measures:
    """One number for each of the N conversations that can be trained, in the order of the dataset."""

    tokens: NDArray[np.int32]  # (N,) before anything is cut; 0 when the template refuses
    loss_tokens: NDArray[np.int32]  # (N,) with loss, within max_length; the first token never has any
    lost_tokens: NDArray[np.int32]  # (N,) with loss, cut off
    reason: NDArray[np.int8]  # (N,) index into REASONS: why it has no loss
    answers: NDArray[np.int32]  # (A,) tokens of every answer with its end mark, before anything is cut


def measure(
    dataset: Dataset, tokenizer: ChatTokenizer, max_length: int, loss_on: LossOn = "answers", on_progress: OnProgress | None = None
) -> Measures:
    """The measures of `dataset`, read from its folder when they were taken before with the same tokenizer, template and settings.

    Args:
        on_progress: called with the conversations done and their number.
    """
    import numpy as np

    path = _path(dataset, tokenizer, max_length, loss_on)
    if not path.is_file():
        columns = _take(dataset, tokenizer, max_length, loss_on, on_progress)
        with paths.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **columns)
    with np.load(path) as kept:
        return Measures(**{name: kept[name] for name in Measures.__annotations__})


def is_measured(dataset: Dataset, tokenizer: ChatTokenizer, max_length: int, loss_on: LossOn = "answers") -> bool:
    """Whether `measure` would answer at once."""
    return _path(dataset, tokenizer, max_length, loss_on).is_file()


def _path(dataset: Dataset, tokenizer: ChatTokenizer, max_length: int, loss_on: LossOn) -> Path:
    settings = f"{VERSION} {tokenizer.sha256} {max_length} {loss_on}"  # the sha256 covers the template
    return dataset.folder / f"measures-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npz"


def _take(dataset: Dataset, tokenizer: ChatTokenizer, max_length: int, loss_on: LossOn, on_progress: OnProgress | None) -> dict[str, Any]:
    for is_fast in (True, False):  # exactly, when the fast way was found wrong on this data
        encoder = RowEncoder(tokenizer, None, loss_on, is_fast)
        of_answers = encoder if loss_on == "answers" else RowEncoder(tokenizer, fast=is_fast)
        if columns := _try(dataset, encoder, of_answers, max_length, on_progress):
            return columns
    raise AssertionError("the exact way never disagrees with itself")


def _try(
    dataset: Dataset, encoder: RowEncoder, of_answers: RowEncoder, max_length: int, on_progress: OnProgress | None
) -> dict[str, Any] | None:
    """The columns of `Measures`; None when one of the encoders found itself wrong on the way."""
    import numpy as np

    tokens, loss_tokens, lost_tokens, reasons, answers = array("i"), array("i"), array("i"), array("b"), array("i")
    for index, conversation in enumerate(dataset):
        if on_progress and index % PROGRESS_ROWS == 0:
            on_progress(index, len(dataset))
        try:
            whole = encoder.row(conversation).labels
            answered = whole if of_answers is encoder else of_answers.row(conversation).labels
        except UserError:
            whole = answered = None
        if encoder.disagreed or of_answers.disagreed:
            return None
        if whole is None:
            figures = (0, 0, 0, "template-refused")
        else:
            kept = int(np.count_nonzero(whole[1:max_length] != IGNORED))
            lost = int(np.count_nonzero(whole[max(1, max_length) :] != IGNORED))
            figures = (len(whole), kept, lost, "" if kept else "answer-cut" if lost else "no-answer")
            answers.extend(_runs(answered))
        tokens.append(figures[0])
        loss_tokens.append(figures[1])
        lost_tokens.append(figures[2])
        reasons.append(REASONS.index(figures[3]))
    if on_progress:
        on_progress(len(dataset), len(dataset))
    columns = {"tokens": tokens, "loss_tokens": loss_tokens, "lost_tokens": lost_tokens, "answers": answers}
    found = {name: np.array(column, dtype=np.int32) for name, column in columns.items()}
    return {**found, "reason": np.array(reasons, dtype=np.int8)}


def _runs(labels: Any) -> list[int]:
    """The lengths of the runs of labels that carry loss: a question always stands between two answers."""
    import numpy as np

    carries = np.concatenate(([False], labels != IGNORED, [False]))
    edges = np.flatnonzero(carries[1:] != carries[:-1])
    return (edges[1::2] - edges[::2]).tolist()

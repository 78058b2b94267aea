"""The mask audit of a whole dataset: every conversation that would add nothing to training and why, and every answer that loses tokens."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from core.data.dataset import Dataset
from core.data.findings_export import export_records
from core.data.measures import REASONS, Measures, OnProgress, measure
from core.data.render import LossOn
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_LISTED = 10_000
Which = Literal["silent", "cut"]  # those that teach nothing, and those that lose tokens
COLUMNS = ("row", "reason", "tokens", "lost_tokens", "kept_tokens", "problem", "remedy")
CUT, CUT_REMEDY = "Tokens of its answers lie behind max_length.", "Raise max_length, or split long conversations."
SENTENCES = {
    "template-refused": "The model's chat template refuses the conversation.",
    "answer-cut": "Every answer that is learned lies behind max_length.",
    "no-answer": "No token of it is to be learned.",
}
REMEDIES = {
    "template-refused": "Correct the order of its turns, or choose a base model whose template takes them.",
    "answer-cut": "Raise max_length, shorten the question, or split the conversation.",
    "no-answer": "Write an answer, or leave the row out.",
}


class NoLoss(BaseModel):
    """A conversation that adds nothing to training."""

    row: int  # 0-based, in the source
    reason: str  # a key of SENTENCES
    tokens: int  # 0 when the template refuses it


class Cut(BaseModel):
    """A conversation of which answer tokens are cut off."""

    row: int  # 0-based, in the source
    tokens: int
    lost_tokens: int  # with loss, behind max_length
    kept_tokens: int  # with loss, within


class Audit(BaseModel):
    """What training makes of a dataset. The lists hold the first MAX_LISTED rows, the numbers count all; `listed` and `export` give every row."""

    num_conversations: int
    num_rejected: int  # rows with errors, which are never trained on
    max_length: int
    loss_on: LossOn
    num_zero_loss: int
    zero_loss: dict[str, int]  # by reason
    num_cut: int
    num_lost_tokens: int
    num_loss_tokens: int
    no_loss_rows: list[NoLoss]
    cut_rows: list[Cut]

    @property
    def is_empty(self) -> bool:
        """Whether nothing at all could be learned."""
        return self.num_zero_loss == self.num_conversations


def audit(
    dataset: Dataset, tokenizer: ChatTokenizer, max_length: int, loss_on: LossOn = "answers", on_progress: OnProgress | None = None
) -> Audit:
    """From the dataset's measures, which are taken now if they were not before.

    Args:
        on_progress: called with the conversations done and their number.
    """
    import numpy as np

    found = measure(dataset, tokenizer, max_length, loss_on, on_progress)
    return Audit(
        num_conversations=len(dataset),
        num_rejected=dataset.manifest.num_rejected,
        max_length=max_length,
        loss_on=loss_on,
        num_zero_loss=int((found.reason != 0).sum()),
        zero_loss={reason: count for number, reason in enumerate(REASONS) if reason and (count := int((found.reason == number).sum()))},
        num_cut=int(_chosen(found, "cut").sum()),
        num_lost_tokens=int(found.lost_tokens.sum(dtype=np.int64)),
        num_loss_tokens=int(found.loss_tokens.sum(dtype=np.int64)),
        no_loss_rows=[row for row in listed(dataset, found, "silent", stop=MAX_LISTED) if isinstance(row, NoLoss)],
        cut_rows=[row for row in listed(dataset, found, "cut", stop=MAX_LISTED) if isinstance(row, Cut)],
    )


def listed(dataset: Dataset, found: Measures, which: Which, start: int = 0, stop: int | None = None) -> Iterator[NoLoss | Cut]:
    """The rows of one of the lists from number `start` up to `stop`, each looked up in constant time."""
    import numpy as np

    for index in np.flatnonzero(_chosen(found, which))[start:stop].tolist():
        row, tokens = dataset.source_position(index)[0], int(found.tokens[index])
        if which == "silent":
            yield NoLoss(row=row, reason=REASONS[found.reason[index]], tokens=tokens)
        else:
            yield Cut(row=row, tokens=tokens, lost_tokens=int(found.lost_tokens[index]), kept_tokens=int(found.loss_tokens[index]))


def export(dataset: Dataset, found: Measures, path: Path) -> int:
    """Write every row of both lists to a `.csv` or `.jsonl` file, by the suffix of `path`; returns their number.

    Raises:
        UserError: another suffix, no such folder, or a full disk.
    """
    silent = (
        each.model_dump() | {"lost_tokens": None, "kept_tokens": 0, "problem": SENTENCES[each.reason], "remedy": REMEDIES[each.reason]}
        for each in listed(dataset, found, "silent")
        if isinstance(each, NoLoss)
    )
    cut = (each.model_dump() | {"reason": "cut", "problem": CUT, "remedy": CUT_REMEDY} for each in listed(dataset, found, "cut"))
    return export_records(COLUMNS, chain(silent, cut), path)


def _chosen(found: Measures, which: Which) -> NDArray[np.bool_]:
    return found.reason != 0 if which == "silent" else (found.reason == 0) & (found.lost_tokens > 0)


def launch_note(found: Audit, name: str) -> str:
    """One sentence on what a run would leave out; empty when it leaves out nothing.

    Raises:
        UserError: the template refuses a conversation, on which training would stop, or nothing at all could be learned.
    """
    if not found.num_zero_loss:
        return ""
    if refused := found.zero_loss.get("template-refused", 0):
        first = next((row.row for row in found.no_loss_rows if row.reason == "template-refused"), None)
        where = name if first is None else f"{name}, row {first}"
        problem = f"The model's chat template refuses {refused:,} of {found.num_conversations:,} conversations."
        raise UserError(problem, where, REMEDIES["template-refused"], code="TEMPLATE")
    reason = max(found.zero_loss, key=lambda reason: found.zero_loss[reason])
    if found.is_empty:
        problem = f"None of the {found.num_conversations:,} conversations of {name} would carry any loss. {SENTENCES[reason]}"
        raise UserError(problem, name, REMEDIES[reason], code="ZERO_LOSS")
    share = f"{found.num_zero_loss:,} of {found.num_conversations:,} conversations carry no loss and are left out"
    return f"{share}: {SENTENCES[reason][:-1].lower()}. {REMEDIES[reason]}"

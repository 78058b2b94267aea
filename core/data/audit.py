"""The mask audit of a whole dataset: every conversation that would add nothing to training and why, and every answer that loses tokens."""

from __future__ import annotations

from pydantic import BaseModel

from core.data.dataset import Dataset
from core.data.measures import REASONS, OnProgress, measure
from core.data.render import LossOn
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError

MAX_LISTED = 10_000
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
    """What training makes of a dataset. The lists hold the first MAX_LISTED rows, the numbers count all."""

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
    silent, cut = np.flatnonzero(found.reason != 0), np.flatnonzero((found.reason == 0) & (found.lost_tokens > 0))

    def row(index: int) -> int:
        return dataset.source_position(index)[0]

    return Audit(
        num_conversations=len(dataset),
        num_rejected=dataset.manifest.num_rejected,
        max_length=max_length,
        loss_on=loss_on,
        num_zero_loss=len(silent),
        zero_loss={reason: count for number, reason in enumerate(REASONS) if reason and (count := int((found.reason == number).sum()))},
        num_cut=len(cut),
        num_lost_tokens=int(found.lost_tokens.sum(dtype=np.int64)),
        num_loss_tokens=int(found.loss_tokens.sum(dtype=np.int64)),
        no_loss_rows=[
            NoLoss(row=row(index), reason=REASONS[found.reason[index]], tokens=int(found.tokens[index]))
            for index in silent[:MAX_LISTED].tolist()
        ],
        cut_rows=[
            Cut(
                row=row(index),
                tokens=int(found.tokens[index]),
                lost_tokens=int(found.lost_tokens[index]),
                kept_tokens=int(found.loss_tokens[index]),
            )
            for index in cut[:MAX_LISTED].tolist()
        ],
    )


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

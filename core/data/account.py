"""The account of a cleaning: how many rows came in, stayed, changed, were made by splitting, and were dropped, and by which repair."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import BaseModel, Field, computed_field

from core.data.drafts import Draft
from core.data.repairs import REPAIRS

MAX_EXAMPLES = 3
MAX_NAMED = 1000
SHOWN_CHARACTERS = 400
CONTEXT_CHARACTERS = 40


class Outcome(NamedTuple):
    """What became of a row, or of a part of one: the draft as it is now, the repairs that changed it, and the one that dropped it."""

    draft: Draft
    before: Draft
    changed_by: tuple[str, ...] = ()
    dropped_by: str = ""
    twin: int | None = None  # the row it is too like to, when it was dropped for that
    is_restored: bool = False


class Example(BaseModel):
    """A row before and after: the text around the first difference. `after` is None when the row was dropped."""

    row: int
    before: str
    after: str | None


class Effect(BaseModel):
    """What one repair did. A row that several repairs changed counts for each of them."""

    code: str
    title: str
    num_changed: int = 0
    num_dropped: int = 0
    num_made: int = 0  # rows more than before, by splitting
    examples: list[Example] = Field(default_factory=list[Example])


class Account(BaseModel):
    """``num_in + num_made == num_kept + num_changed + num_dropped``, always."""

    num_in: int = 0
    num_made: int = 0  # rows more than came in, by splitting: a row split in three makes two
    num_kept: int = 0  # as they were
    num_changed: int = 0
    effects: list[Effect] = Field(default_factory=list[Effect])  # of each repair chosen, in the order of application
    num_restored: int = 0  # of those kept: dropped by a repair and taken back by hand
    num_too_long: int = 0  # single pairs longer than a part may be, which stay whole
    too_long: list[int] = Field(default_factory=list[int])  # their rows, the first MAX_NAMED

    @computed_field
    @property
    def num_dropped(self) -> int:
        return sum(effect.num_dropped for effect in self.effects)

    @computed_field
    @property
    def num_out(self) -> int:
        """Rows of the new dataset."""
        return self.num_kept + self.num_changed

    @property
    def balances(self) -> bool:
        return self.num_in + self.num_made == self.num_kept + self.num_changed + self.num_dropped


class Tally:
    """Adds up an account, row by row."""

    def __init__(self, codes: list[str]) -> None:
        self.account = Account(effects=[Effect(code=code, title=REPAIRS[code].title) for code in codes])
        self._effect = {effect.code: effect for effect in self.account.effects}

    def add(self, outcomes: list[Outcome]) -> None:
        """Everything that became of one row: one outcome, or one for each part."""
        account = self.account
        account.num_in += 1
        account.num_made += len(outcomes) - 1
        if len(outcomes) > 1:
            self._effect["split-long"].num_made += len(outcomes) - 1
        for code in dict.fromkeys(code for outcome in outcomes for code in outcome.changed_by):
            outcome = next(outcome for outcome in outcomes if code in outcome.changed_by)
            self._effect[code].num_changed += 1
            self._show(self._effect[code], outcome)
        for outcome in outcomes:
            if outcome.dropped_by:
                self._effect[outcome.dropped_by].num_dropped += 1
                self._show(self._effect[outcome.dropped_by], outcome)
                continue
            account.num_changed += bool(outcome.changed_by)
            account.num_kept += not outcome.changed_by
            account.num_restored += outcome.is_restored
            if outcome.draft.is_too_long:
                account.num_too_long += 1
                account.too_long += [outcome.draft.row] if len(account.too_long) < MAX_NAMED else []

    def _show(self, effect: Effect, outcome: Outcome) -> None:
        if len(effect.examples) < MAX_EXAMPLES:
            before = text_of(outcome.before)
            after = None if outcome.dropped_by == effect.code else text_of(outcome.draft)
            shown = _cut(before, after)
            effect.examples.append(Example(row=outcome.draft.row, before=shown[0], after=shown[1]))


def text_of(draft: Draft) -> str:
    """A row as a person reads it: ``role: text``, one turn a paragraph; the raw text of a row without turns."""
    return draft.raw if draft.turns is None else "\n".join(f"{said.role}: {said.content}" for said in draft.turns)


def _cut(before: str, after: str | None) -> tuple[str, str | None]:
    """Both texts from shortly before their first difference on."""
    start = 0
    if after is not None:
        same = next((at for at, (old, new) in enumerate(zip(before, after, strict=False)) if old != new), min(len(before), len(after)))
        start = max(0, same - CONTEXT_CHARACTERS)

    def cut(text: str) -> str:
        shown = text[start : start + SHOWN_CHARACTERS]
        whole = ("…" if start else "") + shown + ("…" if len(text) > start + SHOWN_CHARACTERS else "")
        return whole.encode("utf-8", "backslashreplace").decode()

    return cut(before), None if after is None else cut(after)

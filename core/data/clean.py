"""Cleaning: chosen repairs make a new dataset of an old one, and every row of the old one is accounted for.

The repairs are applied in the order of `core.data.repairs.REPAIRS`, whatever the order they were chosen in: first those that mend texts and
turns, again and again until nothing changes, then the splitting, then those that drop rows for themselves, at last those that drop rows
for their likeness to others. So cleaning a cleaned dataset in the same way changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from core import paths
from core.data.account import Account, Outcome, Tally, text_of
from core.data.dataset import Dataset, make_dataset, open_dataset
from core.data.drafts import Draft, drafts
from core.data.dropped import DROPPED, Dropped, read, write_index
from core.data.repairs import REPAIRS, Chosen, Step, checked
from core.data.tokenizer import ChatTokenizer
from core.data.twins import EXACT, NEAR, Twins, find_twins
from core.data.writer import full_disk_said, write_lines
from core.errors import UserError

ACCOUNT = "account.json"
VERSION = 1  # raised when the same repairs come to give another result
LAST_ROUND = 8  # a row that still changes then stays as it is
PROGRESS_ROWS = 1000

OnProgress = Callable[[int, int], None]


def preview(dataset: Dataset, chosen: Chosen, tokenizer: ChatTokenizer | None = None, on_progress: OnProgress | None = None) -> Account:
    """The account that `clean` would give, with examples of what each repair would do; nothing is written.

    Args:
        tokenizer: for repairs that count tokens.
        on_progress: called with the rows done and the rows in all, twice over when repeated rows are looked for.

    Raises:
        UserError: as `clean`.
    """
    chosen = checked(chosen)
    tally = Tally(list(chosen))
    for outcomes in _outcomes(dataset, chosen, tokenizer, frozenset(), on_progress):
        tally.add(outcomes)
    return tally.account


def clean(
    dataset: Dataset,
    chosen: Chosen,
    name: str | None = None,
    tokenizer: ChatTokenizer | None = None,
    on_progress: OnProgress | None = None,
    restored: Iterable[int] = (),
) -> Dataset:
    """The dataset that the chosen repairs make of `dataset`, which stays as it is. The same choice on the same data is made only once.

    Args:
        tokenizer: for repairs that count tokens.
        on_progress: as for `preview`.
        restored: rows (0-based, of `dataset`) that are taken over as they are, whatever the repairs say.

    Raises:
        UserError: a repair or parameter is wrong, tokens are to be counted without a tokenizer, or the disk is full.
    """
    chosen, kept = checked(chosen), frozenset(restored)
    tally = Tally(list(chosen))

    def write(source: Path, folder: Path) -> None:
        with full_disk_said(source), (folder / DROPPED).open("w", encoding="utf-8") as dropped:
            write_lines(_lines(_outcomes(dataset, chosen, tokenizer, kept, on_progress), tally, dropped.write), source)
        write_index(folder)
        assert tally.account.balances, tally.account
        paths.write_text(folder / ACCOUNT, tally.account.model_dump_json(indent=1) + "\n")

    made_by = {"verb": "clean", "repairs": chosen, "restored": sorted(kept), "tokenizer": tokenizer.sha256 if tokenizer else None}
    identity = [VERSION, dataset.id, made_by]
    said = {"model": tokenizer.model} if tokenizer and tokenizer.model else {}
    return make_dataset(identity, name or f"{dataset.name}, cleaned", write, dataset.id, made_by | said)


def _lines(rows: Iterable[list[Outcome]], tally: Tally, drop: Callable[[str], object]) -> Iterator[bytes]:
    """The lines of the new dataset's source; what is dropped goes to `drop` instead, as JSON lines."""
    for outcomes in rows:
        tally.add(outcomes)
        for outcome in outcomes:
            draft = outcome.draft
            if outcome.dropped_by:
                text = text_of(draft).encode("utf-8", "backslashreplace").decode()
                identifier = draft.id.encode("utf-8", "backslashreplace").decode()
                drop(Dropped(draft.row, draft.part, outcome.dropped_by, outcome.twin, identifier, text).line())
            else:
                yield draft.line()


def account(dataset: Dataset) -> Account:
    """The account of the cleaning that made `dataset`.

    Raises:
        UserError: it was not made by a cleaning.
    """
    _require_cleaned(dataset)
    return Account.model_validate_json((dataset.folder / ACCOUNT).read_bytes())


def dropped(dataset: Dataset, start: int = 0, count: int | None = None, code: str = "") -> Iterator[Dropped]:
    """The rows that the cleaning which made `dataset` left out, or those left out by one repair: `count` from number `start` on."""
    _require_cleaned(dataset)
    yield from read(dataset.folder, start, count, code)


def restore(
    dataset: Dataset, rows: Iterable[int], tokenizer: ChatTokenizer | None = None, on_progress: OnProgress | None = None
) -> Dataset:
    """The cleaned `dataset` with rows (0-based, of its parent) that were dropped taken back, as they were in the parent.

    It is made from the parent again, by the same repairs, so that its account and its dropped rows are whole.

    Args:
        tokenizer: the one that the cleaning counted with, if it counted tokens.

    Raises:
        UserError: a row was not dropped, the tokenizer is another one, or the parent is no longer there.
    """
    made_by = _require_cleaned(dataset)
    assert dataset.manifest.parent
    if made_by["tokenizer"] is None:
        tokenizer = None
    elif tokenizer is None or tokenizer.sha256 != made_by["tokenizer"]:
        model = made_by.get("model") or "the model that it was cleaned with"
        raise UserError(
            f"{dataset.name} was cleaned with another tokenizer.", dataset.name, f"Choose {model} as the base model, then try again."
        )
    wanted = set(rows)
    if unknown := wanted - {row.row for row in dropped(dataset)}:
        raise UserError(f"Row {min(unknown)} was not dropped.", dataset.name, "Choose from the rows that were dropped.")
    parent = open_dataset(dataset.manifest.parent)
    name = dataset.name if dataset.name.endswith("restored") else f"{dataset.name}, rows restored"
    return clean(parent, made_by["repairs"], name, tokenizer, on_progress, restored=wanted | set(made_by["restored"]))


def _require_cleaned(dataset: Dataset) -> dict[str, Any]:
    made_by = dataset.manifest.made_by
    if made_by is None or made_by["verb"] != "clean":
        raise UserError(f"{dataset.name} was not made by a cleaning.", dataset.name, "Choose a cleaned dataset.")
    return made_by


def _outcomes(
    dataset: Dataset, chosen: Chosen, tokenizer: ChatTokenizer | None, restored: frozenset[int], on_progress: OnProgress | None
) -> Iterator[list[Outcome]]:
    """For each row of `dataset` what becomes of it."""
    steps: list[tuple[str, Step]] = []
    for code, options in chosen.items():
        if make := REPAIRS[code].make:
            steps.append((code, make(options, tokenizer)))
    passes = 1 + (EXACT in chosen or NEAR in chosen)
    total = passes * dataset.manifest.num_rows

    def walk(number: int, twins: Twins) -> Iterator[list[Outcome]]:
        for count, draft in enumerate(drafts(dataset), start=number * dataset.manifest.num_rows):
            if on_progress and count % PROGRESS_ROWS == 0:
                on_progress(count, total)
            yield [Outcome(draft, draft, is_restored=True)] if draft.row in restored else _become(draft, steps, twins)

    twins: Twins = {}
    if passes > 1:
        survivors = (
            outcome.draft for outcomes in walk(0, {}) for outcome in outcomes if not outcome.dropped_by and not outcome.is_restored
        )
        twins = find_twins(survivors, chosen)
    yield from walk(passes - 1, twins)
    if on_progress:
        on_progress(total, total)


def _become(before: Draft, steps: list[tuple[str, Step]], twins: Twins) -> list[Outcome]:
    """What becomes of one row: one outcome, or one for each part of it."""
    mending = [(code, step) for code, step in steps if REPAIRS[code].kind == "turns"]
    now, changed_by, dropped_by = _mend(before, mending)
    outcomes = [Outcome(now, before, changed_by, dropped_by)]
    for code, step in steps:
        if REPAIRS[code].kind == "turns":
            continue
        made: list[Outcome] = []
        for outcome in outcomes:
            parts = () if outcome.dropped_by else step(outcome.draft)
            if outcome.dropped_by or not parts:
                made.append(outcome if outcome.dropped_by else outcome._replace(dropped_by=code))
            elif len(parts) == 1:
                made.append(outcome._replace(draft=parts[0]))
            else:
                made += [outcome._replace(draft=part, changed_by=(*outcome.changed_by, code)) for part in parts]
        outcomes = made
    return [_without_twin(outcome, twins) for outcome in outcomes]


def _mend(draft: Draft, steps: list[tuple[str, Step]]) -> tuple[Draft, tuple[str, ...], str]:
    """The row after the repairs that change turns, those that changed it, and the one that left nothing of it."""
    changed_by: dict[str, None] = {}
    for _ in range(LAST_ROUND):
        before = draft
        for code, step in steps:
            mended = step(draft)
            if not mended:
                return draft, tuple(changed_by), code
            if mended[0] is not draft:
                changed_by[code] = None
            draft = mended[0]
        if draft is before:
            break
    return draft, tuple(changed_by), ""


def _without_twin(outcome: Outcome, twins: Twins) -> Outcome:
    found = twins.get((outcome.draft.row, outcome.draft.part))
    return outcome if found is None or outcome.dropped_by else outcome._replace(dropped_by=found[0], twin=found[1])

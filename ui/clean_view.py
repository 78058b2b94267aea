"""A cleaning as HTML: the account of every row, what each repair does with examples, and the rows that were dropped."""

from __future__ import annotations

from core.data.account import Account, Effect, Example
from core.data.clean import Dropped
from core.data.repairs import REPAIRS
from ui.dataset_view import row_button
from ui.view import count, text

LONGEST_TEXT = 700  # characters of a dropped row that are shown


def total(found: Account, is_done: bool = False) -> str:
    """Every row accounted for, in a sentence. `is_done`: it has happened."""
    came, stay, are, would = ("came", "stayed", "were", "went") if is_done else ("come", "stay", "are", "would go")
    lead = f"{count(found.num_in, 'row')} {came} in"
    if found.num_made:
        lead += f", splitting {'made' if is_done else 'makes'} {found.num_made:,} more"
    parts = [f"{found.num_kept:,} {stay} as they {'were' if is_done else 'are'}"]
    parts += [f"{found.num_changed:,} {are} mended"] if found.num_changed else []
    parts += [f"{found.num_dropped:,} {are} dropped"] if found.num_dropped else []
    parts += [f"{found.num_restored:,} of those that stayed were taken back by hand"] if found.num_restored else []
    result = f"<b>{count(found.num_out, 'row')} {would} into the new dataset.</b>"
    return f'<p class="sum" role="status">{lead}: {", ".join(parts)}. {result}</p>{_too_long(found.num_too_long)}'


def effects(found: Account) -> str:
    """What each repair that has something to do does, with examples."""
    useful = [effect for effect in found.effects if effect.num_changed or effect.num_dropped or effect.num_made]
    return f'<div class="effects">{"".join(_effect(effect) for effect in useful)}</div>' if useful else ""


def done(found: Account) -> str:
    """The account of a cleaning that has happened."""
    return f'{total(found, is_done=True)}<details class="all-effects"><summary>What each repair did</summary>{effects(found)}</details>'


def _too_long(number: int) -> str:
    if not number:
        return ""
    are, them = ("is", "it") if number == 1 else ("are", "them")
    pairs = count(number, "single pair")
    return f'<p class="quiet">{pairs} of question and answer {are} longer than a part may be; splitting leaves {them} whole.</p>'


def _effect(effect: Effect) -> str:
    numbers = [(effect.num_changed, "changed"), (effect.num_made, "made by splitting"), (effect.num_dropped, "dropped")]
    said = ", ".join(f"{number:,} {word}" for number, word in numbers if number)
    examples = "".join(_example(example) for example in effect.examples)
    summary = f'<summary>{text(effect.title)} <span class="quiet">{said}</span></summary>'
    return f'<details>{summary}<p class="quiet">{text(REPAIRS[effect.code].help)}</p>{examples}</details>'


def _example(example: Example) -> str:
    after = '<p class="gone">dropped</p>' if example.after is None else f'<pre tabindex="0">{text(example.after)}</pre>'
    return (
        f'<div class="before-after"><p class="quiet">Row {row_button(example.row)}</p>'
        f'<div><span class="role">Before</span><pre tabindex="0">{text(example.before)}</pre></div>'
        f'<div><span class="role">After</span>{after}</div></div>'
    )


def dropped_codes(found: Account) -> list[tuple[str, str]]:
    """The choices of the filter: each repair that dropped rows, with how many."""
    named = [(f"{effect.title} {effect.num_dropped:,}", effect.code) for effect in found.effects if effect.num_dropped]
    return [(f"All {found.num_dropped:,}", ""), *named]


def dropped_label(row: Dropped) -> str:
    """A dropped row as the label of a checkbox: which, why, and what it says."""
    part = f", part {row.part}" if row.part else ""
    twin = f", like row {row.twin:,}" if row.twin is not None else ""
    said = row.text[:LONGEST_TEXT] + ("…" if len(row.text) > LONGEST_TEXT else "")
    return f"Row {row.row:,}{part} · {REPAIRS[row.code].title}{twin}\n{said}"

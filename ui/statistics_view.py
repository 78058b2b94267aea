"""What a dataset is like, as HTML: figures, bar charts that are also said in words, languages, the longest and shortest rows; and its audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.data.audit import REMEDIES, SENTENCES, Audit, Cut, NoLoss
from core.data.statistics import Histogram, RowLength, TextStatistics, TokenStatistics
from ui.dataset_view import row_button
from ui.view import count, facts, percent, table, text

MOST_SCRIPTS = 8
MOST_TURNS = 20  # bars; longer conversations are counted together
AUDIT_ROWS = 25  # on a page


class Planned(NamedTuple):
    """What the recipe of the Train tab makes of the dataset, seen by its own model, maximum length and loss."""

    tokens: TokenStatistics
    steps: int
    recipe: str  # in words


def figures(words: TextStatistics, tokens: TokenStatistics, planned: Planned | str) -> str:
    """The figures a person asks for first. `planned` is a sentence where the recipe's figures cannot be had."""
    answered = sum(number * found for number, found in words.turns.items())
    shown = [
        ("Conversations", f"{words.num_conversations:,}"),
        ("Turns each", f"{answered / max(1, words.num_conversations):.1f}"),
        ("Tokens trained on", f"{tokens.num_tokens:,}"),
        ("With loss", percent(tokens.loss_share)),
        ("Cut off answers", f"{tokens.num_lost_tokens:,} tokens"),
    ]
    if isinstance(planned, str):
        return f'{facts(shown)}<p class="quiet fine">Steps and packing are not estimated. {text(planned)}</p>'
    shown += [
        ("Rows full when packed", percent(planned.tokens.packing_efficiency)),
        ("Full without packing", percent(planned.tokens.padded_efficiency)),
        ("Optimizer steps", f"about {planned.steps:,}"),
    ]
    length = f"{planned.tokens.max_length:,}"
    return f'{facts(shown)}<p class="quiet fine">Steps and packing are estimated for {text(planned.recipe)}, at {length} tokens a row.</p>'


def plots(words: TextStatistics, tokens: TokenStatistics) -> str:
    """Turns, tokens of conversations and of answers against the maximum length, and languages."""
    return (
        f'<div class="charts">{_turns(words.turns)}{lengths("Tokens per conversation", tokens.tokens, tokens.max_length)}'
        f"{lengths('Tokens per answer', tokens.answers, tokens.max_length)}{_scripts(words.conversations_by_script)}</div>"
    )


def lengths(title: str, found: Histogram, max_length: int) -> str:
    """A bar chart of lengths; bars that begin at the maximum length or behind it are marked as cut."""
    said = f"Median {found.median:,.0f}, 95 of 100 within {found.p95:,.0f}, longest {found.largest:,.0f}."
    over = [low >= max_length for low in found.edges[:-1]]
    names = [f"{low:,}" if high - low == 1 else f"{low:,} to {high - 1:,}" for low, high in zip(found.edges, found.edges[1:], strict=False)]
    beyond = f" The maximum length is {max_length:,}{', beyond them all' if found.largest <= max_length else ''}."
    return _bars(title, found.counts, names, over, (f"{found.edges[0]:,}", f"{found.edges[-1] - 1:,} tokens"), said + beyond)


def _turns(found: Mapping[int, int]) -> str:
    most = max(found, default=0)
    bins = [sum(number for turns, number in found.items() if turns == place) for place in range(1, min(most, MOST_TURNS) + 1)]
    names = [count(place, "turn") for place in range(1, len(bins) + 1)]
    if most > MOST_TURNS:
        bins.append(sum(number for turns, number in found.items() if turns > MOST_TURNS))
        names.append(f"more than {MOST_TURNS} turns")
    frequent = max(found, key=lambda turns: found[turns], default=0)
    said = f"Most have {count(frequent, 'turn')}, the longest {count(most, 'turn')}."
    return _bars("Turns per conversation", bins, names, [False] * len(bins), ("1", f"{most:,} turns"), said)


def _bars(title: str, counts: Sequence[int], names: Sequence[str], over: Sequence[bool], ends: tuple[str, str], said: str) -> str:
    highest = max(counts, default=0) or 1
    bars = "".join(
        f'<span class="{"none" if not number else "over" if is_over else "within"}" style="height:{100 * number / highest:.1f}%" '
        f'title="{text(name)}: {number:,}"></span>'
        for number, name, is_over in zip(counts, names, over, strict=True)
    )
    return (
        f'<figure class="lengths"><p class="title">{text(title)}</p>'
        f'<div class="bars" role="img" aria-label="{text(f"{title}. {said}")}">{bars}</div>'
        f'<div class="axis" aria-hidden="true"><span>{ends[0]}</span><span>{ends[1]}</span></div><figcaption>{text(said)}</figcaption></figure>'
    )


def _scripts(found: Mapping[str, int]) -> str:
    """Languages by the script they are written in, as bars that lie on their side."""
    total = sum(found.values()) or 1
    shown = list(found.items())[:MOST_SCRIPTS]
    rest = total - sum(number for _, number in shown) if found else 0
    rows = [(_script(name), number) for name, number in shown] + ([("others", rest)] if rest else [])
    items = "".join(
        f'<li><span>{text(name)}</span><i style="width:{100 * number / total:.1f}%"></i><b>{percent(number / total)}</b></li>'
        for name, number in rows
    )
    return f'<figure class="lengths"><p class="title">Conversations by script</p><ul class="scripts">{items}</ul></figure>'


def _script(name: str) -> str:
    return "no letters" if name == "None" else name


def extremes(tokens: TokenStatistics) -> str:
    """The longest and the shortest rows, each a button that opens it."""
    return f'<div class="extremes">{_named("Longest rows", tokens.longest)}{_named("Shortest rows", tokens.shortest)}</div>'


def _named(title: str, rows: Sequence[RowLength]) -> str:
    items = "".join(f"<li>{row_button(row.row)} {count(row.length, 'token')}</li>" for row in rows)
    return f'<div><p class="title">{title}</p><ul>{items}</ul></div>'


def audit_sentence(found: Audit) -> str:
    """What training would make of the whole dataset, in one or two sentences."""
    if found.is_empty:
        said = "Nothing at all would be learned from this dataset."
    elif not found.num_zero_loss and not found.num_cut:
        said = f"Every one of the {found.num_conversations:,} conversations teaches something, and no answer is cut."
    else:
        silent = f"{count(found.num_zero_loss, 'conversation')} of {found.num_conversations:,} would teach nothing"
        cut = f"{count(found.num_cut, 'conversation')} would lose {count(found.num_lost_tokens, 'token')} of answers"
        said = (
            f"{silent if found.num_zero_loss else 'Every conversation teaches something'}; {cut if found.num_cut else 'no answer is cut'}."
        )
    rejected = f" {count(found.num_rejected, 'row')} with errors {'is' if found.num_rejected == 1 else 'are'} left out before."
    return f'<p class="sum" role="status">{text(said + (rejected if found.num_rejected else ""))}</p>'


def audit_choices(found: Audit) -> list[tuple[str, str]]:
    return [(f"Teach nothing {found.num_zero_loss:,}", "silent"), (f"Lose tokens {found.num_cut:,}", "cut")]


def audit_page(rows: Sequence[NoLoss | Cut], first: int, total: int) -> str:
    """A page of the `total` rows with why, beginning with number `first` (from 0)."""
    if not rows:
        return '<p class="quiet">None.</p>'
    where = f"{first + 1:,} to {first + len(rows):,} of {total:,}"
    heads = ("Row", "Tokens", "Why", "What to do")
    return f'<p class="quiet" role="status">{where}</p>' + table(heads, (_audited(row) for row in rows), "Audited rows", numeric=(1,))


def _audited(row: NoLoss | Cut) -> tuple[str, ...]:
    if isinstance(row, Cut):
        why = f"{row.lost_tokens:,} of {row.lost_tokens + row.kept_tokens:,} tokens of answers are cut off."
        return row_button(row.row), f"{row.tokens:,}", why, "Raise the maximum length, or split long conversations below."
    return row_button(row.row), f"{row.tokens:,}" if row.tokens else "", text(SENTENCES[row.reason]), text(REMEDIES[row.reason])

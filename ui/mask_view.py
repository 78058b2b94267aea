"""A row as HTML: the conversation as bubbles, and beside it the exact text token by token, each by what training does with it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from core.conversation import Conversation
from core.data.findings import Findings
from core.data.lookup import Rejected
from core.data.render import IGNORED, Sample
from core.data.rules import RULES, Issue
from core.data.spans import content_spans
from core.data.tokenizer import ChatTokenizer
from ui.view import chip, count, percent, text

TONES = {"error": "error", "warning": "warning", "note": "plain"}
ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
LONGEST_SHOWN = 6000  # characters of a rejected row
LONGEST_TURN = 20_000  # characters of a turn
MOST_TURNS = 200
MOST_FINDINGS = 20
MOST_TOKENS = 4000  # that are marked one by one; more would make the page slow
# What training does with a token: the class of the style sheet, its name, and what it means.
KINDS = {
    "learned": ("learned", "the model is trained to write this"),
    "prompt": ("prompt", "the conversation's own words, no loss"),
    "template": ("template", "written by the template, no loss"),
    "cut": ("cut off", "beyond the maximum length"),
}


class Masked(NamedTuple):
    """A conversation as training would see it without a limit, and where the limit falls."""

    conversation: Conversation
    sample: Sample  # not truncated
    max_length: int
    tokenizer: ChatTokenizer


def bubbles(conversation: Conversation, words: str = "") -> str:
    """The conversation as people know it from a chat, with `words` marked where they stand."""
    first = _first_shown(conversation, words)
    turns = "".join(
        f'<li class="turn {turn.role}"><span class="role">{ROLES[turn.role]}</span><div>{_marked(_cut(turn.content, words), words)}</div></li>'
        for turn in conversation.turns[first : first + MOST_TURNS]
    )
    before, behind = first, max(0, len(conversation.turns) - first - MOST_TURNS)
    turns = (f'<li class="quiet">{count(before, "turn")} before this.</li>' if before else "") + turns
    turns += f'<li class="quiet">{count(behind, "more turn")} not shown.</li>' if behind else ""
    label = f"Conversation {text(conversation.id)}"
    return f'<p class="quiet id">Id {_marked(conversation.id, words)}</p><ol class="bubbles" tabindex="0" aria-label="{label}">{turns}</ol>'


def _first_shown(conversation: Conversation, words: str) -> int:
    """The turn that is shown first: of a very long conversation, one shortly before the words that were looked for."""
    if len(conversation.turns) <= MOST_TURNS or not words:
        return 0
    hit = next((number for number, turn in enumerate(conversation.turns) if words.lower() in turn.content.lower()), 0)
    return max(0, hit - 2) if hit >= MOST_TURNS else 0


def _cut(said: str, words: str) -> str:
    """A very long turn from its beginning on, or from shortly before the words that were looked for."""
    if len(said) <= LONGEST_TURN:
        return said
    at = said.lower().find(words.lower()) if words else -1
    start = max(0, at - 500) if at > LONGEST_TURN else 0
    rest = len(said) - start - LONGEST_TURN
    return ("…" if start else "") + said[start : start + LONGEST_TURN] + (f"… and {rest:,} more characters" if rest > 0 else "")


def _marked(said: str, words: str) -> str:
    if not words:
        return text(said)
    parts = re.split(f"({re.escape(words)})", said, flags=re.IGNORECASE)
    return "".join(f'<mark class="hit">{text(part)}</mark>' if number % 2 else text(part) for number, part in enumerate(parts))


def rejected(row: Rejected, file: str = "the file") -> str:
    """A row that cannot be trained: its text as it stands in `file`."""
    cut = row.raw[:LONGEST_SHOWN] + ("…" if len(row.raw) > LONGEST_SHOWN else "")
    where = f"Row {row.row:,} cannot be trained. It begins at line {row.line:,}, byte {row.byte:,} of {text(file)}:"
    return f'<p class="quiet">{where}</p><pre class="raw" tabindex="0" aria-label="The row as it stands in the file">{text(cut)}</pre>'


def row_findings(found: Findings, row: int) -> str:
    """What was found on the row that is shown."""
    first, end = found.first_at(row), found.first_at(row + 1)
    issues: list[Issue] = found[first : min(end, first + MOST_FINDINGS)]
    items = "".join(
        f"<li>{chip(RULES[issue.code].title, TONES[issue.severity])} <span>{text(issue.problem)} {text(issue.remedy)}</span></li>"
        for issue in issues
    )
    if end - first > MOST_FINDINGS:
        items += f'<li class="quiet">and {end - first - MOST_FINDINGS:,} more</li>'
    return f'<ul class="row-findings" aria-label="Findings on this row">{items}</ul>' if items else ""


def tokens(masked: Masked) -> str:
    """The exact text with every token marked, the shares of each kind, and the legend."""
    kinds = kinds_of(masked)
    counts = Counter(kinds)
    shown = "".join(_tagged(kind, "".join(pieces)) for kind, pieces in _stretches(masked, kinds))
    rest = len(kinds) - MOST_TOKENS
    more = f'<p class="quiet">The last {count(rest, "token")} are not shown.</p>' if rest > 0 else ""
    label = "Text with tokens"
    return f'{_shares(masked, counts)}<div class="tokens" tabindex="0" role="region" aria-label="{label}">{shown}</div>{more}'


def kinds_of(masked: Masked) -> list[str]:
    """For each token one of `KINDS`."""
    sample = masked.sample
    spans = content_spans(masked.conversation, sample.text, masked.tokenizer) or [(0, len(sample.text))]
    kinds: list[str] = []
    number = 0
    for index, (label, (start, end)) in enumerate(zip(sample.labels, sample.offsets, strict=True)):
        while number < len(spans) - 1 and spans[number][1] <= start:
            number += 1
        is_said = start < end and end > spans[number][0] and start < spans[number][1]
        kinds.append("cut" if index >= masked.max_length else "learned" if label != IGNORED else "prompt" if is_said else "template")
    return kinds


def _shares(masked: Masked, counts: Counter[str]) -> str:
    """How many tokens are of which kind, as a sentence, a bar and the legend in one."""
    sample = masked.sample
    total, kept = len(sample.labels), min(len(sample.labels), masked.max_length)
    said = f"{count(total, 'token')}, {percent(counts['learned'] / kept)} of what is kept carries loss." if kept else "No tokens."
    if lost := sum(label != IGNORED for label in sample.labels[masked.max_length :]):
        said += f" {count(lost, 'token')} of answers {'is' if lost == 1 else 'are'} cut off."
    if not counts["learned"]:
        said += " Nothing is learned from this row."
    bar = "".join(f'<i class="{kind}" style="flex-grow:{counts[kind]}"></i>' for kind in KINDS if counts[kind])
    legend = "".join(
        f'<li>{_tagged(kind, name)} <b>{counts[kind]:,}</b> <span class="means">{means}</span></li>'
        for kind, (name, means) in KINDS.items()
    )
    return f'<p class="quiet said">{said}</p><div class="shares" aria-hidden="true">{bar}</div><ul class="legend">{legend}</ul>'


def _tagged(kind: str, markup: str) -> str:
    tag = {"learned": "mark", "cut": "del"}.get(kind, "span")  # said by screen readers too
    return f'<{tag} class="{kind}">{markup}</{tag}>'


def _stretches(masked: Masked, kinds: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Neighbouring tokens of one kind together, each as the text it stands for. Tokens that share one character are shown as one."""
    sample, vocabulary = masked.sample, masked.tokenizer.tokenizer
    pieces: list[tuple[str, str]] = []
    done = 0
    for token_id, kind, (start, end) in zip(sample.input_ids[:MOST_TOKENS], kinds, sample.offsets, strict=False):
        if start == end:
            pieces.append((kind, f'<i class="special" title="token {token_id}">{text(vocabulary.id_to_token(token_id))}</i>'))
        elif end > done:
            pieces.append((kind, f'<i title="token {token_id}">{text(sample.text[max(start, done) : end])}</i>'))
            done = end
    return [(kind, [piece for _, piece in group]) for kind, group in groupby(pieces, key=lambda pair: pair[0])]

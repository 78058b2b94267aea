"""Small pieces of HTML that every tab uses. All text passes through `text`, the one function that escapes."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from core.units import duration, size

__all__ = ["chip", "count", "duration", "empty", "facts", "left", "meter", "percent", "sentence", "size", "table", "text"]


def text(value: object) -> str:
    """`value` as text inside HTML, whoever wrote it."""
    return html.escape(str(value), quote=True)


def count(number: int, one: str, many: str | None = None) -> str:
    """``1 run``, ``1,284 tokens``."""
    return f"{number:,} {one if number == 1 else (many or one + 's')}"


def percent(share: float) -> str:
    """``0.21 %``, ``4.5 %``, ``38 %``."""
    value = share * 100
    return f"{value:.2g} %" if value < 10 else f"{value:.0f} %"


def left(seconds: float) -> str:
    """``about 12 s left``: an estimate, without tenths."""
    return f"about {f'{seconds:.0f} s' if seconds < 60 else duration(seconds)} left"


def sentence(lead: str, rest: str = "") -> str:
    """The first line of a tab: what a person would say, and after it what else there is to say."""
    more = f'<p class="rest">{text(rest)}</p>' if rest else ""
    return f'<div class="sentence"><p class="lead">{text(lead)}</p>{more}</div>'


def empty(lead: str, rest: str) -> str:
    """What a tab says when there is nothing yet: what to do."""
    return f'<div class="empty"><p class="lead">{text(lead)}</p><p class="rest">{text(rest)}</p></div>'


def chip(label: str, tone: str = "plain") -> str:
    """A small label; `tone` is plain, good, warning, error or accent."""
    return f'<span class="chip {tone}">{text(label)}</span>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Labels and values in a row that wraps."""
    cells = "".join(f"<div><dt>{text(label)}</dt><dd>{text(value)}</dd></div>" for label, value in pairs)
    return f'<dl class="facts">{cells}</dl>'


def meter(share: float, label: str, tone: str = "accent") -> str:
    """A bar that is filled to `share` (0 to 1); `label` is read aloud."""
    width = max(0.0, min(1.0, share)) * 100
    values = f'role="progressbar" aria-label="{text(label)}" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{width:.0f}"'
    return f'<div class="meter {tone}" {values}><span style="width:{width:.1f}%"></span></div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], label: str, numeric: Sequence[int] = ()) -> str:
    """A table. Cells are HTML already: pass text through `text` first. `numeric` columns are aligned to the right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=num' if index in numeric else ''}{' scope=col' if tag == 'th' else ''}>{value}</{tag}>"
            for index, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    head = cells("th", [text(name) for name in heads])
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{text(label)}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )

"""Where a preset comes from, as HTML: the old command, what became of each of its flags, and what differs and why."""

from __future__ import annotations

from typing import Any

from core.training.presets import PRESETS
from core.training.published import Flag, published
from ui import form
from ui.view import table, text


def origin(preset: str) -> str:
    """The source of a preset; where it is Transmute's own, what it is."""
    source = published(preset)
    if source is None:
        return f"<p>Transmute's own. {text(summary(preset))}</p>"
    rows = [(f"<code>{text(flag.flag)}</code>", text(flag.value), _ours(flag), text(flag.note)) for flag in source.flags]
    differs = "".join(f"<li>{text(sentence)}</li>" for sentence in source.differs)
    return (
        f'<p>{text(summary(preset))} Read from <a href="{text(source.source)}" target="_blank" rel="noopener">{text(source.source)}</a>.</p>'
        f'<pre class="old-command">{text(source.command)}</pre>'
        + table(("Option then", "Value", "Knob now", "Note"), rows, "What became of each option")
        + (f"<p><b>What differs, and why</b></p><ul>{differs}</ul>" if differs else "")
    )


def summary(preset: str) -> str:
    """The first line of a preset's own description."""
    return (PRESETS[preset].__doc__ or "").strip().partition("\n")[0]


def _ours(flag: Flag) -> str:
    if not flag.knob:
        return ""
    return f"{text(form.rows()[flag.knob]['title'])}: <code>{text(_plain(flag.ours))}</code>"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return form.plain(value) if isinstance(value, int | float) else str(value)

"""The verb `presets`: the recipes to begin with, and where each comes from."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer
from rich.table import Table

from core.cli.output import Json, console, finish


def presets(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them, with its source.")] = None,
    json: Json = False,
) -> None:
    """List the presets; with a name, show the old command behind it, what became of each flag, and what differs and why."""
    from core.training.presets import PRESETS, preset
    from core.training.published import published

    out = console(json)
    if name is None:
        table = Table("preset", "what it is", box=None, pad_edge=False)
        said = {each: (make.__doc__ or "").strip().partition("\n")[0] for each, make in PRESETS.items()}
        for each, what in said.items():
            table.add_row(each, what)
        out.print(table)
        finish(json, {"presets": [{"name": each, "is": what} for each, what in said.items()]})
    recipe, source = preset(name), published(name)
    if source:
        out.print(f"From {source.source}", markup=False)
        out.print(source.command, markup=False)
        for flag in source.flags:
            ours = f"{flag.knob}={flag.ours}" if flag.knob else ""
            out.print(f"{flag.flag:<32} {flag.value:<28} {' '.join(part for part in (ours, flag.note) if part)}", markup=False)
        for sentence in source.differs:
            out.print(f"- {sentence}", markup=False)
    else:
        out.print("It is Transmute's own.")
    out.print(f"Train it with: python -m core train --preset {name} --data FILE", markup=False)
    finish(json, {"recipe": recipe.model_dump(mode="json"), "published": dataclasses.asdict(source) if source else None})


VERBS = {"presets": presets}

"""The verb `suggest`: a recipe for a model, a dataset and this machine, with the reason of every choice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from core import paths
from core.cli.output import Json, console, finish
from core.errors import UserError
from core.training.recipe import Method


def suggest(
    model: Annotated[str, typer.Option(help="starter, a local folder, or a Hub id.")] = "starter",
    data: Annotated[str, typer.Option(help="A data file of any known layout, or a dataset id.")] = "",
    method: Annotated[Method | None, typer.Option(help="Without it: LoRA where it fits, else QLoRA.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The recipe file to write; without it the recipe is printed.")] = None,
    json: Json = False,
) -> None:
    """Write a recipe that suits a model, a dataset and this machine, and say why it is as it is."""
    from core.cli.run import hub_token
    from core.training import prospect
    from core.training.hardware import detect
    from core.training.recipe import build

    given = build({"base_model": model, "dataset": data}, "the command line")
    found = prospect.suggested(given, detect(), hub_token(), method)
    chosen = given.model_copy(update=found.knobs)
    shown = console(json)
    for reason in found.reasons:
        shown.print(reason, markup=False, highlight=False)
    if out is not None:
        try:
            paths.write_text(out, chosen.to_yaml())
        except OSError as error:
            raise UserError(f"{out} could not be written: {error.strerror}.", "-o", "Name a file in a folder you may write to.") from None
        shown.print(f"Wrote {out}: python -m core train {out}", markup=False)
    elif not json:
        sys.stdout.write(chosen.to_yaml())
    finish(
        json,
        {"knobs": found.knobs, "reasons": list(found.reasons), "estimate": found.estimate.as_dict(), "path": str(out) if out else None},
    )


VERBS = {"suggest": suggest}

"""The verb `export`: a recipe as a file that runs elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from core import paths
from core.cli.output import Json, console, finish
from core.errors import UserError


def export(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in YAML.")] = None,
    to: Annotated[Literal["yaml", "command", "script", "notebook", "slurm"], typer.Option(help="What to make of it.")] = "yaml",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The file to write; without it the text is printed.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset instead of a file: demo, fastchat-fft, mlabonne-qlora, ...")] = None,
    model: Annotated[str | None, typer.Option(help="starter, a local folder, or a Hub id.")] = None,
    data: Annotated[str | None, typer.Option(help="A data file of any known layout, or a dataset id.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for any knob; may be given several times.")] = None,
    json: Json = False,
) -> None:
    """Write a recipe as YAML, an accelerate launch command, a plain TRL script, a notebook, or a SLURM batch file."""
    from core.cli.run import chosen_recipe
    from core.training import exports
    from core.training.hardware import detect

    chosen, hardware = chosen_recipe(recipe, preset, model, data, set_, "export"), detect()
    text = exports.export(chosen, to, hardware, exports.known_estimate(chosen, hardware) if to in ("command", "slurm") else None)
    if out is None and not json:
        sys.stdout.write(text)
        return
    if out is not None:
        if out.is_dir():
            raise UserError(f"{out} is a folder.", "-o", f"Name a file, for example {out / exports.file_name(chosen, to)}.")
        try:
            paths.write_text(out, text)
        except OSError as error:
            raise UserError(f"{out} could not be written: {error.strerror}.", "-o", "Name a file in a folder you may write to.") from None
        console(json).print(f"Wrote {out}.", markup=False)
    finish(json, {"to": to, "path": str(out) if out else None, "text": None if out else text})


VERBS = {"export": export}

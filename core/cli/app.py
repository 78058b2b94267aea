"""The verbs, one function each. Every one is three lines of work: call the engine, show, finish."""

from __future__ import annotations

import sys
import traceback

import typer

from core import paths
from core.cli import chat, clean, data, deploy, estimate, exports, imports, models, presets, publish, quality, run, suggest
from core.cli.output import fail
from core.errors import UserError
from core.redact import redact

app = typer.Typer(
    name="transmute",
    help="Fine-tune, quantise, measure, compare and publish a language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb, function in (
    data.VERBS
    | imports.VERBS
    | clean.VERBS
    | run.VERBS
    | estimate.VERBS
    | suggest.VERBS
    | presets.VERBS
    | exports.VERBS
    | models.VERBS
    | quality.VERBS
    | chat.VERBS
    | publish.VERBS
    | deploy.VERBS
).items():
    app.command(verb)(function)


def main() -> None:
    """Run the command line: exit 0 good, 1 findings or a failed job, 2 bad usage. An error never shows a traceback."""
    try:
        app()
    except UserError as error:
        sys.exit(fail(error))
    except BrokenPipeError:
        sys.exit(0)
    except Exception:  # noqa: BLE001 - the border: a mistake of ours is kept for us, and said in words to the person
        sys.exit(fail(unforeseen()))


def unforeseen() -> UserError:
    """The error for what nobody foresaw; its traceback goes to a file."""
    log = paths.home() / "errors.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(redact(traceback.format_exc()) + "\n")
    return UserError(
        "Something went wrong that Transmute did not foresee.", "the command line", f"{log} has the details; please report them.", "BUG"
    )

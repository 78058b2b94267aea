"""How the command line speaks: progress for people, one JSON object as the last line for programs, errors in three parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from core.errors import UserError

# Failures of the job itself; every other UserError is about what was asked for.
JOB_FAILURES = frozenset({"BUG", "CRASH", "DISK", "KILLED", "NAN", "NET", "OOM", "TIMEOUT"})

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def console(as_json: bool) -> Console:
    """Where text for people goes: stdout, or stderr when stdout is for the JSON object."""
    return Console(stderr=as_json, highlight=False, soft_wrap=True)


def finish(as_json: bool, value: dict[str, Any], code: int = 0) -> NoReturn:
    """Print the JSON object when it was asked for, and exit with `code`."""
    if as_json:
        sys.stdout.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
    raise typer.Exit(code)


def finish_with_list(as_json: bool, value: dict[str, Any], name: str, items: Iterable[dict[str, Any]], code: int = 0) -> NoReturn:
    """As `finish`, with a list under the last key `name` that is written item by item, so that it may be longer than fits in memory."""
    if as_json:
        sys.stdout.write(f"{json.dumps(value, ensure_ascii=False, default=str)[:-1]}, {json.dumps(name)}: [")
        for number, item in enumerate(items):
            sys.stdout.write((", " if number else "") + json.dumps(item, ensure_ascii=False, default=str))
        sys.stdout.write("]}\n")
    raise typer.Exit(code)


def fail(error: UserError) -> int:
    """Print an error in three parts (and as JSON when ``--json`` was given); returns the exit code."""
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": error.as_dict()}, ensure_ascii=False) + "\n")
    print_error(error)
    return 1 if error.code in JOB_FAILURES else 2


def print_error(error: UserError) -> None:
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print("[bold red]Problem[/]", end="  ")
    err.print(error.problem, markup=False)
    err.print("[bold]Where[/]", end="    ")
    err.print(error.where, markup=False)
    err.print("[bold]Remedy[/]", end="   ")
    err.print(error.remedy, markup=False)

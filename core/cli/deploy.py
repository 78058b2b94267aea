"""The verb deploy: a Space of one's own."""

from __future__ import annotations

from typing import Annotated

import typer

from core.cli.output import Json, console, finish
from core.errors import UserError


def deploy(
    repo: Annotated[str, typer.Option(help="USER/NAME of the Space.")],
    hardware: Annotated[str, typer.Option(help="A flavour, for example l4x1; without it CPU Basic, which is free.")] = "",
    sdk: Annotated[str, typer.Option(help="gradio, or docker for llama.cpp on CUDA and flash attention.")] = "gradio",
    volume: Annotated[str, typer.Option(help="USER/BUCKET, a Storage Bucket that keeps the workspace over restarts.")] = "",
    sleep: Annotated[str, typer.Option(help="Fall asleep after so long without visitors, like 15m; costs stop then.")] = "",
    variable: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, public; may be given several times.")] = None,
    secret: Annotated[list[str] | None, typer.Option(help="NAME of an environment variable whose value becomes a secret.")] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a Space that is made now.")] = True,
    update: Annotated[bool, typer.Option("--update", help="Change a Space that exists.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every call; send nothing.")] = False,
    json: Json = False,
) -> None:
    """Create and configure a Space with this program: files, hardware, storage, variables, secrets, login."""
    from core.cli.run import hub_token
    from core.jobs.target import seconds
    from core.publish import deploy as deploying

    if sdk not in ("gradio", "docker"):
        raise UserError(f"{sdk!r} is no SDK for this program.", "--sdk", "Write gradio or docker.")
    space = deploying.Space(
        repo_id=repo,
        sdk=sdk,
        private=private,
        hardware=hardware,
        sleep_s=seconds(sleep) if sleep else None,
        volume=volume,
        variables=_pairs(variable or []),
        secrets=deploying.from_environment(secret or []),
        update=update,
    )
    out = console(json)
    calls = [str(call) for call in deploying.plan(space)]
    flavour = next((each for each in deploying.offered() if each.name == hardware), None)
    if flavour:
        out.print(f"{flavour.title} costs ${flavour.space_usd_per_h:.2f} per hour while it is awake.", markup=False)
    if dry_run:
        for call in calls:
            out.print(call, markup=False)
        finish(json, {"calls": calls})
    url = deploying.carry_out(space, hub_token(), lambda call: out.print(call, markup=False))
    out.print(f"The Space is being built: {url}", markup=False)
    finish(json, {"calls": calls, "url": url})


def _pairs(variables: list[str]) -> dict[str, str]:
    pairs = [variable.partition("=") for variable in variables]
    if wrong := next((name for name, sign, _ in pairs if not sign), None):
        raise UserError(f"{wrong!r} has no value.", "--variable", "Write NAME=VALUE.")
    return {name: value for name, _, value in pairs}


VERBS = {"deploy": deploy}

"""Verbs about publication: publish, card."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from core import paths
from core.cli.output import Json, console, finish
from core.errors import UserError
from core.publish.datasets import Form
from core.publish.preflight import Plan
from core.publish.push import Difference
from core.units import size

Sources = Annotated[
    list[str], typer.Argument(metavar="ARTIFACT", help="Artifact ids, model folders or .gguf files; or dataset ids (not both).")
]
License = Annotated[str, typer.Option(help="Of a dataset: the licence, by the Hub's identifier; else the card says that it is unknown.")]

Language = Annotated[
    list[str] | None,
    typer.Option(help="For the card: a language by its code (en, zh); may be given several times. Latin script does not say."),
]


def publish(
    sources: Sources,
    repo: Annotated[str, typer.Option(help="USER/NAME on the Hub.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the files and the model card; send nothing.")] = False,
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a repository that is made now.")] = True,
    pr: Annotated[bool, typer.Option("--pr", help="Open a pull request instead of writing to the repository.")] = False,
    card: Annotated[Path | None, typer.Option(help="A model card of your own instead of the one written from the facts.")] = None,
    despite_proofs: Annotated[bool, typer.Option("--despite-proofs", help="Send although a proof does not hold.")] = False,
    despite_tokens: Annotated[bool, typer.Option("--despite-tokens", help="Send although it seems to hold an access token.")] = False,
    license: License = "",
    form: Annotated[Form, typer.Option(help="Of a dataset: the file's form.")] = "parquet",
    language: Language = None,
    json: Json = False,
) -> None:
    """Publish artifacts or a dataset on the Hub: the files, what is left out and why, the card, what changes there, and one commit."""
    from core.publish.datasets import prepare
    from core.publish.preflight import describe
    from core.publish.push import with_card

    plan = prepare(sources, repo, license, form, language or ())
    if card:
        plan = with_card(plan, _read(card))
    out = console(json)
    show(plan, out, with_text=dry_run)
    if dry_run:
        finish(json, describe(plan) | {"hub": _asked(plan, out)}, 1 if plan.problems else 0)
    pushed = send(plan, out, private=private, pr=pr, despite_proofs=despite_proofs, despite_tokens=despite_tokens)
    finish(json, pushed)


def send(
    plan: Plan, out: Console, *, private: bool = True, pr: bool = False, despite_proofs: bool = False, despite_tokens: bool = False
) -> dict[str, object]:
    """Send `plan` with the saved login, after a word on what changes there."""
    from core.cli.run import hub_token
    from core.publish.push import compare, push, refuse_problems
    from core.publish.standing import require

    refuse_problems(plan, despite_proofs, despite_tokens)
    token = hub_token()
    for note in require(plan, token).notes:
        out.print(f"note: {note}", markup=False)
    show_difference(compare(plan, token), plan.address, out)
    columns = (TextColumn("sending"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        bar = progress.add_task("sending", total=None)
        pushed = push(
            plan,
            token,
            private=private,
            pull_request=pr,
            despite_proofs=despite_proofs,
            despite_tokens=despite_tokens,
            on_progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    if not pushed.commit:
        out.print(f"Everything is there already: {pushed.url}", markup=False)
    elif pushed.pull_request:
        out.print(f"A pull request waits for the owner: {pushed.pull_request}", markup=False)
    else:
        out.print(
            f"Published {len(pushed.sent)} files ({size(pushed.sent_bytes)}), commit {pushed.commit[:10]}: {pushed.url}", markup=False
        )
    return dataclasses.asdict(pushed)


def _asked(plan: Plan, out: Console) -> dict[str, object]:
    """What the Hub says before anything is sent: the login, the repository, and what would change there; without either, why not."""
    from core.cli.run import hub_token
    from core.publish.push import compare
    from core.publish.standing import standing

    try:
        found = standing(plan.repo_id, hub_token(), plan.repo_type, plan.base_model, size_bytes=plan.total_bytes)
        difference = None if found.problems else compare(plan, hub_token())
    except UserError as error:
        out.print(f"note: The Hub was not asked whether this login may publish there. {error.problem}", markup=False)
        return {"asked": False, "why": error.problem}
    for problem in found.problems:
        out.print(f"problem: {problem}", markup=False)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)
    if difference:
        show_difference(difference, plan.address, out)
    return {"asked": True, **dataclasses.asdict(found), "difference": difference and dataclasses.asdict(difference)}


def show_difference(found: Difference, address: str, out: Console) -> None:
    """The files of the repository against those that would be sent."""
    if not found.exists:
        out.print(f"{address} does not exist yet and will be made.", markup=False)
        return
    how = "a pull request will be opened, because it was not made here" if found.by_pull_request else "it was made here"
    out.print(f"{address} exists: {how}.", markup=False)
    for said, names in found.groups:
        out.print(f"{said:>16}  {len(names):>3}  {', '.join(names)}", markup=False, soft_wrap=True)


def show(plan: Plan, out: Console, with_text: bool) -> None:
    """The files, what is left out, and what speaks against it."""
    from core.publish.preflight import CARD

    table = Table("file", "size", box=None, pad_edge=False)
    for file in plan.files:
        table.add_row(file.path, size(file.size_bytes))
    out.print(table)
    for refused in plan.refused:
        out.print(f"left out: {refused.path} ({refused.reason})", markup=False)
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
    for problem in plan.problems:
        out.print(f"problem: {problem}", markup=False)
    if with_text:
        out.rule("README.md")
        out.print(next(file.text for file in plan.files if file.path == CARD) or "", markup=False)


def card(
    sources: Sources,
    repo: Annotated[str, typer.Option(help="USER/NAME on the Hub, which the card's commands name.")] = "you/model",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write it there, to be edited and given to `publish --card`.")] = None,
    license: License = "",
    language: Language = None,
    json: Json = False,
) -> None:
    """Write the card of artifacts, from the facts of their run, or of a dataset."""
    from core.publish.datasets import prepare
    from core.publish.preflight import CARD

    plan = prepare(sources, repo, license, languages=language or ())
    text = next(file.text for file in plan.files if file.path == CARD) or ""
    if out:
        paths.write_text(out, text)
    console(json).print(f"Written to {out}" if out else text, markup=False)
    finish(json, {"card": text, "path": str(out) if out else None})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The card cannot be read: {error}", str(path), "Give a Markdown file in UTF-8; `card ARTIFACT -o FILE` writes one."
        ) from None


VERBS = {"publish": publish, "card": card}

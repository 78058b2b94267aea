"""Verbs that make something of a dataset: clean, split, stats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core import paths
from core.cli.imports import Map
from core.cli.output import Json, console, finish, finish_with_list
from core.errors import UserError

if TYPE_CHECKING:
    from core.data.account import Account
    from core.data.dataset import Dataset
    from core.data.statistics import TextStatistics, TokenStatistics
    from core.data.tokenizer import ChatTokenizer
    from core.data.writer import Form

Reference = Annotated[str, typer.Argument(metavar="DATA", help="A data file of any known layout, or a dataset id.")]
SHOWN = 50
TokenModel = Annotated[str | None, typer.Option("--model", help="The base model whose tokenizer counts tokens.")]


def clean(
    source: Reference,
    fix: Annotated[str | None, typer.Option(help="Repairs: code,code:parameter=value,... An unknown code lists them all.")] = None,
    list_dropped: Annotated[bool, typer.Option("--dropped", help="List the rows that the cleaning of DATA left out.")] = False,
    restore: Annotated[str | None, typer.Option(help="Take rows that were left out back as they were: 4,7,...")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write the conversations: .json, .jsonl or .parquet.")] = None,
    preview: Annotated[bool, typer.Option("--preview", help="Count what would be done; make nothing.")] = False,
    to: Annotated[Literal["vicuna", "messages"], typer.Option(help="The form of OUT.")] = "vicuna",
    model: TokenModel = None,
    name: Annotated[str | None, typer.Option(help="What the new dataset is called.")] = None,
    map_: Map = None,
    json: Json = False,
) -> None:
    """Mend, split or drop rows by chosen repairs: a new dataset, in which every row of the old one is accounted for."""
    from core.data import clean as cleaning
    from core.data.repairs import parse_chosen
    from core.data.writer import require_writable

    if [fix is not None, list_dropped, restore is not None].count(True) != 1:
        raise UserError("It is not said what to do.", "clean", "Give one of --fix, --dropped and --restore.")
    chosen = parse_chosen(fix) if fix is not None else None
    rows = _row_numbers(restore) if restore is not None else []
    if out is not None:
        require_writable(out)
    dataset, screen = dataset_of(source, map_), console(json)
    if list_dropped:
        _list_dropped(dataset, json)
    if chosen is None:
        made_by = dataset.manifest.made_by or {}
        cleaned = cleaning.restore(dataset, rows, _tokenizer(model or made_by.get("model")))
    elif preview:
        counted = cleaning.preview(dataset, chosen, _tokenizer(model))
        _show_account(counted, screen)
        finish(json, {"dataset_id": dataset.id, "account": counted.model_dump(mode="json")})
    else:
        cleaned = cleaning.clean(dataset, chosen, name, _tokenizer(model))
    account = cleaning.account(cleaned)
    _show_account(account, screen)
    screen.print(f"{cleaned.id}  {cleaned.name}", markup=False)
    if cleaned.manifest.num_rejected:
        screen.print(f"{cleaned.manifest.num_rejected:,} of its rows still cannot be trained: `validate` names them.")
    num_written = _write(cleaned, out, to, screen) if out else 0
    manifest = cleaned.manifest
    facts = {"dataset_id": cleaned.id, "parent": manifest.parent, "num_valid": len(cleaned), "num_rejected": manifest.num_rejected}
    finish(json, {**facts, "account": account.model_dump(mode="json"), "out": out and str(out), "num_written": num_written})


def _row_numbers(text: str) -> list[int]:
    numbers = [part.strip() for part in text.split(",")]
    if wrong := [part for part in numbers if not part.isdecimal()]:
        raise UserError(f"{wrong[0]!r} is no row.", "--restore", "Write the rows as `clean DATA --dropped` lists them: 4,7.")
    return list(map(int, numbers))


def _list_dropped(dataset: Dataset, as_json: bool) -> NoReturn:
    from core.data import clean as cleaning
    from core.data.rules import shorten

    total = cleaning.account(dataset).num_dropped
    screen, table = console(as_json), Table("row", "part", "dropped by", "like row", "id", "text", box=None, pad_edge=False)
    for row in cleaning.dropped(dataset, count=SHOWN):
        cells = (str(row.row), str(row.part or ""), row.code, "" if row.twin is None else str(row.twin), shorten(row.id), shorten(row.text))
        table.add_row(*map(Text, cells))
    screen.print(f"{total:,} rows were dropped.")
    if total:
        screen.print(table)
    if total > SHOWN:
        screen.print(f"... and {total - SHOWN:,} more; --json lists them all.")
    counted = {"dataset_id": dataset.id, "parent": dataset.manifest.parent, "num_dropped": total}
    finish_with_list(as_json, counted, "dropped", (row._asdict() for row in cleaning.dropped(dataset)))


def split(
    source: Reference,
    eval_fraction: Annotated[float, typer.Option(help="Share to evaluate on, above 0 and below 1.")] = 0.05,
    seed: Annotated[int, typer.Option(help="The same seed draws the same conversations.")] = 42,
    by: Annotated[Literal["count", "characters"], typer.Option(help="What the share is of: conversations or characters.")] = "count",
    near: Annotated[bool, typer.Option("--near/--no-near", help="Keep near-duplicates on one side too.")] = True,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Also write train.jsonl and eval.jsonl into this folder.")] = None,
    map_: Map = None,
    json: Json = False,
) -> None:
    """Split into conversations to train on and to evaluate on; what is the same or almost the same stays on one side."""
    from core.data.split import split_dataset

    screen = console(json)
    dataset = dataset_of(source, map_)
    sides = split_dataset(dataset, eval_fraction, seed, by, near)
    made: dict[str, Any] = {}
    for side, part in zip(("train", "eval"), sides, strict=True):
        screen.print(f"{part.id}  {side:5}  {len(part):,} conversations", markup=False)
        made[side] = {"dataset_id": part.id, "num_conversations": len(part)}
        if out:
            out.mkdir(parents=True, exist_ok=True)
            _write(part, out / f"{side}.jsonl", "vicuna", screen)
            made[side]["path"] = str(out / f"{side}.jsonl")
    finish(json, {"parent": dataset.id, **made})


def stats(
    source: Reference,
    model: Annotated[str, typer.Option(help="The base model whose tokenizer counts tokens.")] = "starter",
    max_length: Annotated[int, typer.Option(min=16, help="Tokens per conversation.")] = 2048,
    loss_on: Annotated[Literal["answers", "last", "all"], typer.Option(help="What is learned.")] = "answers",
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe: model, max_length and loss_on come from it, and its steps are estimated.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Write every row that adds nothing or loses answer tokens to this .csv or .jsonl file.")
    ] = None,
    map_: Map = None,
    json: Json = False,
) -> None:
    """Show turns, lengths, languages, what carries loss, how well rows pack, and which conversations would add nothing."""
    from core.data import audit as audits
    from core.data.findings_export import SUFFIXES
    from core.data.measures import measure
    from core.data.statistics import text_statistics, token_statistics
    from core.data.writer import require_writable
    from core.training import estimate
    from core.training import recipe as recipes

    if export:
        require_writable(export, SUFFIXES)
    chosen = recipes.load(recipe) if recipe else None
    if chosen:
        model, max_length, loss_on = chosen.base_model, chosen.max_length, chosen.loss_on
    tokenizer, dataset = _tokenizer(model), dataset_of(source, map_)
    assert tokenizer
    text, tokens = text_statistics(dataset), token_statistics(dataset, tokenizer, max_length, loss_on)
    steps = estimate.steps(dataset, tokenizer, chosen) if chosen else None
    screen = console(json)
    _show_statistics(text, tokens, screen)
    found = audits.audit(dataset, tokenizer, max_length, loss_on)
    for row in found.no_loss_rows[:10]:
        screen.print(f"row {row.row} adds nothing: {row.reason}, {row.tokens:,} tokens", markup=False)
    if export:
        num_exported = audits.export(dataset, measure(dataset, tokenizer, max_length, loss_on), export)
        screen.print(f"{num_exported:,} rows written to {export}", markup=False)
    if steps is not None:
        screen.print(f"About {steps:,} optimizer steps by this recipe.")
    finish(
        json,
        {
            "dataset_id": dataset.id,
            "text": text.model_dump(mode="json"),
            "tokens": tokens.model_dump(mode="json") | {"loss_share": tokens.loss_share},
            "audit": found.model_dump(mode="json"),
            "estimated_steps": steps,
        },
    )


def dataset_of(reference: str, map_: str | None = None) -> Dataset:
    """The dataset of an id, or of a file, which is taken into the workspace."""
    from core.data.dataset import import_dataset, open_dataset
    from core.data.mapping import parse_mapping

    if reference.startswith("ds-") and (paths.datasets_dir() / reference).is_dir():
        return open_dataset(reference)
    return import_dataset(Path(reference).expanduser(), mapping=parse_mapping(map_) if map_ else None)


def _tokenizer(model: str | None) -> ChatTokenizer | None:
    from core.data.tokenizer import load_tokenizer
    from core.training.models import resolve

    return replace(load_tokenizer(resolve(model).path), model=model) if model else None


def _write(dataset: Dataset, out: Path, to: Form, screen: Console) -> int:
    from core.data.writer import write

    count = write(dataset, out, to)
    screen.print(f"{count:,} conversations written to {out}", markup=False)
    return count


def _show_account(account: Account, screen: Console) -> None:
    table = Table("repair", "changed", "made", "dropped", box=None, pad_edge=False)
    for effect in account.effects:
        table.add_row(effect.title, f"{effect.num_changed:,}", f"{effect.num_made:,}", f"{effect.num_dropped:,}")
    screen.print(table)
    made = f" + {account.num_made:,} made by splitting" if account.num_made else ""
    screen.print(
        f"{account.num_in:,} rows{made} = {account.num_kept:,} kept + {account.num_changed:,} changed + {account.num_dropped:,} dropped."
    )
    if account.num_too_long:
        screen.print(f"{account.num_too_long:,} pairs are too long by themselves and stay whole: rows {_named(account.too_long)}.")


def _show_statistics(text: TextStatistics, tokens: TokenStatistics, screen: Console) -> None:
    turns = ", ".join(f"{number:,} with {turns}" for turns, number in text.turns.items())
    scripts = ", ".join(f"{script} {number:,}" for script, number in text.conversations_by_script.items())
    longest = _named([row.row for row in tokens.longest])
    for line in (
        f"{text.num_conversations:,} conversations. Turns: {turns}. Mostly written in: {scripts}.",
        f"Tokens per conversation: {tokens.tokens.mean:,.0f} on average, {tokens.tokens.median:,.0f} in the middle, "
        f"95 % up to {tokens.tokens.p95:,.0f}, the longest {tokens.tokens.largest:,} (rows {longest}).",
        f"Tokens per answer: {tokens.answers.mean:,.0f} on average, the longest {tokens.answers.largest:,.0f}.",
        f"Within {tokens.max_length:,}: {tokens.num_tokens:,} tokens, {tokens.loss_share:.0%} with loss; {tokens.num_truncated:,} conversations "
        f"are cut and lose {tokens.num_lost_tokens:,} tokens with loss; {tokens.num_zero_loss:,} add nothing.",
        f"Packed they fill {tokens.packed_rows:,} rows to {tokens.packing_efficiency:.0%}; padded to the longest, {tokens.padded_efficiency:.0%}.",
    ):
        screen.print(line, markup=False)


def _named(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


VERBS = {"clean": clean, "split": split, "stats": stats}

"""Verbs about data: validate, mask."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.cli.imports import Map
from core.cli.output import Json, console, finish, finish_with_list

if TYPE_CHECKING:
    from core.data.findings import Findings
    from core.data.rules import Issue
    from core.data.validate import Report

DataPath = Annotated[Path, typer.Argument(help="A data file: any known layout, in JSON, JSONL, CSV or Parquet.")]
Model = Annotated[str, typer.Option(help="The base model whose tokenizer and template count.")]
SHOWN = 50


def validate(
    path: DataPath,
    model: Annotated[str | None, typer.Option(help="Also count what this model's tokenizer would cut.")] = None,
    max_length: Annotated[int, typer.Option(min=16, help="Tokens per conversation, with --model.")] = 2048,
    eval_path: Annotated[Path | None, typer.Option("--eval", help="Evaluation data that must share no conversation with PATH.")] = None,
    near: Annotated[
        bool, typer.Option("--near-duplicates", help="Also name conversations that are almost the same, with --eval across the two.")
    ] = False,
    export_to: Annotated[Path | None, typer.Option("--export", help="Write every finding to this .csv or .jsonl file.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="With --export: the text of the row beside each finding.")] = False,
    map_: Map = None,
    json: Json = False,
) -> None:
    """Check every record of a file and name what is wrong by row, turn, line and byte."""
    from core.data.findings_export import SUFFIXES, export, gathered
    from core.data.likeness import with_near_duplicates
    from core.data.mapping import parse_mapping
    from core.data.tokenizer import load_tokenizer
    from core.data.validate import validate as check
    from core.data.writer import require_writable
    from core.training.models import resolve

    tokenizer = load_tokenizer(resolve(model).path) if model else None
    mapping = parse_mapping(map_) if map_ else None
    if export_to:
        require_writable(export_to, SUFFIXES)

    def judge(note: Callable[[Issue], None]) -> Report:
        limit = max_length if model else None
        report = check(path, tokenizer=tokenizer, max_length=limit, eval_path=eval_path, mapping=mapping, on_issue=note)
        return with_near_duplicates(report, path, mapping, on_issue=note, eval_path=eval_path) if near else report

    with gathered(judge) as (report, found):
        num_exported = export(found, export_to, path if raw else None, mapping) if export_to else 0
        out = console(json)
        out.print(f"{report.num_rows:,} records: {report.num_valid:,} can be trained, {report.num_rejected:,} cannot.")
        _show_findings(found, out)
        if export_to:
            out.print(f"{num_exported:,} findings written to {export_to}", markup=False)
        counted = report.model_dump(mode="json", exclude={"issues"})
        finish_with_list(json, counted, "issues", (issue.model_dump(mode="json") for issue in found), 1 if report.has_errors else 0)


def _show_findings(found: Findings, out: Console) -> None:
    table = Table("severity", "code", "row", "turn", "line", "problem and remedy", box=None, pad_edge=False)
    for issue in found[:SHOWN]:
        cells = (issue.severity, issue.code, issue.row, issue.turn, issue.line)
        table.add_row(*("" if cell is None else str(cell) for cell in cells), Text(f"{issue.problem} {issue.remedy}"))
    if found:
        out.print(table)
    if len(found) > SHOWN:
        out.print(f"... and {len(found) - SHOWN:,} more; --json lists them all, --export writes them to a file.")


def mask(
    source: Annotated[str, typer.Argument(metavar="DATA", help="A data file of any known layout, or a dataset id.")],
    row: Annotated[int, typer.Option(min=0, help="Which record, counted from 0.")] = 0,
    model: Model = "starter",
    max_length: Annotated[int | None, typer.Option(min=16, help="Cut here, as training would.")] = None,
    loss_on: Annotated[Literal["answers", "last", "all"], typer.Option(help="What is learned.")] = "answers",
    map_: Map = None,
    json: Json = False,
) -> None:
    """Show one conversation token by token: what carries loss and what does not."""
    from core.data.dataset import open_dataset
    from core.data.mapping import parse_mapping
    from core.data.render import mask_row
    from core.data.tokenizer import load_tokenizer
    from core.training.models import resolve

    path, mapping = Path(source).expanduser(), parse_mapping(map_) if map_ else None
    if source.startswith("ds-") and not path.is_file():
        dataset = open_dataset(source)
        path, mapping = dataset.source, dataset.manifest.mapping
    shown = mask_row(path, row, load_tokenizer(resolve(model).path), max_length, loss_on, mapping)
    text = Text()
    for token, label in zip(shown["tokens"], shown["labels"], strict=True):
        text.append(token, style="bold green underline" if label != -100 else "dim")
        text.append("|", style="dim")
    out = console(json)
    out.print(text)
    carried = sum(label != -100 for label in shown["labels"])
    out.print(f"{carried} of {len(shown['labels'])} tokens carry loss (green, underlined).")
    finish(json, shown)


VERBS = {"validate": validate, "mask": mask}

"""Verbs about files of any layout: import, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from core import units
from core.cli.output import Json, console, finish
from core.errors import UserError

Map = Annotated[str | None, typer.Option("--map", help="What the columns mean: question=COL,answer=COL or turns=COL; also system, id, ...")]


def import_(
    source: Annotated[str, typer.Argument(help="A data file, or a dataset of the Hub as owner/name.")],
    config: Annotated[str | None, typer.Option(help="Of a Hub dataset: which configuration.")] = None,
    split: Annotated[str | None, typer.Option(help="Of a Hub dataset: which split; train when there is one.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a Hub dataset: a branch, tag or commit.")] = None,
    name: Annotated[str | None, typer.Option(help="What the dataset is called.")] = None,
    map_: Map = None,
    json: Json = False,
) -> None:
    """Take a data file or a Hub dataset into the workspace: any known layout, in JSON, JSONL, CSV or Parquet."""
    from core.cli.run import hub_token
    from core.data import imports
    from core.data.dataset import open_dataset
    from core.data.mapping import parse_mapping
    from core.data.origin import HubRef

    mapping = parse_mapping(map_) if map_ else None
    out = console(json)
    if _is_file(source):
        wanted = imports.ImportSource(kind="path", path=str(Path(source).expanduser()), name=name, mapping=mapping)
        job_id = imports.start(wanted)
    else:
        ref = HubRef(repo_id=source, config=config, split=split, revision=revision)
        job_id = imports.start(imports.ImportSource(kind="hub", hub=ref, name=name, mapping=mapping), hub_token())
    job = _watch(job_id, out)
    if job.error:
        raise UserError.from_dict(job.error)
    if job.dataset_id is None:
        raise UserError("The import was cancelled.", job.name, "Start it again.", code="CANCELLED")
    manifest = open_dataset(job.dataset_id).manifest
    out.print(f"{manifest.id}  {manifest.name}", markup=False)
    out.print(
        f"{manifest.num_rows:,} rows: {manifest.num_valid:,} can be trained, {manifest.num_rejected:,} cannot. {manifest.why}", markup=False
    )
    finish(json, manifest.model_dump(mode="json"))


def _is_file(source: str) -> bool:
    """Whether `source` is a file and not a Hub id; UserError when it can be neither."""
    from core.data.hub import is_hub_id
    from core.data.imports import DATA_SUFFIXES

    if Path(source).expanduser().is_file():
        return True
    if is_hub_id(source) and Path(source).suffix.lower() not in DATA_SUFFIXES:
        return False
    raise UserError(f"There is no file {source!r}.", "import", "Give the path of a data file, or a Hub dataset as owner/name.")


def _watch(job_id: str, out: Console) -> Any:
    """Show the job until it ends; Ctrl-C cancels it."""
    from core.data import imports

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    job = imports.load(job_id)
    try:
        with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as progress:
            bar = progress.add_task("", total=None, figures="")
            for job in imports.follow(job_id):
                figures = f"{units.size(job.done_bytes)} of {units.size(job.total_bytes)}" if job.total_bytes else ""
                rate = f", {job.rows:,} rows, {job.rows_per_s:,.0f} per second" if job.rows_per_s else ""
                progress.update(
                    bar, description=job.stage or job.state, completed=job.done_bytes, total=job.total_bytes or None, figures=figures + rate
                )
    except KeyboardInterrupt:
        job = imports.cancel(job_id)
    return job


def convert(
    path: Annotated[str, typer.Argument(help="A data file of any known layout, or a dataset id.")],
    out_path: Annotated[Path, typer.Option("-o", "--out", help="The file to write: .json, .jsonl or .parquet.")],
    to: Annotated[str, typer.Option(help="vicuna or messages.")] = "vicuna",
    map_: Map = None,
    json: Json = False,
) -> None:
    """Write the conversations of a file in another form; rows that cannot be trained are left out and counted."""
    from core.data.mapping import parse_mapping
    from core.data.writer import write

    if to not in ("vicuna", "messages"):
        raise UserError(f"There is no form {to!r}.", "--to", "Choose vicuna or messages.")
    rejected: list[int] = []
    mapping = parse_mapping(map_) if map_ else None
    num_written = write(_conversations(path, mapping, rejected), out_path, to)
    out = console(json)
    out.print(f"{num_written:,} conversations written to {out_path}; {len(rejected):,} rows left out.", markup=False)
    if rejected:
        out.print(f"`python -m core validate {path}` says what is wrong with them.", markup=False)
    value = {"path": str(out_path), "to": to, "num_written": num_written, "num_rejected": len(rejected), "rejected": rejected}
    finish(json, value, 1 if rejected else 0)


def _conversations(path: str, mapping: Any, rejected: list[int]) -> Any:
    """The conversations of a file or a dataset; `rejected` gets the numbers of the rows that are none."""
    from core.data.datafile import DataFile
    from core.data.dataset import open_dataset
    from core.data.intake import require_known
    from core.data.rows import check_rows

    if path.startswith("ds-") and not Path(path).is_file():
        dataset = open_dataset(path)
        yield from dataset
        rejected += [row["row"] for row in dataset.rejected()]
        return
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"There is no file {path!r}.", "convert", "Give the path of a data file, or a dataset id.")
    require_known(DataFile(file, mapping).layout, file)
    for checked in check_rows(file, mapping=mapping):
        if checked.conversation is None:
            rejected.append(checked.record.row)
        else:
            yield checked.conversation


VERBS = {"import": import_, "convert": convert}

"""Verbs that make models of models: merge, gguf, levels, imatrix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Column, Table

from core import paths
from core.cli.bars import bars
from core.cli.output import Json, console, finish
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.jobs import OnEvent
from core.export.levels import LEVELS, parse_levels
from core.units import size

OutDir = Annotated[Path | None, typer.Option("-o", "--out", help="Where to write; default: beside the run's other artifacts.")]


def merge(
    source: Annotated[str, typer.Argument(metavar="RUN|ARTIFACT", help="A run id, an adapter's id, or an adapter folder.")],
    out: OutDir = None,
    json: Json = False,
) -> None:
    """Merge an adapter into its unquantised base."""
    from core.export.merge import merge_adapter

    adapter = _adapter(source)
    target = out or _beside(adapter, "merged")
    with bars(console(json), "merging") as on_event:
        merged = merge_adapter(adapter, target.absolute(), on_event=on_event)
    console(json).print(f"Merged into {merged.folder} ({size(merged.size_bytes)})")
    finish(json, summary(merged))


def _adapter(source: str) -> Artifact:
    if paths.ID_PATTERN.fullmatch(source) and (paths.runs_dir() / source / "artifacts" / "adapter" / artifacts.MANIFEST).is_file():
        return artifacts.read(paths.runs_dir() / source / "artifacts" / "adapter")
    return artifacts.resolve(source)


def _beside(artifact: Artifact, name: str) -> Path:
    return artifact.folder.parent / (name if artifact.run_id else f"{artifact.folder.name}-{name}")


def gguf(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact id, a model folder, a Hub id, or an adapter.")],
    levels: Annotated[
        str, typer.Option(help="Comma-separated levels, such as f16,q8_0,q4_0,Q4_K_M; Q4_K_M+imatrix is guided by an importance matrix.")
    ] = "f16,q8_0,q4_0",
    made_of: Annotated[
        Literal["f16", "bf16", "f32"] | None,
        typer.Option("--from", help="The float format that levels are made from; default: f16 where it holds every weight."),
    ] = None,
    imatrix: Annotated[
        str | None, typer.Option(help="An importance matrix (FILE), or auto to make one; it guides every level that gains by one.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Conversations to make it from; default: what the run was trained on.")] = None,
    split_max_size: Annotated[str, typer.Option(help="Split larger files into parts: 2G, 500M.")] = "48G",
    out: OutDir = None,
    json: Json = False,
) -> None:
    """Convert a model to GGUF and quantise it to the levels asked for; an adapter becomes a GGUF LoRA file."""
    from core.export.gguf import adapter_file, convertible, make_gguf, reference_in

    model = convertible(source)
    if model.kind == "adapter":
        with bars(console(json), "converting") as on_event:
            file = adapter_file(model, out, dtype=made_of or "auto", on_event=on_event)
        console(json).print(f"{file} ({size(file.stat().st_size)})", markup=False)
        finish(json, {"path": str(file), "size_bytes": file.stat().st_size})
    target = gguf_root(model, out)
    wanted = [known.guided if imatrix else known for known in parse_levels(levels)]
    with bars(console(json), "working") as on_event:
        matrix = _imatrix(model, target, imatrix or ("auto" if any(known.is_guided for known in wanted) else None), data, on_event)
        made = make_gguf(
            model,
            [known.name for known in wanted],
            target,
            run_id=model.run_id,
            intermediate=made_of,
            imatrix=matrix,
            split_bytes=parse_size(split_max_size, "--split-max-size"),
            on_event=on_event,
        )
    console(json).print(level_table(made))
    if not made_of and (source_file := reference_in(target)) and source_file.float_reason:
        console(json).print(f"Made from {source_file.level}, because {source_file.float_reason}.", markup=False)
    finish(json, {"artifacts": [summary(artifact) for artifact in made]})


def gguf_root(model: Artifact, out: Path | None) -> Path:
    """Where the levels of a model lie: beside its run's artifacts, beside its folder, or in the workspace when it is the Hub's."""
    if model.kind != "merged":
        raise UserError(f"{model.name} is a {model.kind} artifact.", model.id, "Give a merged model; `merge` makes one of an adapter.")
    if out:
        return out.absolute()
    if not model.run_id and not Path(model.id).is_dir():
        return paths.home() / "exports" / model.id.replace("/", "--")
    return model.folder.parent if model.run_id else _beside(model, "gguf")


def _imatrix(model: Artifact, target: Path, wanted: str | None, data: Path | None, on_event: OnEvent) -> Path | None:
    """The importance matrix that was asked for, made now when that is ``auto``."""
    if wanted != "auto":
        return Path(wanted).expanduser().absolute() if wanted else None
    return make_matrix(model, target, data, None, on_event)


def make_matrix(model: Artifact, target: Path, data: Path | None, out: Path | None, on_event: OnEvent) -> Path:
    """The importance matrix in `out`, by default beside the levels; one that is made of other conversations leaves the run's own alone."""
    from core.data.dataset import import_dataset
    from core.export.gguf import float_file
    from core.export.imatrix import make_imatrix
    from core.running.steps import matrix_of_run

    if not data and not model.run_id:
        raise UserError("There are no conversations to make the importance matrix from.", "--data", "Give --data PATH.")
    run_dir = paths.runs_dir() / (model.run_id or "")
    name = f"imatrix-{data.stem}.gguf" if data and model.run_id else "imatrix.gguf"
    if not out and not data and target == run_dir / "artifacts" and (target / name).is_file():
        return target / name
    out = out or target / name
    artifacts.make_folder(out.parent)
    if out.is_dir():
        raise UserError(f"{out} is a folder.", str(out), f"Name a file, for example {out / name}.")
    source = float_file(model, target, run_id=model.run_id, on_event=on_event)
    if data:
        return make_imatrix(model.folder, source.gguf_path, list(import_dataset(data)), out, on_event=on_event)
    return matrix_of_run(run_dir, model, source, out, on_event=on_event)


def parse_size(text: str, option: str) -> int:
    """``2G``, ``4.5GB``, ``500M``: decimal, as disks and the Hub count."""
    factors = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]?)B?", text.strip().upper())
    if not found or not float(found[1]):
        raise UserError(f"{text!r} is no size.", option, "Write a number with M or G, such as 2G.")
    return int(float(found[1]) * factors[found[2]])


def imatrix(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact id, a model folder, or a Hub id.")],
    data: Annotated[Path | None, typer.Option(help="Conversations to look at; default: what the run was trained on.")] = None,
    out: OutDir = None,
    json: Json = False,
) -> None:
    """Make an importance matrix of a model from conversations; levels of few bits need one, and others gain by it."""
    from core.export.gguf import convertible

    model = convertible(source)
    target = gguf_root(model, None)
    with bars(console(json), "working") as on_event:
        file = make_matrix(model, target, data, out.absolute() if out else None, on_event)
    console(json).print(f"{file} ({size(file.stat().st_size)})", markup=False)
    finish(json, {"path": str(file), "size_bytes": file.stat().st_size})


def levels(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact id, a float .gguf file, a model folder, or a Hub id.")],
    json: Json = False,
) -> None:
    """List every level with the exact size that this model's file would have."""
    from core.export.gguf import convertible, float_file
    from core.export.sizes import find_sizes

    model = convertible(source)
    with bars(console(json), "converting") as on_event:
        file = model if model.kind == "gguf" else float_file(model, gguf_root(model, None), run_id=model.run_id, on_event=on_event)
    sizes = find_sizes(file)
    table = Table("level", "group", "size", "", box=None, pad_edge=False)
    for known in LEVELS:
        if known.name in sizes:
            table.add_row(known.name, known.group, size(sizes[known.name]), "needs an importance matrix" if known.needs_imatrix else "")
    console(json).print(table)
    finish(json, {"path": str(file.gguf_path), "size_bytes": sizes})


def level_table(levels: list[Artifact]) -> Table:
    """Size, quality and speed of each level, whole at 80 columns; empty cells were not measured."""
    headers = (
        "level", "size", "bits/\nweight", "per-\nplexity", "KL to\nf16", "KL,\nworst\n1 %", "same\ntop\ntoken", "tokens\n/s", "prompt\ntokens\n/s",
        "memory",
    )  # fmt: skip
    table = Table(*(Column(header, no_wrap=True) for header in headers), box=None, pad_edge=False, padding=(0, 1, 0, 0))
    formats = {
        "bits_per_weight": ".2f", "perplexity": ".3f", "kl_mean": ".5f", "kl_p99": ".4f", "top1_agreement": ".1%", "tokens_per_s": ".0f",
        "prompt_tokens_per_s": ".0f",
    }  # fmt: skip
    for artifact in levels:
        cells = [format(artifact.measured[name], form) if artifact.measured.get(name) is not None else "" for name, form in formats.items()]
        memory = size(artifact.measured["resident_bytes"]) if artifact.measured.get("resident_bytes") else ""
        table.add_row(artifact.level or artifact.kind, size(artifact.size_bytes), *cells, memory)
    return table


def summary(artifact: Artifact) -> dict[str, Any]:
    """The JSON form of an artifact."""
    path = artifact.gguf_path if artifact.kind == "gguf" else artifact.folder
    known = artifact.id if path.is_relative_to(paths.runs_dir()) else str(path)  # an id names what lies in the workspace, a path the rest
    fields = {"id": known, "kind": artifact.kind, "level": artifact.level, "name": artifact.name, "path": str(path)}
    return fields | {"size_bytes": artifact.size_bytes, "measured": artifact.measured, "proofs": artifact.proofs}


VERBS = {"merge": merge, "gguf": gguf, "levels": levels, "imatrix": imatrix}

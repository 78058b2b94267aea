"""Verbs about artifacts: merge, gguf, measure, prove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core import paths
from core.cli.output import Json, console, finish
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.levels import LEVELS
from core.publish.card import proof_sentences
from core.units import size

Reference = Annotated[str, typer.Argument(metavar="ARTIFACT", help="An artifact id, a model or adapter folder, or a .gguf file.")]
References = Annotated[list[str], typer.Argument(metavar="ARTIFACT", help="Artifact ids, model folders or .gguf files.")]
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
    merged = merge_adapter(adapter, target.absolute())
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
    levels: Annotated[str, typer.Option(help="Comma-separated levels, such as f16,q8_0,q4_0,Q4_K_M.")] = "f16,q8_0,q4_0",
    imatrix: Annotated[str | None, typer.Option(help="An importance matrix (FILE), or auto to make one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Conversations for --imatrix auto; default: what the run was trained on.")] = None,
    split_max_size: Annotated[str, typer.Option(help="Split larger files into parts: 2G, 500M.")] = "48G",
    out: OutDir = None,
    json: Json = False,
) -> None:
    """Convert a model to GGUF and quantise it to the levels asked for; an adapter becomes a GGUF LoRA file."""
    from core.export.gguf import adapter_file, convertible, make_gguf

    model = convertible(source)
    if model.kind == "adapter":
        file = adapter_file(model, out)
        console(json).print(f"{file} ({size(file.stat().st_size)})", markup=False)
        finish(json, {"path": str(file), "size_bytes": file.stat().st_size})
    target = _gguf_root(model, out)
    matrix = _imatrix(model, target, imatrix, data)
    wanted = [level.strip() for level in levels.split(",") if level.strip()]
    made = make_gguf(model, wanted, target, run_id=model.run_id, imatrix=matrix, split_bytes=parse_size(split_max_size))
    console(json).print(level_table(made))
    finish(json, {"artifacts": [summary(artifact) for artifact in made]})


def _gguf_root(model: Artifact, out: Path | None) -> Path:
    """Where the levels of a model lie: beside its run's artifacts, beside its folder, or in the workspace when it is the Hub's."""
    if model.kind != "merged":
        raise UserError(f"{model.name} is a {model.kind} artifact.", model.id, "Give a merged model; `merge` makes one of an adapter.")
    if out:
        return out.absolute()
    if not model.run_id and not Path(model.id).is_dir():
        return paths.home() / "exports" / model.id.replace("/", "--")
    return model.folder.parent if model.run_id else _beside(model, "gguf")


def _imatrix(model: Artifact, target: Path, wanted: str | None, data: Path | None) -> Path | None:
    """The importance matrix that was asked for, made now when that is ``auto``."""
    if wanted != "auto":
        return Path(wanted).expanduser().absolute() if wanted else None
    return make_matrix(model, target, data, target / "imatrix.gguf")


def make_matrix(model: Artifact, target: Path, data: Path | None, out: Path) -> Path:
    from core.data.dataset import import_dataset
    from core.export.gguf import float_file
    from core.export.imatrix import make_imatrix
    from core.training.samples import conversations_of

    if not data and not model.run_id:
        raise UserError("There are no conversations to make the importance matrix from.", "--data", "Give --data PATH.")
    conversations = list(import_dataset(data)) if data else conversations_of(paths.runs_dir() / str(model.run_id))[0]
    source = float_file(model, target, run_id=model.run_id)
    return make_imatrix(model.folder, source.gguf_path, conversations, out)


def parse_size(text: str) -> int:
    """``2G``, ``500M``: decimal, as disks and the Hub count."""
    factors = {"K": 10**3, "M": 10**6, "G": 10**9}
    number, factor = (text[:-1], factors[text[-1:].upper()]) if text[-1:].upper() in factors else (text, 1)
    if not number.isdigit() or not int(number):
        raise UserError(f"{text!r} is no size.", "--split-max-size", "Write a number with M or G, such as 2G.")
    return int(number) * factor


def imatrix(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact id, a model folder, or a Hub id.")],
    data: Annotated[Path | None, typer.Option(help="Conversations to look at; default: what the run was trained on.")] = None,
    out: OutDir = None,
    json: Json = False,
) -> None:
    """Make an importance matrix of a model from conversations; levels of few bits need one, and others gain by it."""
    from core.export.gguf import convertible

    model = convertible(source)
    target = _gguf_root(model, None)
    file = make_matrix(model, target, data, out.absolute() if out else target / "imatrix.gguf")
    console(json).print(f"{file} ({size(file.stat().st_size)})", markup=False)
    finish(json, {"path": str(file), "size_bytes": file.stat().st_size})


def levels(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="An artifact id, a float .gguf file, a model folder, or a Hub id.")],
    json: Json = False,
) -> None:
    """List every level with the exact size that this model's file would have."""
    from core.export.gguf import convertible, float_file
    from core.export.quantise import exact_sizes

    model = convertible(source)
    file = model if model.kind == "gguf" else float_file(model, _gguf_root(model, None), run_id=model.run_id)
    sizes = exact_sizes(file.gguf_path, [known.name for known in LEVELS])
    table = Table("level", "group", "size", "", box=None, pad_edge=False)
    for known in LEVELS:
        if known.name in sizes:
            table.add_row(known.name, known.group, size(sizes[known.name]), "needs an importance matrix" if known.needs_imatrix else "")
    console(json).print(table)
    finish(json, {"path": str(file.gguf_path), "size_bytes": sizes})


def measure(
    sources: References,
    data: Annotated[Path, typer.Option(help="Conversations to measure on, which were not trained on.")],
    reference: Annotated[
        str | None, typer.Option(help="The f16 file that KL and top-1 are against; default: the one among ARTIFACT, or its run's.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure size, perplexity, KL to f16, top-1 agreement and speed of GGUF files."""
    from core.data.dataset import import_dataset
    from core.export.measure import measure as measure_levels

    found = [artifacts.resolve(source) for source in sources]
    if wrong := next((artifact for artifact in found if artifact.kind != "gguf"), None):
        raise UserError(f"{wrong.name} is a {wrong.kind} artifact.", wrong.id, "Measure .gguf files; `gguf` makes them of a merged model.")
    full = artifacts.resolve(reference) if reference else reference_of(found)
    figures = measure_levels(found, full, list(import_dataset(data)))
    measured = [artifact.model_copy(update={"measured": artifact.measured | figures[artifact.id]}) for artifact in found]
    console(json).print(level_table(measured))
    finish(json, {"reference": full.id, "levels": [summary(artifact) for artifact in measured]})


def reference_of(found: list[Artifact]) -> Artifact:
    """The f16 file among `found`, else the one of the same run, else the first."""
    for artifact in found:
        if (artifact.level or "").lower() in ("f16", "bf16", "f32"):
            return artifact
    beside = found[0].folder.parent / "gguf-f16"
    return artifacts.read(beside) if (beside / artifacts.MANIFEST).is_file() else found[0]


def prove(source: Reference, data: Annotated[Path | None, typer.Option(help="Conversations to compare on; default: the starter's.")] = None,
          json: Json = False) -> None:  # fmt: skip
    """Prove that merged model and f16 GGUF say what the trained adapter says."""
    from core.data.dataset import import_dataset
    from core.export.prove import prove as prove_model
    from core.export.prove import prove_run
    from core.running import runs
    from core.training.samples import conversations_of

    artifact = artifacts.resolve(source)
    if artifact.run_id:
        run_dir = runs.folder(artifact.run_id)
        train, held_out = conversations_of(run_dir)
        conversations = list(import_dataset(data)) if data else (held_out or train[:64])
        proofs = prove_run(run_dir / "artifacts", runs.recipe_of(artifact.run_id), conversations)
    else:
        if artifact.kind != "merged":
            raise UserError(
                f"{source} belongs to no run, so nothing says what it was made of.",
                source,
                "Give a merged model folder, or an artifact's id.",
            )
        conversations = list(import_dataset(data or paths.EXAMPLES / "identity_eval.json"))
        proofs = prove_model(artifact, None, None, conversations)
    out = console(json)
    for sentence in proof_sentences(proofs):
        out.print(sentence, markup=False)
    finish(json, proofs, 0 if proofs["passed"] else 1)


def level_table(levels: list[Artifact]) -> Table:
    """Size, quality and speed of each level; empty cells were not measured."""
    table = Table("level", "size", "bits/weight", "perplexity", "KL to f16", "same top token", "tokens/s", box=None, pad_edge=False)
    formats = {"bits_per_weight": ".2f", "perplexity": ".3f", "kl_mean": ".5f", "top1_agreement": ".1%", "tokens_per_s": ".0f"}
    for artifact in levels:
        cells = [format(artifact.measured[name], form) if artifact.measured.get(name) is not None else "" for name, form in formats.items()]
        table.add_row(artifact.level or artifact.kind, size(artifact.size_bytes), *cells)
    return table


def summary(artifact: Artifact) -> dict[str, Any]:
    """The JSON form of an artifact."""
    path = artifact.gguf_path if artifact.kind == "gguf" else artifact.folder
    known = artifact.id if path.is_relative_to(paths.runs_dir()) else str(path)  # an id names what lies in the workspace, a path the rest
    fields = {"id": known, "kind": artifact.kind, "level": artifact.level, "name": artifact.name, "path": str(path)}
    return fields | {"size_bytes": artifact.size_bytes, "measured": artifact.measured, "proofs": artifact.proofs}


VERBS = {"merge": merge, "gguf": gguf, "levels": levels, "imatrix": imatrix, "measure": measure, "prove": prove}

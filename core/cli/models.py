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
    source: Reference,
    levels: Annotated[str, typer.Option(help="Comma-separated levels, such as f16,q8_0,q4_0,Q4_K_M.")] = "f16,q8_0,q4_0",
    out: OutDir = None,
    json: Json = False,
) -> None:
    """Convert a merged model to GGUF and quantise it to the levels asked for."""
    from core.export.gguf import make_gguf

    model = artifacts.resolve(source)
    if model.kind != "merged":
        raise UserError(f"{source} is a {model.kind} artifact.", source, "Convert a merged model; `merge` makes one of an adapter.")
    target = out.absolute() if out else (model.folder.parent if model.run_id else _beside(model, "gguf"))
    made = make_gguf(model, [level.strip() for level in levels.split(",") if level.strip()], target, run_id=model.run_id)
    console(json).print(level_table(made))
    finish(json, {"artifacts": [summary(artifact) for artifact in made]})


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


VERBS = {"merge": merge, "gguf": gguf, "measure": measure, "prove": prove}

"""Verbs that say how good a model is: measure, pick, prove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from core import paths
from core.cli.bars import bars
from core.cli.models import gguf_root, level_table, parse_size, summary
from core.cli.output import Json, console, finish
from core.conversation import Conversation
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.publish.card import proof_sentences

Reference = Annotated[str, typer.Argument(metavar="ARTIFACT", help="An artifact id, a model or adapter folder, or a .gguf file.")]
References = Annotated[list[str], typer.Argument(metavar="ARTIFACT", help="Artifact ids, model folders or .gguf files.")]


def measure(
    sources: References,
    data: Annotated[
        Path | None, typer.Option(help="Conversations to measure on, which were not trained on; default: those that the run set aside.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A plain text to measure on instead, as llama-perplexity does.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The f16 file that KL and top-1 are against; default: the one of ARTIFACT's run, or among them.")
    ] = None,
    json: Json = False,
) -> None:
    """Measure size, perplexity, KL to f16, top-1 agreement and speed of GGUF files."""
    from core.export.measure import measure as measure_levels

    if data is not None and text is not None:
        raise _one_thing()
    found = [artifacts.resolve(source) for source in sources]
    if wrong := next((artifact for artifact in found if artifact.kind != "gguf"), None):
        raise UserError(f"{wrong.name} is a {wrong.kind} artifact.", wrong.id, "Measure .gguf files; `gguf` makes them of a merged model.")
    full = artifacts.resolve(reference) if reference else reference_of(found)
    if full is None:
        raise UserError(
            "There is no f16 file beside it that KL and top-1 could be against.",
            found[0].id,
            "Name it: --reference FILE; `gguf` makes one.",
        )
    conversations, max_length = ([], None) if text else _measured_on(found, data)
    with bars(console(json), "measuring") as on_event:
        figures = measure_levels(
            found, full, conversations, text=_read_text(text) if text else None, max_length=max_length, on_event=on_event
        )
    measured = [artifact.model_copy(update={"measured": artifact.measured | figures[artifact.id]}) for artifact in found]
    console(json).print(level_table(measured))
    finish(json, {"reference": full.id, "levels": [summary(artifact) for artifact in measured]})


def _one_thing() -> UserError:
    return UserError("There must be one thing to measure on.", "--data or --text", "Give --data CONVERSATIONS or --text FILE.")


def _measured_on(found: list[Artifact], data: Path | None) -> tuple[list[Conversation], int | None]:
    """Conversations, and after how many tokens they are cut: by default what the run set aside, cut as its own step cuts it.

    Raises:
        UserError: nothing is named, and the levels are not those of one run of this machine.
    """
    from core.data.dataset import import_dataset
    from core.running import runs
    from core.training.samples import conversations_of

    if data:
        return list(import_dataset(data)), None
    run_id = found[0].run_id
    if not run_id or any(artifact.run_id != run_id for artifact in found):
        raise _one_thing()
    return conversations_of(runs.folder(run_id))[1], runs.recipe_of(run_id).max_length


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as text: {error}.", "--text", "Give a UTF-8 text file.") from None


def pick(
    sources: Annotated[list[str], typer.Argument(metavar="RUN|ARTIFACT", help="A run id, or measured .gguf files and artifact ids.")],
    at_most: Annotated[str | None, typer.Option(help="The best level whose file is no larger: 4G, 500M.")] = None,
    at_least: Annotated[float | None, typer.Option(min=0, max=100, help="The smallest that picks f16's top token so often, in %.")] = None,
    json: Json = False,
) -> None:
    """Say which measured level to take: for a size, for a quality, or by default for this machine's free memory."""
    from core.export import ladder
    from core.export.native_support import free_bytes

    if at_most is not None and at_least is not None:
        raise UserError("One question at a time.", "--at-most and --at-least", "Give one of the two.")
    levels = [level for source in sources for level in _levels_of(source)]
    if not any(map(ladder.is_measured, levels)):
        raise UserError("No level has been measured yet.", " ".join(sources), "Measure them first: python -m core measure.")
    if at_most is not None:
        found = ladder.best_within(levels, parse_size(at_most, "--at-most"))
    elif at_least is not None:
        found = ladder.smallest_with(levels, at_least / 100)
    else:
        found = ladder.best_in_memory(levels, free_bytes())
    if found is None:
        raise UserError("No measured level fits.", " ".join(sources), "Allow more, or quantise a smaller level.", code="NONE")
    console(json).print(" ".join(ladder.advice(found)), markup=False)
    finish(json, summary(found))


def _levels_of(source: str) -> list[Artifact]:
    """The levels of a run, or the one that is named."""
    if paths.ID_PATTERN.fullmatch(source) and (paths.runs_dir() / source).is_dir():
        return [artifact for artifact in artifacts.of_run(paths.runs_dir() / source) if artifact.kind == "gguf"]
    return [artifacts.resolve(source)]


def reference_of(found: list[Artifact]) -> Artifact | None:
    """The float file beside the first, which its run compares with; else the first such one among `found`."""
    from core.export.gguf import FLOAT_LEVELS, reference_in

    among = (artifact for name in FLOAT_LEVELS for artifact in found if (artifact.level or "").lower() == name)
    return reference_in(found[0].folder.parent) or next(among, None)


def prove(source: Reference, data: Annotated[Path | None, typer.Option(help="Conversations to compare on; default: the starter's.")] = None,
          json: Json = False) -> None:  # fmt: skip
    """Prove that merged model and f16 GGUF say what the trained adapter says."""
    from core.data.dataset import import_dataset
    from core.export.prove import prove_lone, prove_run
    from core.running import runs
    from core.training.samples import conversations_of

    artifact = artifacts.resolve(source)
    if artifact.run_id:
        run_dir = runs.folder(artifact.run_id)
        train, held_out = conversations_of(run_dir)
        conversations = list(import_dataset(data)) if data else (held_out or train[:64])
        elsewhere = None if artifact.folder.resolve().is_relative_to(run_dir.resolve()) else artifact
        if elsewhere and elsewhere.kind != "merged":
            raise UserError(f"{source} lies outside its run.", source, "Give the merged model it belongs to, or an artifact's id.")
        with bars(console(json), "proving") as on_event:
            proofs = prove_run(
                run_dir / "artifacts", runs.recipe_of(artifact.run_id), conversations, on_event=on_event, elsewhere=elsewhere
            )
    else:
        merged, root = _model_of(artifact)
        conversations = list(import_dataset(data or paths.EXAMPLES / "identity_eval.json"))
        with bars(console(json), "proving") as on_event:
            proofs = prove_lone(merged, root, conversations, on_event=on_event)
    out = console(json)
    for sentence in proof_sentences(proofs):
        out.print(sentence, markup=False)
    finish(json, proofs, 0 if proofs["passed"] else 1)


def _model_of(artifact: Artifact) -> tuple[Artifact, Path]:
    """The model that a merged model of no run is, or that a GGUF file was made of; and where its GGUF files lie.

    Raises:
        UserError: nothing says what it was made of.
    """
    from core.export.gguf import convertible, reference_in

    if artifact.kind == "merged":
        return artifact, gguf_root(artifact, None)
    root = artifact.folder.parent
    source = reference_in(root) if artifact.made_from else None
    if source is None or not source.parent_id:
        remedy = "Give a merged model folder, or an artifact's id."
        raise UserError(f"{artifact.id} belongs to no run, so nothing says what it was made of.", artifact.id, remedy)
    return convertible(source.parent_id), root


VERBS = {"measure": measure, "pick": pick, "prove": prove}

"""The steps of a run after training. Each is idempotent: it is done when its artifact or its figures are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import events
from core.export import artifacts
from core.export.artifacts import Artifact
from core.running.runs import LOG
from core.training.recipe import load as load_recipe
from core.training.samples import conversations_of


def is_done(run_dir: Path, step: str) -> bool:
    recipe = load_recipe(run_dir / "recipe.yaml")
    made = {artifact.folder.name for artifact in artifacts.of_run(run_dir)}
    match step:
        case "train":
            return ("adapter" if recipe.is_adapter else "merged") in made
        case "merge":
            return "merged" in made
        case _:
            return False  # gguf, measure and prove skip by themselves what is there


def merge(run_dir: Path) -> None:
    from core.export.merge import merge_adapter

    adapter = artifacts.read(run_dir / "artifacts" / "adapter")
    announce(run_dir, merge_adapter(adapter, run_dir / "artifacts" / "merged", log=run_dir / LOG, on_event=progress(run_dir, "merge")))


def gguf(run_dir: Path) -> None:
    from core.export.gguf import make_gguf

    levels = [*load_recipe(run_dir / "recipe.yaml").levels, *events.fold(events.read(run_dir)).more_levels]
    merged = artifacts.read(run_dir / "artifacts" / "merged")
    made = make_gguf(merged, levels, run_dir / "artifacts", run_id=run_dir.name, log=run_dir / LOG, on_event=progress(run_dir, "gguf"))
    for artifact in made:
        announce(run_dir, artifact)


def measure(run_dir: Path) -> None:
    from core.export.measure import measure as measure_levels

    _, conversations = conversations_of(run_dir)
    if not conversations:
        events.append(run_dir, "note", text="Nothing was measured: the recipe sets no conversations aside (eval_fraction is 0).")
        return
    levels = [artifact for artifact in artifacts.of_run(run_dir) if artifact.kind == "gguf"]
    reference = artifacts.read(run_dir / "artifacts" / "gguf-f16")
    max_length = load_recipe(run_dir / "recipe.yaml").max_length
    measure_levels(levels, reference, conversations, max_length=max_length, log=run_dir / LOG, on_event=progress(run_dir, "measure"))


def prove(run_dir: Path) -> None:
    from core.export.prove import prove_run

    recipe = load_recipe(run_dir / "recipe.yaml")
    train_conversations, eval_conversations = conversations_of(run_dir)
    conversations = eval_conversations or train_conversations[:64]
    proofs = prove_run(run_dir / "artifacts", recipe, conversations, run_dir / LOG)
    events.append(run_dir, "facts", facts={"proofs": proofs})


DO: dict[str, Callable[[Path], None]] = {"merge": merge, "gguf": gguf, "measure": measure, "prove": prove}


def announce(run_dir: Path, artifact: Artifact) -> None:
    folder = artifact.folder
    path = artifact.gguf_path if artifact.kind == "gguf" else folder
    events.append(run_dir, "artifact", id=artifact.id, kind_of=artifact.kind, path=path.relative_to(run_dir).as_posix())


def progress(run_dir: Path, step: str) -> Callable[[dict[str, Any]], None]:
    """A callback that writes a child's progress messages into the run's events."""

    def on_event(message: dict[str, Any]) -> None:
        events.append(run_dir, "progress", **({key: value for key, value in message.items() if key != "event"} | {"step": step}))

    return on_event

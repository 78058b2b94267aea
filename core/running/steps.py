"""The steps of a run after training. Each is idempotent: it is done when its artifact or its figures are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import events, paths
from core.errors import UserError
from core.events import Run
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.jobs import OnEvent
from core.export.levels import Level, parse_levels
from core.running.runs import LOG
from core.training.models import ModelRef, check_folder
from core.training.recipe import Recipe
from core.training.recipe import load as load_recipe
from core.training.samples import conversations_of


def is_done(run_dir: Path, step: str) -> bool:
    recipe = load_recipe(run_dir / "recipe.yaml")
    made = {artifact.folder.name for artifact in artifacts.of_run(run_dir)}
    match step:
        case "train":
            return ("adapter" if recipe.is_adapter else "merged") in made
        case "merge" | "take":
            return "merged" in made
        case _:
            return False  # gguf, measure and prove skip by themselves what is there


def take(run_dir: Path) -> None:
    from core.export import taking

    model: dict[str, Any] = paths.read_json(run_dir / "launch.json")["model"]
    (run_dir / "artifacts").mkdir(exist_ok=True)
    name = load_recipe(run_dir / "recipe.yaml").name
    known = ModelRef(model["name"], check_folder(Path(model["path"])), model["revision"])
    announce(run_dir, taking.take(known, name, run_dir / "artifacts" / "merged", run_dir.name))


def merge(run_dir: Path) -> None:
    from core.export.merge import merge_adapter

    adapter = artifacts.read(run_dir / "artifacts" / "adapter")
    announce(run_dir, merge_adapter(adapter, run_dir / "artifacts" / "merged", log=run_dir / LOG, on_event=progress(run_dir, "merge")))


def gguf(run_dir: Path) -> None:
    from core.export.gguf import make_gguf, reference_in
    from core.export.sizes import find_sizes

    run = events.fold(events.read(run_dir))
    batches: dict[tuple[bool, str | None], list[str]] = {}
    for level in wanted_levels(load_recipe(run_dir / "recipe.yaml"), run):
        batches.setdefault((level.is_guided, run.intermediates.get(level.name)), []).append(level.name)
    merged = artifacts.read(run_dir / "artifacts" / "merged")
    for (is_guided, intermediate), names in batches.items():
        made = make_gguf(
            merged,
            names,
            run_dir / "artifacts",
            run_id=run_dir.name,
            intermediate=intermediate,
            imatrix=importance(run_dir, merged) if is_guided else None,
            log=run_dir / LOG,
            on_event=progress(run_dir, "gguf"),
        )
        for artifact in made:
            announce(run_dir, artifact)
    if source := reference_in(run_dir / "artifacts"):
        find_sizes(source, log=run_dir / LOG)  # so that the page can say what further levels would take


def wanted_levels(recipe: Recipe, run: Run) -> list[Level]:
    """The levels that the recipe or the page asked for, in the order in which they are made: guided ones last, for they take longest."""
    return sorted(parse_levels([*recipe.levels, *run.more_levels]), key=lambda level: level.is_guided)


def importance(run_dir: Path, merged: Artifact) -> Path:
    """The run's importance matrix, from what it was trained on; made when the first level asks for it."""
    from core.export.gguf import float_file

    out = run_dir / "artifacts" / "imatrix.gguf"
    if not out.is_file():
        log, on_event = run_dir / LOG, progress(run_dir, "gguf")
        source = float_file(merged, run_dir / "artifacts", run_id=run_dir.name, log=log, on_event=on_event)
        matrix_of_run(run_dir, merged, source, out, log=log, on_event=on_event)
    return out


def matrix_of_run(
    run_dir: Path, merged: Artifact, source: Artifact, out: Path, *, log: Path | None = None, on_event: OnEvent | None = None
) -> Path:
    """Write to `out` the importance matrix of `merged`, whose float file is `source`, from what the run trains on, cut as it was there."""
    from core.export.imatrix import make_imatrix

    conversations, _ = conversations_of(run_dir)
    max_length = load_recipe(run_dir / "recipe.yaml").max_length
    return make_imatrix(merged.folder, source.gguf_path, conversations, out, max_length=max_length, log=log, on_event=on_event)


def measure(run_dir: Path) -> None:
    from core.export.gguf import reference_in
    from core.export.measure import measure as measure_levels

    if not _can_chat(run_dir, "measured on conversations; the Models tab measures on a text"):
        return
    _, conversations = conversations_of(run_dir)
    if not conversations:
        events.append(run_dir, "note", text="Nothing was measured: the recipe sets no conversations aside (eval_fraction is 0).")
        return
    levels = [artifact for artifact in artifacts.of_run(run_dir) if artifact.kind == "gguf"]
    reference = reference_in(run_dir / "artifacts") or levels[0]
    max_length = load_recipe(run_dir / "recipe.yaml").max_length
    measure_levels(levels, reference, conversations, max_length=max_length, log=run_dir / LOG, on_event=progress(run_dir, "measure"))


def prove(run_dir: Path) -> None:
    from core.export.prove import prove_run

    if not _can_chat(run_dir, "proved"):
        return
    recipe = load_recipe(run_dir / "recipe.yaml")
    train_conversations, eval_conversations = conversations_of(run_dir)
    conversations = eval_conversations or train_conversations[:64]
    try:
        proofs = prove_run(run_dir / "artifacts", recipe, conversations, run_dir / LOG, progress(run_dir, "prove"))
    except UserError as error:
        if error.code not in ("MEMORY", "EMPTY"):
            raise
        events.append(run_dir, "note", text=f"Nothing was proved. {error.problem} {error.remedy}")
    else:
        events.append(run_dir, "facts", facts={"proofs": proofs})


def _can_chat(run_dir: Path, what: str) -> bool:
    """Whether the model has a chat template; a base model that was taken in may have none, and then nothing is `what`."""
    run = events.fold(events.read(run_dir))
    if not run.is_taken or (run_dir / "artifacts" / "merged" / "chat_template.jinja").is_file():
        return True
    events.append(run_dir, "note", text=f"Nothing was {what}: the model has no chat template.")
    return False


DO: dict[str, Callable[[Path], None]] = {"take": take, "merge": merge, "gguf": gguf, "measure": measure, "prove": prove}


def announce(run_dir: Path, artifact: Artifact) -> None:
    folder = artifact.folder
    path = artifact.gguf_path if artifact.kind == "gguf" else folder
    events.append(run_dir, "artifact", id=artifact.id, kind_of=artifact.kind, path=path.relative_to(run_dir).as_posix())


def progress(run_dir: Path, step: str) -> Callable[[dict[str, Any]], None]:
    """A callback that writes a child's progress messages into the run's events."""

    def on_event(message: dict[str, Any]) -> None:
        events.append(run_dir, "progress", **({key: value for key, value in message.items() if key != "event"} | {"step": step}))

    return on_event

"""What a run that ran out of memory is changed in so that it can go on: the smallest change that fits what was measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import events, paths
from core.data.dataset import open_dataset
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.events import Run
from core.training import fits, forecast
from core.training.architecture import read_config
from core.training.estimate import predicted
from core.training.fits import Change
from core.training.hardware import Hardware
from core.training.recipe import load as load_recipe
from core.training.shapes import shapes
from core.training.workload import of_dataset

if TYPE_CHECKING:
    from core.data.dataset import Dataset

SPARE = 0.95  # of what was held when memory ran out, or of what was expected: the change has to stay below
# Changes that leave weights and optimizer as they are, so that training goes on from its newest checkpoint.
IN_PLACE = frozenset({"micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "max_length"})


def is_in_place(knobs: dict[str, Any]) -> bool:
    """Whether a run can go on with these changed, and needs not begin anew."""
    return bool(knobs) and knobs.keys() <= IN_PLACE


def change_for(run_dir: Path) -> Change | None:
    """The smallest change with which the run would fit, one that it can go on with before any other; None where none is known to help.

    It must stay below what the process held when memory ran out, and below what was expected of the recipe, which was too little.
    """
    launch = paths.read_json(run_dir / "launch.json")
    if not launch.get("estimate") or events.fold(events.read(run_dir)).stage != "train":
        return None
    try:
        recipe = load_recipe(run_dir / "recipe.yaml")
        recipe = recipe.model_copy(update={"accelerate_config": launch["estimate"]["accelerate_config"]})
        train, held_out = _data(run_dir)
        model = shapes(read_config(Path(launch["model"]["path"])))
        work = of_dataset(train, load_tokenizer(run_dir / "tokenizer"), recipe, held_out)
    except UserError:  # the data or the model is gone
        return None
    hardware = Hardware.from_dict(launch["hardware"])
    expected = forecast.of_shapes(recipe, model, hardware, work)
    held_bytes = _held(run_dir)
    below = SPARE * min(expected.peak_bytes, held_bytes + expected.memory.uncounted_bytes if held_bytes else math.inf)
    return fits.smallest_change(recipe, model, hardware, work, below, IN_PLACE) or fits.smallest_change(
        recipe, model, hardware, work, below
    )


def _data(run_dir: Path) -> tuple[Dataset, Dataset | None]:
    """What the run trains on, and what it is measured on where that is a dataset of its own."""
    known = paths.read_json(run_dir / "dataset.json")
    return open_dataset(known["train"]["id"]), open_dataset(known["eval"]["id"]) if "eval" in known else None


def _held(run_dir: Path) -> float:
    """The most that a process of the last attempt held when memory ran out; 0 where the kernel ended it before it could tell."""
    held = 0.0
    for event in events.read(run_dir):
        held = 0.0 if event["kind"] == "started" else max(held, float(event.get("held_bytes", 0)))
    return held


def told(error: UserError, change: Change) -> UserError:
    """`error` with the change as its remedy."""
    how = "`resume RUN --fit` goes on with that." if is_in_place(change.knobs) else "Start a new run of its recipe with that."
    return UserError(error.problem, error.where, f"It fits with {fits.assignments(change.knobs)}. {change.said} {how}", code=error.code)


def apply(run_dir: Path, run: Run) -> None:
    """Write the change that `run` was offered into its recipe, from which its next attempt begins.

    Raises:
        UserError: it was offered none, or one that it cannot go on with.
    """
    knobs: dict[str, Any] = run.change.get("knobs") or {}
    if not is_in_place(knobs):
        problem = (
            f"Run {run.run_id} cannot go on with {fits.assignments(knobs)}."
            if knobs
            else f"No change is known that makes {run.run_id} fit."
        )
        raise UserError(problem, run.run_id, "Resume it as it is, or start a new run from its recipe.yaml with a smaller setting.")
    recipe = load_recipe(run_dir / "recipe.yaml").model_copy(update=knobs)
    launch = paths.read_json(run_dir / "launch.json")
    hardware, (train, held_out) = Hardware.from_dict(launch["hardware"]), _data(run_dir)
    estimate = predicted(recipe, Path(launch["model"]["path"]), hardware, train, held_out, load_tokenizer(run_dir / "tokenizer"))
    paths.write_text(run_dir / "recipe.yaml", recipe.to_yaml())
    paths.write_json(run_dir / "launch.json", launch | {"estimate": estimate})
    events.append(run_dir, "note", text=f"Goes on with {fits.assignments(knobs)}: memory ran out before.")

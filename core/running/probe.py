"""A probe: twenty real steps of a recipe with the real worker, in the queue like any run, for its true peak and speed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from core import events
from core.errors import UserError
from core.running import care, runs
from core.training.recipe import Recipe

STEPS = 20
SUFFIX = "-probe"  # of its run's name
WARM_STEPS = 3  # the first ones allocate, and are left out of the speed


@dataclass(frozen=True)
class Probe:
    """What twenty steps took. `longest_first` is true where the longest rows were among them."""

    run_id: str
    peak_bytes: int
    phases: dict[str, int]
    step_s: float  # median of the steps after the first ones
    longest_first: bool

    def as_dict(self) -> dict[str, Any]:
        return {"peak_bytes": self.peak_bytes, "phases": self.phases, "step_s": round(self.step_s, 4), "longest_first": self.longest_first}


def recipe_of(recipe: Recipe) -> Recipe:
    """The recipe of the probe: the same steps, at most `STEPS` of them, without checkpoints, levels, questions and publication.

    Unless rows are packed, which makes them equally long, they are grouped by length: the trainer then begins with the longest.
    """
    return recipe.model_copy(
        update={
            "name": f"{recipe.name[:50]}{SUFFIX}",
            "max_steps": min(STEPS, recipe.max_steps) if recipe.max_steps else STEPS,
            "group_by_length": not recipe.packing,
            "save_steps": 0,
            "eval_steps": 0,
            "early_stopping_patience": 0,
            "logging_steps": 1,
            "levels": (),
            "sample_prompts": "",
            "publish_to": "",
            "report_to": "none",
        }
    )


def begin(recipe: Recipe, token: str | None = None) -> str:
    """Create and start the probe's run, which only trains; returns its id."""
    run_id = runs.create(recipe_of(recipe), token=token, steps=("train",))
    runs.start(run_id)
    return run_id


def result(run_id: str) -> Probe:
    """What a probe took. Its run is removed; its peak stays among the measured ones.

    Raises:
        UserError: it is no probe, or did not reach its end; the run is kept, with its log.
    """
    run = runs.load(run_id)
    if not run.name.endswith(SUFFIX):
        raise UserError(f"{run_id} is no probe.", run_id, "Start one with `estimate --probe`.")
    if run.state != "done":
        if run.error:
            raise UserError.from_dict(run.error)
        raise UserError(f"The probe {run_id} is {run.state}.", run_id, "Start it again.")
    times = [event["t"] for event in events.read(runs.folder(run_id)) if event["kind"] == "train_log"]
    gaps = [after - before for before, after in pairwise(times)]
    phases: dict[str, int] = run.facts["memory_bytes"]
    step_s = statistics.median(gaps[WARM_STEPS:] or gaps or [run.facts["train_s"]])
    packs = runs.recipe_of(run_id).packing
    care.delete(run_id)
    return Probe(run_id, max(phases.values()), phases, step_s, longest_first=not packs)

"""A run without a training: a model from elsewhere is taken in as it is, then converted, quantised, measured and proved like one made here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from core import events, paths
from core.data.dataset import take_data
from core.errors import UserError
from core.export.levels import parse_levels
from core.running import runs
from core.training import models
from core.training.architecture import read_config
from core.training.hardware import detect
from core.training.recipe import Recipe

LONGEST = 2048  # tokens of a conversation that is measured on
LONGEST_NAME = 60  # characters


def recipe_of(reference: str, levels: Sequence[str], dataset: str, revision: str | None = None) -> Recipe:
    """What `create` is given.

    Args:
        reference: a Hub id, a model folder, an artifact's id, or ``starter``.
        levels: what to quantise to; see `core.export.levels`.
        dataset: the conversations that levels are measured, and importance matrices made, on.
        revision: commit, tag or branch of a Hub model.

    Raises:
        UserError: nothing is named, or no such level.
    """
    if not reference.strip():
        raise UserError("No model is named.", "the model", "Give a Hub id such as lmsys/vicuna-7b-v1.5, or the folder of a model.")
    if not (wanted := parse_levels(levels)):
        raise UserError("No level is named.", "levels", "Choose at least one, for example Q4_K_M.")
    return Recipe(
        name=re.sub(r"[^\w.-]+", "-", reference.strip().rstrip("/").rpartition("/")[2]).strip("-.")[:LONGEST_NAME] or "Model",
        base_model=reference.strip(),
        base_revision=revision,
        method="fft",  # the nearest word: the whole model, no adapter; the run itself says that nothing was trained
        dataset=dataset,
        eval_dataset=dataset,
        levels=tuple(level.name for level in wanted),
    )


def create(recipe: Recipe, token: str | None = None, owner: str = "") -> str:
    """Write the folder of a new run and return its id; a Hub model is fetched here, with the caller's token. Nothing starts yet.

    Raises:
        UserError: no such model, one that would need code of its own, or no conversations.
    """
    data = runs.dataset_entry(take_data(recipe.dataset))
    model = models.resolve(recipe.base_model, recipe.base_revision, token)
    positions = read_config(model.path).get("max_position_embeddings")
    max_length = min(LONGEST, positions) if isinstance(positions, int) else LONGEST
    recipe = recipe.model_copy(update={"base_revision": model.revision, "max_length": max_length})
    run_id = paths.new_run_id()
    run_dir = paths.runs_dir() / run_id
    run_dir.mkdir(parents=True)
    paths.write_text(run_dir / "recipe.yaml", recipe.to_yaml())
    paths.write_json(run_dir / "dataset.json", {"train": data, "eval": data})
    known = {"name": model.name, "path": str(model.path), "revision": model.revision}
    paths.write_json(run_dir / "launch.json", {"device": "gpu" if detect().gpus else "cpu", "model": known})
    steps = runs.plan(recipe, is_taken=True)
    events.append(run_dir, "created", run_id=run_id, name=recipe.name, method=events.TAKEN, steps=steps, owner=owner)
    return run_id

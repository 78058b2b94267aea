"""What a recipe would make of a dataset, before anything is started: how long it takes, and what it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.data.audit import audit, launch_note
from core.data.dataset import Dataset
from core.data.encode import RowEncoder
from core.data.measures import OnProgress, is_measured, measure
from core.data.render import IGNORED
from core.data.statistics import estimated_steps
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError
from core.process import call_child
from core.training import forecast, measured, workload
from core.training.architecture import read_config
from core.training.hardware import Hardware, detect
from core.training.launch import Node
from core.training.models import ModelRef
from core.training.recipe import Recipe
from core.training.setting import Precision, precision_of
from core.training.shapes import shapes as of_config

AUDITED_AT_ONCE = 10_000  # conversations, a few seconds; more are audited in a child, and only for somebody who waits for it


def left_out(dataset: Dataset, tokenizer: ChatTokenizer, recipe: Recipe, model: ModelRef, on_progress: OnProgress | None = None) -> str:
    """One sentence that names how many conversations carry no loss and why; empty when every one does.

    Args:
        on_progress: hears how far the audit of a large dataset is. Without it one that was not measured before is only looked at
            up to the first conversation with loss.

    Raises:
        UserError: none of them carries any loss (code ZERO_LOSS), or the template refuses some (code TEMPLATE).
    """
    is_large = len(dataset) > AUDITED_AT_ONCE and not is_measured(dataset, tokenizer, recipe.max_length, recipe.loss_on)
    if is_large and on_progress:
        _measure_in_a_child(dataset, recipe, model, on_progress)
    if not is_large or is_measured(dataset, tokenizer, recipe.max_length, recipe.loss_on):
        return launch_note(audit(dataset, tokenizer, recipe.max_length, recipe.loss_on), dataset.name)
    encoder = RowEncoder(tokenizer, recipe.max_length, recipe.loss_on)
    for conversation in dataset:
        try:
            if (encoder.row(conversation).labels[1:] != IGNORED).any():
                return ""
        except UserError:
            continue
    return launch_note(audit(dataset, tokenizer, recipe.max_length, recipe.loss_on), dataset.name)


def _measure_in_a_child(dataset: Dataset, recipe: Recipe, model: ModelRef, on_progress: OnProgress) -> None:
    payload = {
        "dataset": dataset.id, "recipe": recipe.model_dump(mode="json"), "model": model.name, "path": str(model.path),
    }  # fmt: skip
    step = f"Looking at the {len(dataset):,} conversations of {dataset.name}"
    call_child("core.training.audit_child", payload, step=step, on_event=lambda heard: on_progress(heard["done"], heard["total"]))


def steps(dataset: Dataset, tokenizer: ChatTokenizer, recipe: Recipe, hardware: Hardware | None = None) -> int:
    """About how many optimizer steps `recipe` takes on `dataset`, packing and the share set aside taken into account."""
    processes = recipe.num_processes or max(1, len((hardware or detect()).gpus))
    return estimated_steps(
        measure(dataset, tokenizer, recipe.max_length, recipe.loss_on),
        recipe.max_length,
        packing=recipe.packing,
        eval_fraction=0.0 if recipe.eval_dataset else recipe.eval_fraction,
        batch_rows=recipe.micro_batch_size * recipe.gradient_accumulation_steps * processes,
        epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps,
    )


def precision(recipe: Recipe, model: Path, hardware: Hardware, node: Node | None = None) -> Precision:
    """What the recipe's precision comes to with this model; several machines share what every CPU has, float32."""
    try:
        weights = of_config(read_config(model)).total if node is None else 0
    except UserError:
        weights = 0  # of unknown make
    return precision_of(recipe, hardware, weights)


def predicted(
    recipe: Recipe, model: Path, hardware: Hardware, dataset: Dataset, evaluated: Dataset | None, tokenizer: ChatTokenizer
) -> dict[str, Any] | None:
    """What a run is expected to take, uncorrected, to be kept beside what it then takes; None for a model of unknown make.

    A GPU's memory is without the CUDA context, which no measurement has in it.
    """
    try:
        shapes = of_config(read_config(model))
        found = forecast.of_shapes(recipe, shapes, hardware, workload.of_dataset(dataset, tokenizer, recipe, evaluated))
    except UserError:
        return None
    time = found.duration
    return {
        "machine": measured.machine(hardware),
        "method": recipe.method,
        "peak_bytes": round(found.memory.measurable_bytes),
        "accelerate_config": found.accelerate_config,
        "disk": found.disk,
        "checkpoint_bytes": round(forecast.checkpoint_bytes(recipe, shapes)),
        "train_s": round(time.train_s + time.evaluate_s, 2),
    }

"""How long a recipe is for a dataset, before anything is started."""

from __future__ import annotations

from core.data.dataset import Dataset
from core.data.measures import measure
from core.data.statistics import estimated_steps
from core.data.tokenizer import ChatTokenizer
from core.training.hardware import Hardware, detect
from core.training.recipe import Recipe


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

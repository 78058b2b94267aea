"""The child that looks at every conversation of a large dataset before a run starts; see `core.training.estimate.left_out`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.data.dataset import open_dataset
from core.data.measures import measure
from core.training.models import ModelRef
from core.training.prepare import tokenizer_of
from core.training.recipe import Recipe


def handle(payload: dict[str, Any], emit: Emit) -> None:
    recipe = Recipe.model_validate(payload["recipe"])
    tokenizer = tokenizer_of(recipe, ModelRef(payload["model"], Path(payload["path"])))

    def tell(done: int, total: int) -> None:
        emit({"event": "progress", "done": done, "total": total})

    measure(open_dataset(payload["dataset"]), tokenizer, recipe.max_length, recipe.loss_on, tell)


if __name__ == "__main__":
    serve(handle)

"""What a run trains and measures on: its conversations, and the token rows made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import paths
from core.conversation import Conversation
from core.training.recipe import Recipe
from core.training.recipe import load as load_recipe

Row = dict[str, list[int]]  # {"input_ids": (T,), "labels": (T,), -100 where no loss}


def conversations_of(run_dir: Path) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations that the run trains on, and those it never trains on."""
    from core.data.dataset import open_dataset
    from core.data.split import split

    recipe = load_recipe(run_dir / "recipe.yaml")
    data: dict[str, Any] = paths.read_json(run_dir / "dataset.json")
    train = open_dataset(data["train"]["id"])
    if "eval" in data:
        return list(train), list(open_dataset(data["eval"]["id"]))
    train_rows, eval_rows = split(train, recipe.eval_fraction, recipe.seed)
    return [train[row] for row in train_rows], [train[row] for row in eval_rows]


def rows_of(conversations: list[Conversation], tokenizer: Any, recipe: Recipe) -> list[Row]:
    """One row per conversation, by the loss rule of the recipe; a conversation with nothing to learn in it is left out."""
    from core.data.render import tokenize

    samples = (tokenize(conversation, tokenizer, recipe.max_length, recipe.loss_on) for conversation in conversations)
    rows = ({"input_ids": list(sample.input_ids), "labels": list(sample.labels)} for sample in samples)
    return [row for row in rows if loss_tokens([row])]


def loss_tokens(rows: list[Row]) -> int:
    """How many tokens carry loss. The first position of a row never does: nothing predicts it."""
    return sum(label != -100 for row in rows for label in row["labels"][1:])

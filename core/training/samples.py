"""What a run trains and measures on: its conversations, and the token rows made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import paths
from core.conversation import Conversation
from core.training.recipe import load as load_recipe

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from core.data.dataset import Dataset
    from core.data.tokenizer import ChatTokenizer
    from core.data.tokens import TokenRows


@dataclass(frozen=True)
class Rows:
    """The rows with something to learn in them: some of a dataset's token rows, on the disk."""

    tokens: TokenRows
    index: NDArray[np.int64]  # (N,) which of them

    def __len__(self) -> int:
        return len(self.index)

    @property
    def num_tokens(self) -> int:
        return int(self.tokens.num_tokens[self.index].sum())

    @property
    def num_loss_tokens(self) -> int:
        return int(self.tokens.num_loss_tokens[self.index].sum())

    def dataset(self) -> Any:
        """The rows as a `datasets.Dataset` of ``input_ids`` and ``labels`` that is a memory map of the file."""
        from datasets import Dataset as Table

        return Table.from_file(str(self.tokens.file)).select_columns(["input_ids", "labels"]).select(self.index, keep_in_memory=True)


def conversations_of(run_dir: Path) -> tuple[list[Conversation], list[Conversation]]:
    """The conversations that the run trains on, and those it never trains on."""
    (train, train_rows), (held_out, eval_rows) = _sides(run_dir)
    return [train[row] for row in train_rows], [held_out[row] for row in eval_rows]


def held_out_of(run_dir: Path) -> Iterator[Conversation]:
    """The conversations that the run never trains on, each read when it is asked for."""
    _, (held_out, rows) = _sides(run_dir)
    return (held_out[row] for row in rows)


def rows_of(run_dir: Path, tokenizer: ChatTokenizer) -> tuple[Rows, Rows]:
    """As `conversations_of`, as token rows by the loss rule of the recipe. A conversation with nothing to learn in it is left out.

    Raises:
        UserError: the template refuses one of the conversations, or the disk is full.
    """
    import numpy as np

    from core.data.tokens import token_rows

    recipe = load_recipe(run_dir / "recipe.yaml")
    found: list[Rows] = []
    for data, chosen in _sides(run_dir):
        tokens = token_rows(data, tokenizer, recipe.max_length, recipe.loss_on)
        index = np.array(chosen, dtype=np.int64)
        tokens.require_accepted(index)
        found.append(Rows(tokens, index[tokens.num_loss_tokens[index] > 0]))
    return found[0], found[1]


def _sides(run_dir: Path) -> tuple[tuple[Dataset, list[int]], tuple[Dataset, list[int]]]:
    """The dataset to train on and the one to measure on, each with the numbers of its conversations."""
    from core.data.dataset import open_dataset
    from core.data.split import split

    recipe = load_recipe(run_dir / "recipe.yaml")
    data: dict[str, Any] = paths.read_json(run_dir / "dataset.json")
    train = open_dataset(data["train"]["id"])
    if "eval" in data:
        held_out = open_dataset(data["eval"]["id"])
        return (train, list(range(len(train)))), (held_out, list(range(len(held_out))))
    train_rows, eval_rows = split(train, recipe.eval_fraction, recipe.seed)
    return (train, train_rows), (train, eval_rows)

"""What a recipe makes of a dataset, in rows and tokens: counted where the dataset was measured with this tokenizer, else about."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from core.data.packing import packed_rows, steps_of
from core.training.recipe import Recipe

if TYPE_CHECKING:
    from core.data.dataset import Dataset
    from core.data.measures import Measures
    from core.data.tokenizer import ChatTokenizer

BYTES_PER_TOKEN = 4.5  # of a JSON file, keys and quotes included: English under a vocabulary of 32,000 takes about 4 letters a token
EVAL_TOKENS = 4096  # at a time, as long as the micro batch has no more: an evaluation must not need more memory than training


@dataclass(frozen=True)
class Workload:
    """Rows as the trainer sees them; all tokens are after the cut at the maximum length."""

    rows: int  # of one epoch, packed where the recipe packs, without those set aside
    tokens: int  # in them, without padding
    longest: int  # tokens of the longest row
    eval_rows: int  # never packed
    eval_tokens: int
    is_counted: bool  # False where tokens are guessed from bytes, and every row may be as long as it can
    conversations: int = 0  # trained on; 0 where that is not known
    longest_conversation: int = 0  # its tokens before any cut; 0 where they were not counted

    @property
    def mean_length(self) -> float:
        return self.tokens / max(1, self.rows)

    def packed(self, length: int) -> Workload:
        """About the same tokens in full rows of `length`."""
        return replace(self, rows=max(1, math.ceil(self.tokens / length)), longest=min(length, self.tokens))


def counted(found: Measures, recipe: Recipe) -> Workload:
    """The workload of a dataset whose conversations were measured."""
    import numpy as np

    lengths = np.minimum(found.tokens, recipe.max_length)[found.reason == 0]
    share = 0.0 if recipe.eval_dataset else recipe.eval_fraction
    aside = round(len(lengths) * share)
    eval_tokens = round(int(lengths.sum()) * share)
    tokens = int(lengths.sum()) - eval_tokens
    rows = packed_rows(lengths.tolist(), recipe.max_length) if recipe.packing else len(lengths)
    rows = max(1, rows - round(rows * share))
    longest = int(lengths.max(initial=1))
    return Workload(
        rows,
        tokens,
        min(recipe.max_length, tokens) if recipe.packing else longest,
        aside,
        eval_tokens,
        is_counted=True,
        conversations=len(lengths) - aside,
        longest_conversation=int(found.tokens[found.reason == 0].max(initial=0)),
    )


def assumed(recipe: Recipe, conversations: int, size_bytes: int) -> Workload:
    """About the workload of a dataset that nobody has measured, from its conversations and the bytes of its file."""
    tokens = min(max(conversations, round(size_bytes / BYTES_PER_TOKEN)), conversations * recipe.max_length)
    share = 0.0 if recipe.eval_dataset else recipe.eval_fraction
    aside = round(conversations * share)
    eval_tokens = round(tokens * share)
    tokens -= eval_tokens
    rows = max(1, math.ceil(tokens / recipe.max_length) if recipe.packing else conversations - aside)
    return Workload(rows, max(1, tokens), recipe.max_length, aside, eval_tokens, is_counted=False, conversations=conversations - aside)


MEASURED_AT_ONCE = 2000  # conversations, well below a second


def of_dataset(
    dataset: Dataset, tokenizer: ChatTokenizer | None, recipe: Recipe, evaluated: Dataset | None = None, at_once: int = MEASURED_AT_ONCE
) -> Workload:
    """The workload of `dataset`: counted where it was measured before or has at most `at_once` conversations, else about. Without a
    tokenizer it is about. `evaluated` is the recipe's own evaluation dataset.
    """
    from core.data.measures import is_measured, measure

    if tokenizer and (len(dataset) <= at_once or is_measured(dataset, tokenizer, recipe.max_length, recipe.loss_on)):
        work = counted(measure(dataset, tokenizer, recipe.max_length, recipe.loss_on), recipe)
    else:
        work = assumed(recipe, len(dataset), dataset.manifest.size_bytes)
    if evaluated is None:
        return work
    return with_evaluation(work, of_dataset(evaluated, tokenizer, evaluating(recipe), at_once=at_once))


def evaluating(recipe: Recipe) -> Recipe:
    """What a recipe makes of its evaluation dataset: every conversation is a row of its own."""
    return recipe.model_copy(update={"eval_dataset": "", "eval_fraction": 0.0, "packing": False})


def with_evaluation(work: Workload, apart: Workload) -> Workload:
    """`work` measured on the rows of `apart`, which were made with `evaluating`."""
    return replace(work, eval_rows=apart.rows, eval_tokens=apart.tokens)


def eval_batch_rows(recipe: Recipe) -> int:
    """Rows of one batch of an evaluation, as the worker takes them."""
    return max(recipe.micro_batch_size, min(8, EVAL_TOKENS // recipe.max_length))


def optimizer_steps(recipe: Recipe, work: Workload, processes: int) -> int:
    """Optimizer steps of the run."""
    batch = recipe.micro_batch_size * recipe.gradient_accumulation_steps * processes
    return max(1, steps_of(work.rows, batch, recipe.num_train_epochs, recipe.max_steps))


def evaluations(recipe: Recipe, work: Workload, steps: int) -> int:
    """How often the run evaluates: before, after, and on the way."""
    if not work.eval_rows:
        return 0
    return 2 + (steps // recipe.eval_steps if recipe.eval_steps else 0)

"""How long a job may take: what the recipe is expected to take there, with a wide margin. A job without a limit would end after 30 minutes."""

from __future__ import annotations

from core.data.dataset import Dataset, take_data
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError
from core.training import forecast, workload
from core.training.architecture import read_config
from core.training.hardware import Hardware
from core.training.models import ModelRef
from core.training.recipe import Recipe
from core.training.shapes import shapes

SETUP_S = 1800.0  # fetching the image, installing, starting
BYTES_PER_S = 50e6  # to and from the Hub
EXPORT_S_PER_WEIGHT = 120 / 1e9  # merging, converting, each level and its measurement, on a few cores
MARGIN = 3.0
LEAST_S = 3600
UNKNOWN_S = 86400  # for a model of a make that nobody has counted


def timeout_s(recipe: Recipe, model: ModelRef, dataset: Dataset, tokenizer: ChatTokenizer, machine: Hardware) -> int:
    """The time limit in seconds: three times what training, export and the way to and from the Hub are expected to take, an hour at least."""
    config = read_config(model.path)
    evaluated = take_data(recipe.eval_dataset) if recipe.eval_dataset else None
    try:
        training_s = forecast.estimate(recipe, config, machine, workload.of_dataset(dataset, tokenizer, recipe, evaluated)).total_s
        weights = shapes(config).total
    except UserError:
        return UNKNOWN_S
    around_s = SETUP_S + weights * ((2 + len(recipe.levels)) * EXPORT_S_PER_WEIGHT + 6 / BYTES_PER_S)
    return max(LEAST_S, int(MARGIN * (training_s + around_s)))

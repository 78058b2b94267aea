"""A recipe's estimate with everything it needs gathered: the model's shapes, the dataset's rows. Weights are never read or fetched."""

from __future__ import annotations

from dataclasses import dataclass

from core.data.dataset import take_data
from core.errors import UserError
from core.training import forecast, models, prepare, workload
from core.training.checks import check_machine
from core.training.forecast import Estimate
from core.training.hardware import Hardware
from core.training.models import ModelRef
from core.training.recipe import Method, Recipe
from core.training.shapes import Shapes, of_model
from core.training.suggest import LONGEST, Suggestion, suggest
from core.training.workload import Workload

NO_DATA_ROWS = 1000  # conversations of a recipe that names no dataset yet
NO_DATA_BYTES = 2_000  # a conversation's


@dataclass(frozen=True)
class Prospect:
    """`estimate` is of the machine asked for; None where the recipe cannot run there at all, and `refused` says why."""

    recipe: Recipe
    model: Shapes
    work: Workload
    estimate: Estimate | None
    refused: UserError | None = None


def prospect(recipe: Recipe, hardware: Hardware, token: str | None = None) -> Prospect:
    """What `recipe` takes on `hardware`; of a Hub model at most its config and tokenizer are fetched.

    Raises:
        UserError: there is no such model or dataset.
    """
    model = of_model(recipe.base_model, token)
    work = work_of(recipe, token)
    try:
        check_machine(recipe, hardware)
    except UserError as error:
        return Prospect(recipe, model, work, None, error)
    return Prospect(recipe, model, work, forecast.of_shapes(recipe, model, hardware, work))


def suggested(recipe: Recipe, hardware: Hardware, token: str | None = None, method: Method | None = None) -> Suggestion:
    """Settings for the recipe's model and data on `hardware`, see `core.training.suggest`.

    Raises:
        UserError: there is no such model or dataset, or nothing fits.
    """
    model = of_model(recipe.base_model, token)
    longest = min(LONGEST, model.positions or recipe.max_length)
    return suggest(recipe, model, hardware, work_of(recipe.model_copy(update={"max_length": longest}), token), method)


def work_of(recipe: Recipe, token: str | None = None) -> Workload:
    """The recipe's dataset as rows; where it names none, a thousand conversations of usual length."""
    if not recipe.dataset:
        return workload.assumed(recipe, NO_DATA_ROWS, NO_DATA_ROWS * NO_DATA_BYTES)
    dataset = take_data(recipe.dataset)
    evaluated = take_data(recipe.eval_dataset) if recipe.eval_dataset else None
    try:
        folder = models.tokenizer_folder(recipe.base_model, token)
        tokenizer = prepare.tokenizer_of(recipe, ModelRef(recipe.base_model, folder))
    except UserError:
        tokenizer = None  # about is better than nothing: the start of the run will say what is missing
    return workload.of_dataset(dataset, tokenizer, recipe, evaluated)

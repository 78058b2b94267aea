"""Several runs beside each other: in what their recipes differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.running import runs
from core.training.recipe import Recipe


@dataclass(frozen=True)
class Difference:
    """A knob with its value in each of the runs, in their order."""

    name: str
    title: str
    values: tuple[Any, ...]


def differences(run_ids: Sequence[str]) -> list[Difference]:
    """The knobs that are not the same in all of these runs, in the order of the recipe.

    Raises:
        UserError: one of them does not exist.
    """
    recipes = [runs.recipe_of(run_id) for run_id in run_ids]
    found: list[Difference] = []
    for name, field in Recipe.model_fields.items():
        values = tuple(getattr(recipe, name) for recipe in recipes)
        if any(value != values[0] for value in values):
            found.append(Difference(name, field.title or name, values))
    return found

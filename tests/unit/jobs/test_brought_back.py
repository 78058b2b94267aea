"""What comes back from the Hub as a kept run is data and a recipe of a bundle, and nothing of this machine's disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import paths
from core.data.dataset import MANIFEST, REPORT, ROWS
from core.errors import UserError
from core.jobs import bundle, safekeeping
from core.training.recipe import Recipe

DATASET = "ds-0123456789ab"


def unpacked(folder: Path, **knobs: str) -> Path:
    """The folder of a bundle with this recipe."""
    (folder / bundle.RECIPE).parent.mkdir(parents=True)
    recipe = Recipe.model_validate({"name": "kept", "base_model": "starter", "dataset": DATASET} | knobs)
    (folder / bundle.RECIPE).write_text(recipe.to_yaml(), encoding="utf-8")
    return folder


def test_a_recipe_of_a_bundle_is_taken(tmp_path: Path) -> None:
    (tmp_path / "c" / bundle.BASE / "model").mkdir(parents=True)
    for name, knobs in {"a": {}, "b": {"base_model": "user/name", "eval_dataset": DATASET}, "c": {"base_model": "base/model"}}.items():
        assert safekeeping._recipe(unpacked(tmp_path / name, **knobs)).dataset == DATASET


@pytest.mark.parametrize(
    "knobs",
    [
        {"dataset": "/etc/passwd"},
        {"dataset": "ds-0123456789ab/../../notes.json"},
        {"eval_dataset": "/etc/passwd"},
        {"base_model": "/models/secret"},
        {"base_model": "base/../../../runs/other/artifacts/merged"},
        {"base_model": "../base/model"},
    ],
)
def test_a_recipe_that_names_files_of_this_machine_is_refused(knobs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names files of this machine"):
        safekeeping._recipe(unpacked(tmp_path / "x", **knobs))


def dataset(folder: Path, name: str, identifier: str, *more: str) -> None:
    made = folder / bundle.DATASETS / name
    made.mkdir(parents=True)
    (made / MANIFEST).write_text(json.dumps({"id": identifier}), encoding="utf-8")
    for file in (ROWS, REPORT, *more):
        (made / file).touch()


def test_a_dataset_under_its_own_name_is_settled_and_what_is_here_stays(tmp_path: Path, workspace: Path) -> None:
    for number in range(2):
        dataset(tmp_path / str(number), DATASET, DATASET)
        (tmp_path / str(number) / bundle.DATASETS / DATASET / ROWS).write_text(str(number))
        bundle.settle_datasets(tmp_path / str(number))
    assert (paths.datasets_dir() / DATASET / ROWS).read_text() == "0"


@pytest.mark.parametrize(
    ("name", "identifier", "more"),
    [(DATASET, "ds-ffffffffffff", ()), ("ds-x", "ds-x", ()), ("handles.key", "handles.key", ()), (DATASET, DATASET, ("evil.py",))],
)
def test_a_dataset_under_anothers_name_or_with_other_files_is_refused(
    name: str, identifier: str, more: tuple[str, ...], tmp_path: Path, workspace: Path
) -> None:
    dataset(tmp_path, name, identifier, *more)
    with pytest.raises(UserError, match="no dataset of a bundle"):
        bundle.settle_datasets(tmp_path)
    assert list(paths.datasets_dir().iterdir()) == []

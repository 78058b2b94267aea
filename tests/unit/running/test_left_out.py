"""Before a run starts it is said how many conversations it leaves out, and a run that could learn nothing is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from core import paths
from core.data.dataset import import_dataset, take_data
from core.data.measures import measure
from core.errors import UserError
from core.running import runs
from core.training import estimate, models, prepare
from core.training.presets import demo
from core.training.recipe import Recipe, build
from tests.unit.data.files import dump, record, talk

LONG = [talk(("human", "word " * 300), ("gpt", "late"), id=str(number)) for number in range(3)]


def recipe_for(folder: Path, rows: list[object], max_length: int) -> Recipe:
    (folder / "talks.json").write_text(dump(rows), encoding="utf-8")
    dataset = import_dataset(folder / "talks.json")
    return build(
        demo().model_dump()
        | {"dataset": dataset.id, "eval_dataset": "", "max_length": max_length, "eval_fraction": 0.0, "micro_batch_size": 1},
        "a test",
    )


def test_a_run_notes_how_many_conversations_it_leaves_out(workspace: Path, tmp_path: Path) -> None:
    run_id = runs.create(recipe_for(tmp_path, [record(0), *LONG, record(1)], 128))
    run = runs.load(run_id)
    (note,) = run.notes
    assert note.startswith("3 of 5 conversations carry no loss and are left out: every answer that is learned lies behind max_length.")


def test_a_run_that_leaves_out_nothing_has_no_note(workspace: Path, tmp_path: Path) -> None:
    assert runs.load(runs.create(recipe_for(tmp_path, [record(0), record(1)], 128))).notes == ()


@pytest.mark.parametrize("at_once", [0, 100])
def test_a_run_that_could_learn_nothing_is_refused_and_leaves_no_folder(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(estimate, "AUDITED_AT_ONCE", at_once)
    with pytest.raises(UserError, match="None of the 3 conversations") as raised:
        runs.create(recipe_for(tmp_path, LONG, 128))
    assert raised.value.code == "ZERO_LOSS"
    assert not paths.runs_dir().exists()


def test_a_large_dataset_is_not_audited_for_the_start(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "AUDITED_AT_ONCE", 1)
    monkeypatch.setattr(estimate, "audit", None)
    assert runs.load(runs.create(recipe_for(tmp_path, [*LONG, record(1)], 128))).notes == ()


def test_a_large_dataset_that_was_measured_has_its_conversations_without_loss_counted(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "AUDITED_AT_ONCE", 1)
    recipe = recipe_for(tmp_path, [*LONG, record(1)], 128)
    model = models.resolve(recipe.base_model)
    measure(take_data(recipe.dataset), prepare.tokenizer_of(recipe, model), recipe.max_length, recipe.loss_on)
    (note,) = runs.load(runs.create(recipe)).notes
    assert note.startswith("3 of 4 conversations carry no loss and are left out")


def test_a_large_dataset_is_audited_in_a_child_for_somebody_who_waits_for_it(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "AUDITED_AT_ONCE", 1)
    monkeypatch.setattr("core.data.measures._take", None)  # this process does not count
    recipe, heard = recipe_for(tmp_path, [*LONG, record(1)], 128), list[tuple[int, int]]()
    run_id = runs.create(recipe, on_progress=lambda done, total: heard.append((done, total)))
    (note,) = runs.load(run_id).notes
    assert note.startswith("3 of 4 conversations carry no loss and are left out")
    assert heard[0] == (0, 4) and all(total == 4 for _, total in heard)

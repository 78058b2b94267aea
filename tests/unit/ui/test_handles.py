"""Whose data a dataset is: ids for the owner, handles for visitors; and what a visitor learns of it from elsewhere on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import events, paths
from core.data.dataset import Dataset, import_dataset
from core.errors import UserError
from core.running import live, runs
from core.training.presets import preset
from tests.unit.ui.dataset_page import make, talk
from ui import access, dataset_data, form, handles, run_details, train_data
from ui.access import Caller

OWNER, LOCAL = Caller("kim", "owner"), Caller("this machine", "owner", is_local=True)
VISITORS = [Caller("a visitor", "public"), Caller("mallory", "signed_in")]


NUM_ROWS = 20


@pytest.fixture
def dataset(workspace: Path, tmp_path: Path) -> Dataset:
    words = "apple bread chair door earth flame grass house iron jar knife lamp milk nest oven pear quilt rope sand tree".split()
    return make(tmp_path, [talk(f"What is {word}?", f"{word} {word}", identifier=word) for word in words])


@pytest.mark.parametrize("visitor", VISITORS)
def test_a_visitor_opens_by_the_handle_and_not_by_the_id(dataset: Dataset, visitor: Caller) -> None:
    given = handles.of(dataset, visitor)
    assert given.startswith(dataset.id) and handles.open_for(given, visitor).id == dataset.id
    other = "ds-000000000000"
    for wrong in (dataset.id, f"{dataset.id}-{'0' * 24}", given[:-1], given + "0", other, other + given[len(other) :], "", None, 3, ["ds"]):
        with pytest.raises(UserError, match="no such dataset of yours"):
            handles.open_for(wrong, visitor)  # type: ignore[arg-type]


def test_the_owner_opens_by_both(dataset: Dataset) -> None:
    for owner in (OWNER, LOCAL):
        assert handles.of(dataset, owner) == dataset.id
        for given in (dataset.id, handles.of(dataset, VISITORS[0])):
            assert handles.open_for(given, owner).id == dataset.id


def test_the_examples_are_everybodys(workspace: Path) -> None:
    example = dataset_data.import_example("identity")
    assert handles.of(example, VISITORS[0]) == example.id
    assert handles.open_for(example.id, VISITORS[0]).id == example.id


def test_a_handle_outlives_the_app_and_is_worth_nothing_in_another_workspace(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = handles.of(dataset, VISITORS[0])
    key = paths.home() / handles.KEY
    assert key.stat().st_mode & 0o777 == 0o600
    assert handles.of(dataset, VISITORS[0]) == given
    monkeypatch.setenv("TRANSMUTE_HOME", str(tmp_path / "another"))
    again = import_dataset(dataset.source)
    assert again.id == dataset.id and handles.of(again, VISITORS[0]) != given


def values(**changed: Any) -> dict[str, Any]:
    return form.to_values(preset("demo")) | changed


@pytest.mark.parametrize("knob", ["dataset", "eval_dataset"])
def test_a_recipe_takes_nobody_elses_data(dataset: Dataset, knob: str) -> None:
    with pytest.raises(UserError, match="no such dataset of yours"):
        train_data.recipe_of(values(**{knob: dataset.id}), VISITORS[0])
    assert train_data.num_conversations(dataset.id, VISITORS[0]) is None
    given = handles.of(dataset, VISITORS[0])
    assert getattr(train_data.recipe_of(values(**{knob: given}), VISITORS[0]), knob) == dataset.id
    assert train_data.num_conversations(given, VISITORS[0]) == train_data.num_conversations(dataset.id, OWNER) == NUM_ROWS


@pytest.mark.parametrize(
    "given", ["examples/../core/paths.py", "examples//etc/passwd", "examples/../../etc/passwd", "examples/starter", "examples/\0"]
)
def test_the_name_of_an_example_leads_nowhere_else(given: str) -> None:
    assert form.example_file(given) is None
    assert train_data.example_id(given) == given
    assert train_data.num_conversations(given, OWNER) is None


def test_what_runs_say_of_the_owners_data_is_the_owners_to_see(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [
        runs.create(
            preset("demo").model_copy(update={"dataset": dataset.id, "sample_prompts": words, "learning_rate": rate, "eval_dataset": ""})
        )
        for words, rate in (("the first secret", 0.001), ("the second secret", 0.002))
    ]
    identity = runs.create(preset("demo"))
    for run_id in (*ids, identity):
        events.append(runs.folder(run_id), "samples", step=1, samples=[{"prompt": "the first secret", "answer": "an answer"}])
        events.append(runs.folder(run_id), "remark", text="a private note")
    for caller in (OWNER, *VISITORS):
        monkeypatch.setattr(access, "identify", lambda *_, caller=caller: caller)
        compared = run_details.compare_with(None, None, ids[0], [ids[1], identity])
        watched, is_owner = live.watch(ids[0]), caller is OWNER
        shown = run_details.of_run(watched, [watched], caller, is_other=True)
        assert "Learning rate" in compared and (dataset.id in compared) == is_owner
        for words in ("the first secret", "the second secret", "Sample questions"):
            assert (words in compared) == is_owner
        assert ("the first secret" in shown["samples"]) == is_owner
        assert (shown["remark"], shown["note"].visible) == ("a private note" if is_owner else "", is_owner)
        assert ("a private note" in shown["note"].label) == is_owner

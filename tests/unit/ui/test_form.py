"""The form is the recipe: every knob once, every value back as it went in, every error at its field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from core import paths
from core.data.dataset import import_dataset
from core.errors import UserError
from core.training.presets import PRESETS, preset
from core.training.recipe import Recipe
from ui import form, train_data, train_handlers
from ui.access import Caller

LOCAL = Caller("this machine", "owner", is_local=True)
OWNER = Caller("kim", "owner")
VISITOR = Caller("a visitor", "public")


def values(**changed: Any) -> dict[str, Any]:
    return form.to_values(preset("demo")) | changed


def test_every_knob_has_exactly_one_field_with_its_title_and_help() -> None:
    made = form.Form()
    with gr.Blocks(analytics_enabled=False):
        for names in (form.short_names(), *(form.in_group(group) for group in form.group_names())):
            form.add(made, names, values())
    assert {*made.fields, "method"} == set(Recipe.model_fields)
    for name, component in made.fields.items():
        row = form.rows()[name]
        assert row["title"] in component.label and component.info == row["help"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_comes_back_from_the_form_unchanged(name: str) -> None:
    assert Recipe.model_validate(form.to_recipe(form.to_values(preset(name)))) == preset(name)


def test_the_form_names_no_folder_of_this_machine() -> None:
    assert str(paths.PROJECT) not in repr([form.to_values(preset(name)) for name in PRESETS])


@pytest.mark.parametrize(
    ("knob", "value", "said"),
    [
        ("learning_rate", 5, "Must be at most 1."),
        ("learning_rate", 0, "Must be more than 0."),
        ("micro_batch_size", None, "Needs a number."),
        ("max_length", 3, "Must be at least 16."),
        ("name", "a b", "Letters, digits, dot, dash and underscore only; begins with a letter or digit; at most 60."),
        ("base_model", "", "Needs a value."),
    ],
)
def test_an_error_stands_at_its_field_in_words(knob: str, value: Any, said: str) -> None:
    assert form.problems(values(**{knob: value})) == {knob: said}


def test_all_errors_are_found_at_once() -> None:
    assert set(form.problems(values(seed=-1, lora_r=0, name=""))) == {"seed", "lora_r", "name"}


def test_a_group_says_what_differs_from_the_preset() -> None:
    differing = form.differing(values(seed=7, lora_r=8, lora_alpha=8, learning_rate=1), values())
    assert differing == {"Optimisation": ["Seed"], "Method": ["LoRA rank r", "LoRA alpha"]}
    assert form.group_title("Optimisation", ["Seed"]) == "Optimisation: seed differs from the preset"
    assert form.group_title("Method", ["LoRA rank r", "LoRA alpha"]) == "Method: LoRA rank r and LoRA alpha differ from the preset"
    assert form.group_title("Data", list("abcd")) == "Data: 4 values differ from the preset"
    assert form.group_title("Data", []) == "Data"
    assert form.group_title("Optimisation", ["Seed"], form.wrong_titles({"seed": "x"}, "Optimisation")) == "Optimisation: correct seed"


def test_the_action_says_why_it_is_disabled() -> None:
    assert train_data.why_not(values(), LOCAL) is None
    for changed, caller, said in [
        ({}, VISITOR, "owner"),
        ({"dataset": ""}, LOCAL, "Choose a dataset"),
        ({"seed": None}, LOCAL, "Correct seed"),
        ({"max_length": 100_000}, LOCAL, "max_length"),
        ({"dataset": "ds-000000000000"}, LOCAL, "no dataset"),
    ]:
        reason = train_data.why_not(values(**changed), caller)
        assert reason and said in str(reason), changed


def test_what_needs_another_machine_is_adapted_by_one_click(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_data, "machine", lambda: train_data.Hardware(2, 8 * 10**9, (), None))  # type: ignore[arg-type]
    asked = form.to_values(preset("mlabonne-qlora")) | {"dataset": "examples/identity.json", "base_model": "starter"}
    assert "needs a GPU" in str(train_data.why_not(asked, LOCAL))
    assert train_data.why_not(train_data.adapted(asked), LOCAL) is None


@pytest.mark.parametrize("dataset", ["/etc/passwd", "../secrets.json", "data.json", "examples/../../etc/passwd"])
def test_only_somebody_at_the_machine_may_name_its_files(dataset: str) -> None:
    with pytest.raises(UserError, match="upload"):
        train_data.recipe_of(values(dataset=dataset), OWNER)
    assert train_data.recipe_of(values(dataset=dataset), LOCAL).dataset


@pytest.mark.parametrize("base_model", ["/models/llama", "../llama", "a/../b", "C:\\models", "./x"])
def test_nor_its_folders(base_model: str) -> None:
    with pytest.raises(UserError, match="Hub id"):
        train_data.recipe_of(values(base_model=base_model), OWNER)


def test_a_dataset_carried_over_drops_the_evaluation_questions_of_the_example(tmp_path: Path) -> None:
    kept = train_handlers._carried(train_handlers.fresh(), "ds-123456789abc")
    assert kept["values"]["dataset"] == "ds-123456789abc" and kept["values"]["eval_dataset"] == ""
    assert kept["values"]["eval_fraction"] > 0
    again = train_handlers._carried(kept | {"values": kept["values"] | {"dataset": "ds-ba9876543210"}}, "ds-123456789abc")
    assert again["values"]["dataset"] == "ds-ba9876543210", "carried once, then the form's own choice counts"
    example = train_handlers._carried(train_handlers.fresh(), train_data.example_id("examples/identity.json"))
    assert example["values"]["eval_dataset"] == "examples/identity_eval.json"


@pytest.mark.parametrize(
    "kept", [None, {}, "x", {"preset": "gone", "values": {}}, {"preset": "demo", "values": {"old_knob": 1, "seed": 7}}]
)
def test_a_form_kept_by_an_older_version_does_no_harm(kept: Any) -> None:
    known = train_handlers._known(kept)
    assert set(known["values"]) == set(Recipe.model_fields)
    assert form.problems(known["values"]) == {}


def test_the_learning_rate_follows_the_method_and_says_so() -> None:
    shown = train_handlers.choose_method(None, None, train_handlers.fresh(), **values(method="fft", learning_rate=2e-4))
    assert shown["learning_rate"] == 2e-5 and "ten times" in shown["reason"]
    assert "learning_rate" not in train_handlers.choose_method(None, None, train_handlers.fresh(), **values(method="lora"))


def test_a_field_that_the_method_hides_keeps_its_value() -> None:
    kept = train_handlers._typed(train_handlers.fresh(), values(method="fft", lora_r=None, seed=None))
    assert kept["values"]["lora_r"] == 16 and kept["values"]["seed"] is None


def test_the_recipe_file_shown_is_the_one_that_would_run() -> None:
    text = train_data.yaml_text(values())
    assert "dataset: examples/identity.json" in text and "method: qlora" in text
    command = train_data.command_text(values())
    assert "python -m core train recipe.yaml" in command and "core.worker RUN" in command
    assert str(paths.PROJECT) not in text + command


def test_steps_are_counted_as_the_trainer_does() -> None:
    assert train_data.num_steps(values(micro_batch_size=8, num_train_epochs=2, num_processes=1), 300) == 76
    assert train_data.num_steps(values(max_steps=3), 300) == 3
    assert train_data.num_steps(values(micro_batch_size=8, num_train_epochs=2, num_processes=1, max_steps=400), 300) == 400


def test_what_is_typed_while_a_dataset_is_being_handed_over_stays(workspace: Path) -> None:
    """The answer to opening the tab may come late: it must set nothing but the dataset and what follows from it."""
    file = workspace.parent / "talk.json"
    file.write_text(
        '[{"id": "a", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]', encoding="utf-8"
    )
    carried, typed = import_dataset(file).id, values(max_steps=12)
    shown = train_handlers.arrive(None, None, carried, train_handlers.fresh(), **typed)
    assert shown["dataset"].value == carried and shown["eval_dataset"].value == ""
    assert shown["kept"]["values"]["max_steps"] == 12
    assert set(shown) & set(typed) <= {"dataset", "eval_dataset", "eval_fraction", *form.HAS_CHOICES}
    again = train_handlers.arrive(None, None, carried, shown["kept"], **typed | shown["kept"]["values"])
    assert set(again) == set(form.HAS_CHOICES) and all("value" not in update._constructor_args[0] for update in again.values())


def test_a_recipe_that_another_tab_hands_over_fills_the_whole_form(workspace: Path) -> None:
    handed = train_handlers.fresh() | {"handed over": True}
    handed["values"] |= {"max_steps": 77}
    shown = train_handlers.arrive(None, None, "", handed, **values(max_steps=12))
    assert shown["max_steps"] == 77 and "handed over" not in shown["kept"]

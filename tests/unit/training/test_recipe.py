"""The recipe: bounds, overrides, files, and presets that equal their published sources."""

import pytest

from core.errors import UserError
from core.training import presets, recipe
from core.training.recipe import Recipe


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(UserError) as caught:
        recipe.build({"learning_rate": 5, "lora_r": 0, "spell": "x"}, "here")
    assert "learning_rate: 5" in caught.value.problem
    assert "lora_r: 0" in caught.value.problem
    assert "spell: there is no such knob" in caught.value.problem


def test_assignments_are_read_as_the_type_of_their_knob():
    changed = recipe.override(
        Recipe(), ["learning_rate=1e-4", "packing=false", "levels=f16, q4_0", "max_steps=7", "target_modules=q_proj,v_proj"]
    )
    assert (changed.learning_rate, changed.packing, changed.max_steps) == (1e-4, False, 7)
    assert changed.levels == ("f16", "q4_0") and changed.target_modules == "q_proj,v_proj"


def test_an_empty_assignment_clears_a_text_or_a_list():
    changed = recipe.override(presets.preset("demo"), ["eval_dataset=", "levels="])
    assert changed.eval_dataset == "" and changed.levels == ()


def test_a_text_that_looks_like_something_else_stays_a_text():
    """YAML reads a number, a truth or a mapping in them."""
    given = {"name": "123", "base_revision": "1234567", "dataset": "2024", "sample_prompts": "Hello: who are you?", "base_model": "yes"}
    changed = recipe.override(Recipe(), [f"{knob}={text}" for knob, text in given.items()])
    assert {knob: getattr(changed, knob) for knob in given} == given


@pytest.mark.parametrize("knob", [name for name, field in Recipe.model_fields.items() if field.annotation is float])
@pytest.mark.parametrize("value", [".nan", ".inf"])
def test_what_is_no_number_is_refused(knob, value):
    with pytest.raises(UserError, match=knob):
        recipe.override(Recipe(), [f"{knob}={value}"])


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\u2029"])
def test_a_text_keeps_every_end_of_a_line_in_its_file(end, tmp_path):
    chosen = Recipe(sample_prompts=f"Who are you?{end}  And I?")
    (tmp_path / "r.yaml").write_text(chosen.to_yaml(), encoding="utf-8", newline="")
    assert recipe.load(tmp_path / "r.yaml") == chosen


def test_an_assignment_without_an_equals_sign_is_refused():
    with pytest.raises(UserError, match="not key=value"):
        recipe.override(Recipe(), ["learning_rate"])


@pytest.mark.parametrize("name", sorted(presets.PRESETS))
def test_every_preset_survives_its_own_yaml(name, tmp_path):
    chosen = presets.preset(name)
    (tmp_path / "r.yaml").write_text(chosen.to_yaml())
    assert recipe.load(tmp_path / "r.yaml") == chosen
    assert recipe.load(tmp_path / "r.yaml").sha256 == chosen.sha256


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: [", "\x00"])
def test_a_file_that_is_no_recipe_is_refused_in_words(text, tmp_path):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError):
        recipe.load(tmp_path / "r.yaml")


@pytest.mark.parametrize("name", ["$(id)", "-rf", ";reboot", "a\nb", "../x", "", "x" * 61])
def test_a_name_that_could_be_a_path_or_a_flag_is_refused(name):
    with pytest.raises(UserError, match="name"):
        recipe.build({"name": name}, "here")


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError) as caught:
        presets.preset("nope")
    assert "mlabonne-qlora" in caught.value.remedy

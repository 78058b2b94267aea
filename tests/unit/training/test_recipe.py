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


# Values as published; see the sources at the top of core/training/presets.py.
PUBLISHED = {
    "fastchat-fft": {
        "base_model": "meta-llama/Llama-2-7b-hf", "method": "fft", "dtype": "bf16", "num_train_epochs": 3, "micro_batch_size": 2,
        "gradient_accumulation_steps": 16, "save_steps": 1200, "save_total_limit": 10, "learning_rate": 2e-5, "weight_decay": 0, "warmup_steps": 0.03,
        "lr_scheduler_type": "cosine", "logging_steps": 1, "accelerate_config": "fsdp2", "max_length": 2048, "gradient_checkpointing": True, "num_processes": 4,
    },
    "article-fft": {
        "base_model": "lmsys/vicuna-7b-v1.5-16k", "num_train_epochs": 1, "micro_batch_size": 1, "gradient_accumulation_steps": 4, "save_steps": 1200,
        "save_total_limit": 10, "learning_rate": 2e-5, "warmup_steps": 0.03, "max_length": 2048, "gradient_checkpointing": True,
    },
    "autotrain-sft": {
        "learning_rate": 2e-4, "micro_batch_size": 12, "num_train_epochs": 3, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "double_quant": False,
        "dtype": "fp16", "packing": True, "max_length": 1024, "lr_scheduler_type": "linear", "warmup_steps": 0.1, "weight_decay": 0, "max_grad_norm": 1.0,
        "seed": 42, "loss_on": "all", "method": "qlora",
    },
    "mlabonne-qlora": {
        "base_model": "NousResearch/Llama-2-7b-chat-hf", "lora_r": 64, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": "q_proj,v_proj",
        "double_quant": False, "dtype": "fp16", "num_train_epochs": 1, "micro_batch_size": 4, "gradient_accumulation_steps": 1, "max_grad_norm": 0.3,
        "learning_rate": 2e-4, "weight_decay": 0.001, "optim": "paged_adamw_32bit", "lr_scheduler_type": "cosine", "warmup_steps": 0.03,
        "group_by_length": True, "save_steps": 0, "logging_steps": 25, "max_length": 1024, "packing": False, "loss_on": "all", "gradient_checkpointing": False,
    },
    "fastchat-qlora-zero2": {
        "method": "qlora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "target_modules": "q_proj,v_proj", "double_quant": True, "dtype": "bf16",
        "num_train_epochs": 3, "micro_batch_size": 1, "gradient_accumulation_steps": 1, "save_steps": 1200, "save_total_limit": 100, "learning_rate": 2e-5,
        "weight_decay": 0, "warmup_steps": 0.03, "lr_scheduler_type": "cosine", "logging_steps": 1, "max_length": 2048, "accelerate_config": "zero2",
    },
    "fastchat-lora-zero3": {"method": "lora", "accelerate_config": "zero3", "lora_r": 8, "lora_alpha": 16},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_preset_has_the_published_values(name):
    chosen = presets.preset(name).model_dump()
    assert {key: chosen[key] for key in PUBLISHED[name]} == PUBLISHED[name]

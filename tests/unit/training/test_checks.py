"""What cannot work is refused before it starts, with the nearest that can; following the remedy always helps."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.data.dataset import take_data
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.paths import EXAMPLES, STARTER, read_json
from core.running import runs
from core.training import architecture, checks, prepare
from core.training import recipe as recipes
from core.training.hardware import Gpu, Hardware, TorchBuild
from core.training.models import ModelRef, transformers_knows
from core.training.presets import preset
from core.training.recipe import Recipe
from tests.unit.data.files import record

GB = 2**30
CPU = Hardware(2, 24 * GB, (), TorchBuild("2.13.0+cpu", None))
A100 = Gpu("NVIDIA A100", 80 * GB, (8, 0))
T4 = Gpu("Tesla T4", 16 * GB, (7, 5))
MODEL = ModelRef("starter", STARTER)


def gpus(*found: Gpu) -> Hardware:
    return Hardware(16, 200 * GB, found, TorchBuild("2.13.0", "12.8"))


REFUSED: list[tuple[dict[str, Any], Hardware, str]] = [
    ({"method": "qlora", "accelerate_config": "zero3"}, gpus(A100, A100), "quant_storage=compute"),
    ({"method": "qlora", "accelerate_config": "zero3_offload"}, gpus(A100, A100), "quant_storage=compute"),
    ({"method": "qlora", "accelerate_config": "fsdp2"}, gpus(A100, A100), "quant_storage=compute"),
    ({"method": "qlora", "accelerate_config": "zero3"}, CPU, "quant_storage=compute"),
    ({"method": "fft", "accelerate_config": "zero2_offload", "optim": "adafactor"}, gpus(A100, A100), "optim=adamw_torch"),
    ({"method": "fft", "accelerate_config": "zero2_offload", "optim": "adamw_8bit"}, gpus(A100), "optim=adamw_torch"),
    ({"method": "lora", "accelerate_config": "zero3_offload", "optim": "paged_adamw_8bit"}, gpus(A100, A100), "optim=adamw_torch"),
    ({"method": "fft", "accelerate_config": "fsdp2", "optim": "adamw_8bit"}, gpus(A100, A100), "optim=adamw_torch"),
    ({"method": "fft", "accelerate_config": "fsdp2", "optim": "paged_adamw_8bit"}, gpus(A100, A100), "optim=adamw_torch"),
    ({"method": "lora", "accelerate_config": "fsdp2", "optim": "paged_adamw_32bit"}, gpus(A100, A100), "optim=adamw_torch"),
    ({"optim": "paged_adamw_32bit"}, CPU, "optim=adamw_torch"),
    ({"optim": "paged_adamw_8bit"}, CPU, "optim=adamw_torch"),
    ({"optim": "adamw_8bit"}, CPU, "optim=adamw_torch"),
    ({"dtype": "fp16"}, CPU, "dtype=auto"),
    ({"attn_implementation": "flash_attention_2"}, CPU, "attn_implementation=auto"),
    ({"attn_implementation": "flash_attention_2"}, gpus(T4), "attn_implementation=auto"),
    ({"attn_implementation": "flash_attention_2"}, gpus(A100, T4), "attn_implementation=auto"),
    ({"attn_implementation": "flash_attention_2", "dtype": "fp32"}, gpus(A100), "attn_implementation=auto"),
    ({"method": "fft", "accelerate_config": "fsdp2"}, CPU, "accelerate_config=auto"),
    ({"method": "fft", "accelerate_config": "zero2_offload"}, CPU, "accelerate_config=zero2"),
    ({"method": "lora", "accelerate_config": "zero3_offload"}, CPU, "accelerate_config=zero3"),
    ({"dtype": "bf16"}, gpus(T4), "dtype=fp16"),
    ({"num_processes": 4}, gpus(A100, A100), "num_processes=0"),
    ({"accelerate_config": "single_gpu", "num_processes": 2}, gpus(A100, A100), "accelerate_config=ddp"),
    ({"use_liger_kernel": True}, CPU, "use_liger_kernel=false"),
    ({"accelerate_config": "fsdp2"}, CPU, "accelerate_config=auto"),
    ({"accelerate_config": "zero2_offload"}, CPU, "accelerate_config=zero2"),
    ({"accelerate_config": "zero3_offload"}, CPU, "accelerate_config=auto"),
    ({"early_stopping_patience": 3}, CPU, "eval_steps=50"),
    ({"eval_steps": 10, "eval_fraction": 0}, CPU, "eval_fraction=0.05"),
]


@pytest.mark.parametrize(("knobs", "hardware", "remedy"), REFUSED)
def test_what_cannot_work_is_refused_and_the_remedy_works(knobs: dict[str, Any], hardware: Hardware, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check(Recipe(**knobs), hardware)
    assert remedy in caught.value.remedy
    checks.check(recipes.override(Recipe(**knobs), [remedy]), hardware)


def test_qlora_under_zero3_is_offered_with_a_matching_storage_type() -> None:
    checks.check(Recipe(method="qlora", accelerate_config="zero3", quant_storage="compute"), gpus(A100, A100))


@pytest.mark.parametrize(
    ("knobs", "missing"),
    [
        ({"use_liger_kernel": True}, "liger_kernel"),
        ({"report_to": "wandb"}, "wandb"),
        ({"report_to": "trackio"}, "trackio"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attn"),
    ],
)
def test_a_package_is_asked_for_only_where_it_is_missing(knobs: dict[str, Any], missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "is_installed", lambda _: True)
    checks.check(Recipe(**knobs), gpus(A100))
    monkeypatch.setattr(checks, "is_installed", lambda name: name not in (missing, "kernels"))
    with pytest.raises(UserError, match="not installed"):
        checks.check(Recipe(**knobs), gpus(A100))


@pytest.mark.parametrize("config", ["fsdp2", "zero3", "zero3_offload"])
def test_sample_questions_need_the_whole_model_on_one_device(config: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check(Recipe(method="lora", accelerate_config=config, sample_prompts="Who?"), gpus(A100, A100))
    assert caught.value.where == "sample_prompts"


def test_sample_questions_are_few() -> None:
    checks.check(Recipe(sample_prompts="\n\nWho?\n" * 8), CPU)
    with pytest.raises(UserError) as caught:
        checks.check(Recipe(sample_prompts="Who?\n" * 9), CPU)
    assert caught.value.where == "sample_prompts"


@pytest.mark.parametrize(
    ("knobs", "num_train", "num_eval", "where"),
    [
        ({"micro_batch_size": 11}, 10, 2, "micro_batch_size"),
        ({"micro_batch_size": 6, "num_processes": 2}, 10, 2, "micro_batch_size"),
        ({"micro_batch_size": 1, "num_processes": 12}, 10, 2, "micro_batch_size"),
        ({"micro_batch_size": 1}, 10, 0, "eval_fraction"),
    ],
)
def test_numbers_beyond_the_data_are_refused_and_the_remedy_works(knobs: dict[str, Any], num_train: int, num_eval: int, where: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check_data(Recipe(**knobs), num_train, num_eval, CPU)
    assert caught.value.where == where
    remedy = re.search(r"\w+=[\d.]+", caught.value.remedy)
    assert remedy
    checks.check_data(recipes.override(Recipe(**knobs), [remedy[0]]), num_train, num_eval, CPU)


# --- the model ----------------------------------------------------------------------------------------------------------------------


def without_sentencepiece(model: ModelRef, **special: str | None) -> ModelRef:
    """The model with a plain tokenizer.json only, and these special tokens changed; SentencePiece would name its own."""
    (model.path / "tokenizer.model").unlink()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (model.path / name).write_text(json.dumps(read_json(model.path / name) | special))
    return model


def copy_of_starter(folder: Path, **config: Any) -> ModelRef:
    shutil.copytree(STARTER, folder)
    (folder / "config.json").write_text(json.dumps(read_json(STARTER / "config.json") | config))
    return ModelRef("theirs", folder)


def test_a_length_nobody_chose_follows_the_model_and_one_that_was_chosen_is_explained() -> None:
    assert prepare.settled(Recipe(), MODEL).max_length == 1024
    assert prepare.settled(recipes.override(Recipe(), ["seed=7"]), MODEL).max_length == 1024
    with pytest.raises(UserError) as caught:
        prepare.settled(Recipe(max_length=2048), MODEL)
    assert "1024 positions" in caught.value.problem
    assert "max_length=1024" in caught.value.remedy
    assert "rope_scaling=linear" in caught.value.remedy
    assert prepare.settled(Recipe(max_length=2048, rope_scaling="linear"), MODEL).max_length == 2048


@pytest.mark.parametrize(
    ("knobs", "where", "said"),
    [
        ({"method": "sft", "trainable_layers": 6}, "trainable_layers", "5 or less"),
        ({"method": "lora", "target_modules": "q_proj, query_key_value"}, "target_modules", "q_proj, k_proj, v_proj, o_proj"),
        ({"method": "lora", "target_modules": " , "}, "target_modules", "q_proj, k_proj, v_proj, o_proj"),
    ],
)
def test_a_recipe_that_the_model_cannot_follow_is_refused(knobs: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        checks.check_model(Recipe(max_length=512, **knobs), MODEL)
    assert caught.value.where == where
    assert sorted(said.split(", ")) == sorted(set(said.split(", ")) & set(re.split(r"[:,.] ?|Set it to ", caught.value.remedy)))


def test_capped_scores_are_not_trained_without_their_cap(tmp_path: Path) -> None:
    model = copy_of_starter(tmp_path / "m", attn_logit_softcapping=50.0)
    checks.check_model(Recipe(max_length=512), model)
    with pytest.raises(UserError, match="sdpa"):
        checks.check_model(Recipe(max_length=512, attn_implementation="sdpa"), model)


def test_early_stop_without_an_evaluation_can_be_given_up_too() -> None:
    chosen = Recipe(early_stopping_patience=3, eval_steps=10, eval_fraction=0)
    with pytest.raises(UserError) as caught:
        checks.check(chosen, CPU)
    checks.check(recipes.override(chosen, caught.value.remedy.rstrip(".").split(", or ")[1].split(" and ")), CPU)


@pytest.mark.parametrize("config", [{"model_type": "qwen3_5_text"}, {"model_type": "bloom"}, {"model_type": "gpt_oss"}])
def test_models_whose_packed_documents_would_see_each_other_take_no_packing(config: dict[str, Any], tmp_path: Path) -> None:
    model = copy_of_starter(tmp_path / "m", **config)
    with pytest.raises(UserError, match="see each other") as caught:
        checks.check_model(Recipe(max_length=512), model)
    assert "packing=false" in caught.value.remedy
    checks.check_model(Recipe(max_length=512, packing=False), model)


def test_every_family_that_hands_a_state_from_token_to_token_is_known() -> None:
    spec = importlib.util.find_spec("transformers")
    assert spec and spec.origin
    folder, found = Path(spec.origin).parent / "models", set[str]()
    for file in folder.glob("*/modeling_*.py"):
        if re.search(r"conv_state|recurrent_state|ssm_state", file.read_text(encoding="utf-8")):
            configuration = file.with_name(file.name.replace("modeling", "configuration"))
            found |= set(re.findall(r'model_type(?::[^=]+)? = "([^"]+)"', configuration.read_text(encoding="utf-8")))
    assert len(found) > 20 and found & transformers_knows()[0] <= architecture.STATEFUL


def test_positions_are_stretched_only_where_that_helps(tmp_path: Path) -> None:
    learned = copy_of_starter(tmp_path / "gpt2", model_type="gpt2", max_position_embeddings=None, n_positions=512)
    scaled = copy_of_starter(tmp_path / "llama3", rope_parameters={"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0})
    for model in (learned, scaled):
        with pytest.raises(UserError, match="positions and max_length is 2048") as caught:
            checks.check_model(Recipe(max_length=2048), model)
        assert "rope_scaling" not in caught.value.remedy
        with pytest.raises(UserError, match="cannot be stretched"):
            checks.check_model(Recipe(max_length=2048, rope_scaling="linear"), model)
    assert prepare.settled(Recipe(), learned).max_length == 512


def test_a_model_without_a_template_is_offered_vicunas(tmp_path: Path) -> None:
    model = copy_of_starter(tmp_path / "m")
    (model.path / "chat_template.jinja").unlink()
    with pytest.raises(UserError) as caught:
        prepare.tokenizer_of(Recipe(), model)
    assert caught.value.code == "TEMPLATE"
    assert "chat_template=vicuna_v1.1" in caught.value.remedy
    ours = prepare.tokenizer_of(Recipe(chat_template="vicuna_v1.1"), model)
    assert ours == prepare.tokenizer_of(Recipe(), MODEL) or ours.sha256 == prepare.tokenizer_of(Recipe(), MODEL).sha256


def test_vicunas_template_ends_answers_with_the_models_own_eos(tmp_path: Path) -> None:
    model = copy_of_starter(tmp_path / "m")
    settings = read_json(model.path / "tokenizer_config.json") | {"eos_token": "<s>"}
    (model.path / "tokenizer_config.json").write_text(json.dumps(settings))
    found = prepare.tokenizer_of(Recipe(chat_template="vicuna_v1.1"), model)
    assert "'<s>'" in found.template
    assert "</s>" not in found.template


@pytest.mark.parametrize(("unk", "pad"), [("<unk>", "<unk>"), (None, "</s>")])
def test_a_missing_pad_token_is_the_unknown_token_else_eos(unk: str | None, pad: str, tmp_path: Path) -> None:
    model = without_sentencepiece(copy_of_starter(tmp_path / "m"), unk_token=unk, pad_token=None)
    found = prepare.tokenizer_of(Recipe(), model)
    assert (found.pad_token, found.eos_token) == (pad, "</s>")


def test_a_tokenizer_without_eos_is_refused(tmp_path: Path) -> None:
    model = without_sentencepiece(copy_of_starter(tmp_path / "m"), eos_token=None)
    with pytest.raises(UserError, match="end-of-sequence"):
        prepare.tokenizer_of(Recipe(), model)


# --- stretched positions -------------------------------------------------------------------------------------------------------------


def test_a_stretched_base_shares_its_weights_and_names_the_factor(tmp_path: Path) -> None:
    made = prepare.stretched_base(Recipe(max_length=2500, rope_scaling="linear"), MODEL, tmp_path / "base")
    config = architecture.read_config(made.path)
    assert config["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "linear", "factor": 3.0}
    assert config["max_position_embeddings"] == 3072
    assert (made.path / "model.safetensors").resolve() == (STARTER / "model.safetensors").resolve()
    assert prepare.stretched_base(Recipe(max_length=1024, rope_scaling="linear"), MODEL, tmp_path / "no") == MODEL
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_type": "linear", "factor": 2.0}),  # written by transformers 4
        (
            {"rope_scaling": {"type": "linear", "factor": 4.0}, "max_sequence_length": 1000},
            {"rope_type": "linear", "factor": 8.0},
        ),  # Vicuna 16k
        (
            {"rope_parameters": {"sliding_attention": {"rope_theta": 1.0}, "full_attention": {"rope_theta": 2.0}}},  # Gemma 3
            {"sliding_attention": {"rope_theta": 1.0}, "full_attention": {"rope_theta": 2.0, "rope_type": "linear", "factor": 2.0}},
        ),
    ],
)
def test_older_ways_to_write_rope_are_read(before: dict[str, Any], after: dict[str, Any]) -> None:
    config = {"max_position_embeddings": 1000, **before}
    made = architecture.stretched(config, 1001)
    assert made["rope_parameters"] == after
    assert made["max_position_embeddings"] == 2000
    assert not {"rope_scaling", "rope_theta"} & set(made)
    assert architecture.positions(made) == 2000


@pytest.mark.parametrize("config", [{"max_position_embeddings": 8, "rope_scaling": {"rope_type": "yarn", "factor": 2}}, {}])
def test_positions_that_cannot_be_stretched_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="cannot be stretched"):
        architecture.stretched(config, 100)


def test_the_language_part_of_a_model_that_sees_is_stretched() -> None:
    made = architecture.stretched({"vision_config": {}, "text_config": {"max_position_embeddings": 10}}, 15)
    assert made["text_config"]["rope_parameters"]["factor"] == 2.0
    assert made["vision_config"] == {}


# --- headers -------------------------------------------------------------------------------------------------------------------------


def test_modules_are_read_from_the_headers_of_the_weights() -> None:
    assert sorted(architecture.linear_names(STARTER)) == sorted("q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split())


@pytest.mark.parametrize("data", [b"", b"\x00" * 4, b"\xff" * 8, (9).to_bytes(8, "little") + b"{", (2).to_bytes(8, "little") + b"[]"])
def test_a_file_that_is_no_safetensors_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors"):
        architecture.linear_names(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_a_broken_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        architecture.read_config(tmp_path)


def test_the_share_set_aside_is_counted_as_it_is_drawn(tmp_path: Path, workspace: Path) -> None:
    from core.data.dataset import import_dataset

    same = [{"id": str(n), "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]} for n in range(30)]
    (tmp_path / "same.json").write_text(json.dumps(same))
    alike = import_dataset(tmp_path / "same.json")
    with pytest.raises(UserError, match="sets none aside"):
        prepare.check_data(Recipe(), alike, CPU)
    prepare.check_data(Recipe(eval_fraction=0), alike, CPU)
    assert prepare.count(Recipe(eval_fraction=0.1), import_dataset(EXAMPLES / "identity.json"))[1] > 0


@pytest.mark.parametrize(
    ("knobs", "rows"),
    [({}, 8), ({"eval_fraction": 0.5}, 4), ({"num_processes": 2}, 8), ({"num_processes": 9, "micro_batch_size": 1}, 8)],
)
def test_a_micro_batch_beyond_the_packed_rows_is_refused_and_each_remedy_works(
    knobs: dict[str, Any], rows: int, tmp_path: Path, workspace: Path
) -> None:
    """Forty short conversations are eight rows of 256 tokens, which one micro batch would swallow."""
    (tmp_path / "short.json").write_text(json.dumps([record(number) for number in range(40)]))
    asked = {"base_model": "starter", "dataset": str(tmp_path / "short.json"), "max_length": 256, "micro_batch_size": rows + 1}
    asked |= {"eval_fraction": 0.0, "num_train_epochs": 1.0, "levels": ()}
    recipe = Recipe(**asked | knobs)
    with pytest.raises(UserError, match=f"{rows} of 256 tokens") as caught:
        runs.create(recipe, hardware=CPU)
    assert caught.value.where == "micro_batch_size" and not paths.runs_dir().exists()
    remedies = re.findall(r"\w+=\w+", caught.value.remedy)
    assert "packing=false" in remedies and (len(remedies) == 2) == (recipe.num_processes <= rows)
    for remedy in remedies:
        runs.create(recipes.override(recipe, [remedy]), hardware=CPU)


def test_rows_that_nobody_has_measured_are_no_reason_to_refuse(workspace: Path) -> None:
    prepare.check_packed(Recipe(micro_batch_size=4096), take_data(str(EXAMPLES / "identity.json")), load_tokenizer(STARTER), CPU)


# --- disk ----------------------------------------------------------------------------------------------------------------------------

NEEDS = {"checkpoints": 30e9, "result": 14e9, "levels": 6e9}


def test_a_run_for_which_the_disk_has_room_is_not_refused() -> None:
    checks.check_disk(Recipe(save_total_limit=2), NEEDS, 51e9)


def test_a_run_that_leaves_more_than_the_disk_takes_names_what_it_needs_what_there_is_and_what_lowers_it() -> None:
    with pytest.raises(UserError) as caught:
        checks.check_disk(Recipe(save_total_limit=2), NEEDS, 40e9)
    assert caught.value.code == "DISK"
    assert (
        "50.0 GB" in caught.value.problem and "40.0 GB are free" in caught.value.problem and "checkpoints 30.0 GB" in caught.value.problem
    )
    assert "save_total_limit=1 (10.0 GB less) or levels=[] (6.0 GB less)" in caught.value.remedy


def test_what_cannot_be_lowered_is_not_proposed() -> None:
    with pytest.raises(UserError) as caught:
        checks.check_disk(Recipe(save_total_limit=1), {"checkpoints": 0.0, "result": 14e9, "levels": 0.0}, 1e9)
    assert "Set " not in caught.value.remedy and "TRANSMUTE_HOME" in caught.value.remedy


@pytest.mark.usefixtures("workspace")
def test_a_run_without_room_leaves_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, 270 * 2**20))
    with pytest.raises(UserError, match="are free") as caught:
        runs.create(preset("demo"))
    assert caught.value.code == "DISK" and not list(paths.runs_dir().iterdir())

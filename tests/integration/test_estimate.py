"""The estimate beside the real thing: parameters and saved tensors of real models, a real probe, and the exported script really training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core import paths
from core.cli.app import app
from core.process import child_environment
from core.running import probe, runs
from core.training import activations, exports, measured, others, prospect, shapes
from core.training.hardware import detect
from core.training.presets import demo
from core.training.recipe import Recipe
from core.training.setting import FP32, HALF, Batch
from tests.integration.families import FAMILIES, SHAPE, config_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
ROWS, LENGTH = 2, 96


def shapes_of(family: str, **changes: int) -> shapes.Shapes:
    return shapes.shapes(json.loads(config_of(family, **changes).to_json_string(use_diff=False)))


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_as_transformers_makes_them(family: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(family))
    assert shapes_of(family).total == sum(parameter.numel() for parameter in model.parameters())


MIXED = {"num_experts_per_tok": 2, "moe_intermediate_size": 96}
EYES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "vision_use_head": False,
}
MORE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": MIXED | {"num_experts": 4, "head_dim": 48},
    "gemma3": {"text_config": SHAPE | {"head_dim": 32}, "vision_config": EYES | {"model_type": "siglip_vision_model", "patch_size": 14}},
}  # fmt: skip


@pytest.mark.parametrize("family", MORE)
def test_parameters_of_experts_and_of_towers_are_counted_too(family: str) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[family](**(MORE[family] if family == "gemma3" else SHAPE | MORE[family]))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = shapes.shapes(json.loads(config.to_json_string(use_diff=False)))
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
    assert counted.experts or counted.tower


@pytest.mark.parametrize("family", FAMILIES)
def test_what_accelerate_says_is_what_it_would_say(family: str) -> None:
    """Its own functions on the same model: the command itself takes names of the Hub only."""
    import torch
    from accelerate import init_empty_weights
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils import calculate_maximum_sizes
    from transformers import AutoModel

    with init_empty_weights():
        model = AutoModel.from_config(config_of(family), dtype=torch.float32)
    total_bytes, _ = calculate_maximum_sizes(model)
    for dtype in ("float32", "float16"):
        said = max(estimate_training_usage(total_bytes, dtype).values())
        assert others.accelerate_bytes(shapes_of(family), dtype) == pytest.approx(said, rel=1e-3), "buffers aside"


def saved_bytes(family: str, layers: int, recipe: Recipe) -> int:
    """What autograd keeps of a real forward pass, parameters left out: of two equal rows, or of the two as one packed row.

    Under bf16 it is the pass of the worker: frozen weights in bf16, adapters in one pass; of what learns the cast copy is left out too.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from core.training.attention import BY_DOCUMENT
    from core.training.lora import fuse_adapters

    torch.manual_seed(0)
    is_half = recipe.dtype == "bf16"
    dtype = torch.bfloat16 if is_half and recipe.is_adapter else torch.float32
    config = config_of(family, num_hidden_layers=layers, sliding_window=512)
    attention = "eager" if family == "gemma2" else BY_DOCUMENT if recipe.packing else "sdpa"
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    if recipe.is_adapter:
        lora = LoraConfig(task_type="CAUSAL_LM", r=recipe.lora_r, lora_dropout=recipe.lora_dropout, target_modules="all-linear")
        model = get_peft_model(model, lora)
        assert not is_half or fuse_adapters(model)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    decoder = (model.get_base_model() if recipe.is_adapter else model).train().model
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.randint(3, 100, (1, ROWS * LENGTH) if recipe.packing else (ROWS, LENGTH))
        positions = {"position_ids": torch.arange(LENGTH).repeat(ROWS)[None]} if recipe.packing else {}
        out = decoder(input_ids=ids, use_cache=False, **positions)
    del out
    copies = 2 * sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) if is_half else 0
    return sum(kept.values()) - copies


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "gemma2", "phi3"])
@pytest.mark.parametrize("method", ["lora", "fft"])
def test_saved_tensors_of_a_layer_are_counted_as_torch_keeps_them(family: str, method: str) -> None:
    recipe = Recipe(method=method, max_length=LENGTH, packing=False, micro_batch_size=ROWS)
    counted = saved_bytes(family, 2, recipe) - saved_bytes(family, 1, recipe)
    batch = Batch(ROWS, LENGTH, 0, 0, is_masked=False, is_flat=False)
    assert told_of(recipe, batch, family) == pytest.approx(counted, rel=0.07)


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3"])
@pytest.mark.parametrize(("method", "dropout"), [("lora", 0.05), ("lora", 0.0), ("fft", 0.0)])
def test_saved_tensors_of_a_packed_layer_are_counted_too(family: str, method: str, dropout: float) -> None:
    recipe = Recipe(method=method, max_length=ROWS * LENGTH, packing=True, micro_batch_size=1, lora_dropout=dropout)
    counted = saved_bytes(family, 2, recipe) - saved_bytes(family, 1, recipe)
    batch = Batch(1, ROWS * LENGTH, 0, 0, is_masked=False, is_flat=True, by_document=True)
    assert told_of(recipe, batch, family) == pytest.approx(counted, rel=0.07)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize(("method", "dropout"), [("lora", 0.05), ("lora", 0.0), ("fft", 0.0)])
def test_saved_tensors_of_a_packed_layer_under_bf16_on_a_cpu_are_counted(family: str, method: str, dropout: float) -> None:
    recipe = Recipe(method=method, max_length=ROWS * LENGTH, packing=True, micro_batch_size=1, lora_dropout=dropout, dtype="bf16")
    counted = saved_bytes(family, 2, recipe) - saved_bytes(family, 1, recipe)
    batch = Batch(1, ROWS * LENGTH, 0, 0, is_masked=False, is_flat=True, by_document=True, is_fused=True, on_cpu=True)
    assert told_of(recipe, batch, family, HALF) == pytest.approx(counted, rel=0.02)


def told_of(recipe: Recipe, batch: Batch, family: str, element: int = FP32) -> float:
    kind = "adapts" if recipe.is_adapter else "learns"
    return activations.layer_saved(recipe, shapes_of(family, sliding_window=512), batch, element, kind)


def test_a_probe_runs_twenty_real_steps_and_corrects_the_estimate(workspace: Path) -> None:
    result = CliRunner().invoke(app, ["estimate", "--preset", "demo", "--set", "method=lora", "--probe", "--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["probe"]["peak_bytes"] > 10_000_000 and said["probe"]["step_s"] > 0
    assert said["here"]["correction"]["runs"] == 1
    assert said["here"]["peak_bytes"] == pytest.approx(said["probe"]["peak_bytes"], rel=0.05)
    (pair,) = measured.read()
    assert pair.measured_bytes == said["probe"]["peak_bytes"]
    assert not list(paths.runs_dir().iterdir()), "the probe's run is gone"


PROBED = {
    "lora": {"method": "lora"},
    "qlora, packed": {"method": "qlora", "packing": True, "micro_batch_size": 1, "max_length": 512},
    "sft": {"method": "sft", "learning_rate": 1e-4},
    "fft, checkpointing": {"method": "fft", "learning_rate": 1e-4, "gradient_checkpointing": True},
}
# Of a model so small that the process is most of what is held: from run to run that alone differs by a seventh.
PROBE_UNDER, PROBE_OVER = 0.15, 0.25


@pytest.mark.parametrize("name", PROBED)
def test_after_a_probe_the_estimate_is_near_what_the_whole_run_takes(name: str, workspace: Path) -> None:
    """The run goes on longer than the probe, saves on the way and begins with whatever row comes first."""
    recipe = demo().model_copy(update={"micro_batch_size": 4, "max_steps": 30, "save_steps": 10, "levels": ()} | PROBED[name])
    probed = probe.begin(recipe)
    assert list(runs.follow(probed))[-1].state == "done"
    found = probe.result(probed)
    said = prospect.prospect(recipe, detect()).estimate
    assert said and said.correction.runs == 1
    run_id = runs.create(recipe, steps=("train",))
    runs.start(run_id)
    run = list(runs.follow(run_id))[-1]
    assert run.state == "done"
    taken = max(run.facts["memory_bytes"].values())
    assert taken * (1 - PROBE_UNDER) <= said.peak_bytes <= taken * (1 + PROBE_OVER), (said.peak_bytes, found.peak_bytes, taken)


def test_the_exported_script_trains_with_trl_alone(tmp_path: Path) -> None:
    recipe = demo().model_copy(update={"max_steps": 2, "method": "lora", "eval_dataset": "", "eval_fraction": 0.02, "micro_batch_size": 2})
    file = tmp_path / "train.py"
    file.write_text(exports.export(recipe, "script", detect()), encoding="utf-8")
    out = tmp_path / "result"
    arguments = [str(paths.EXAMPLES / "identity.json"), str(paths.STARTER), str(out)]
    environment = child_environment({"CUDA_VISIBLE_DEVICES": ""})
    del environment["PYTHONPATH"]  # nothing of Transmute is at hand
    child = subprocess.run(
        [sys.executable, "-W", "ignore", str(file), *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert child.returncode == 0, child.stderr[-3000:]
    assert "294 conversations to train on, 6 to measure on" in child.stdout and "eval_loss" in child.stdout
    assert (out / "adapter_model.safetensors").stat().st_size > 100_000

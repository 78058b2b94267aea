"""How a run is spread over its devices: what `auto` comes to, and a file of one's own in place of those that ship."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from core import paths
from core.errors import UserError
from core.training import accelerated, checks, exports, forecast, launch, shapes
from core.training.hardware import Gpu, Hardware, TorchBuild
from core.training.recipe import Recipe
from core.training.workload import Workload

GB = 10**9
CPU = Hardware(2, 24 * GB, (), TorchBuild("2.13.0+cpu", None))
WORK = Workload(rows=1000, tokens=1000 * 1500, longest=2048, eval_rows=0, eval_tokens=0, is_counted=True)
LIGHT = {"micro_batch_size": 1, "gradient_checkpointing": True, "max_length": 2048, "eval_fraction": 0.0}
pytestmark = pytest.mark.usefixtures("workspace")


def gpus(vram_gb: int, count: int) -> Hardware:
    return Hardware(32, 1000 * GB, (Gpu("NVIDIA A100", vram_gb * GB, (8, 0)),) * count, TorchBuild("2.13.0", "12.8"))


# model, method, further knobs, machine: what auto comes to
CHOICES = [
    ("lmsys/vicuna-7b-v1.5", "qlora", {}, CPU, "cpu"),
    ("lmsys/vicuna-7b-v1.5", "qlora", {}, gpus(24, 1), "single_gpu"),
    ("lmsys/vicuna-7b-v1.5", "qlora", {}, gpus(24, 4), "ddp"),
    ("lmsys/vicuna-7b-v1.5", "lora", {}, gpus(24, 4), "ddp"),
    ("lmsys/vicuna-7b-v1.5", "lora", {}, gpus(12, 4), "fsdp2"),
    ("lmsys/vicuna-7b-v1.5", "sft", {}, gpus(80, 4), "ddp"),
    ("lmsys/vicuna-7b-v1.5", "fft", {}, gpus(80, 1), "single_gpu"),
    ("lmsys/vicuna-7b-v1.5", "fft", {}, gpus(80, 4), "fsdp2"),
    ("lmsys/vicuna-7b-v1.5", "fft", {}, gpus(24, 2), "zero3_offload"),
    ("lmsys/vicuna-7b-v1.5", "fft", {"sample_prompts": "Who are you?"}, gpus(80, 4), "ddp"),  # which only whole models answer
    ("lmsys/vicuna-7b-v1.5", "fft", {"num_processes": 1}, gpus(80, 4), "single_gpu"),
    ("lmsys/vicuna-7b-v1.5", "qlora", {}, gpus(4, 4), "ddp"),  # fits nowhere, and 4-bit weights cannot be shared as they are stored
    ("lmsys/vicuna-7b-v1.5", "qlora", {"quant_storage": "compute"}, gpus(5, 4), "fsdp2"),
    ("lmsys/vicuna-7b-v1.5", "fft", {"accelerate_config": "zero2"}, gpus(80, 4), "zero2"),  # chosen, it stays
]


@pytest.mark.parametrize(("model", "method", "knobs", "machine", "chosen"), CHOICES)
def test_auto_shares_what_does_not_fit_whole_and_nothing_else(model: str, method: str, knobs: dict, machine: Hardware, chosen: str) -> None:
    known = shapes.of_listed(model)
    assert known
    found = forecast.of_shapes(Recipe(method=method, **LIGHT | knobs), known, machine, WORK)
    assert found.accelerate_config == chosen


FSDP = (paths.SPACES / "accelerate" / "fsdp2.yaml").read_text(encoding="utf-8")
ZERO3 = (paths.SPACES / "accelerate" / "zero3.yaml").read_text(encoding="utf-8")
ZERO3_SETTINGS = (paths.SPACES / "deepspeed" / "zero3.json").read_text(encoding="utf-8")
OFFLOADED = FSDP.replace("fsdp_offload_params: false", "fsdp_offload_params: true")


def test_what_is_shown_is_what_is_launched() -> None:
    assert accelerated.texts(Recipe(), "fsdp2", gpus(80, 4)) == (FSDP, "")
    assert accelerated.texts(Recipe(), "zero3", gpus(80, 4)) == (ZERO3, ZERO3_SETTINGS)
    assert accelerated.texts(Recipe(accelerate_yaml=OFFLOADED), "fsdp2", gpus(80, 4)) == (OFFLOADED, "")
    assert "use_cpu: true" in accelerated.texts(Recipe(), "ddp", CPU)[0]


def test_a_file_of_ones_own_is_launched_with_also_by_one_process(tmp_path: Path) -> None:
    recipe = Recipe(accelerate_config="cpu", accelerate_yaml=accelerated.texts(Recipe(), "cpu", CPU)[0])
    argv = launch.command(tmp_path, recipe, CPU, threads=1).argv
    assert argv[argv.index("--config_file") + 1] == str(tmp_path / "accelerate.yaml")
    assert accelerated.own_files(recipe, CPU, tmp_path) == {tmp_path / "accelerate.yaml": recipe.accelerate_yaml}


def test_deepspeed_settings_of_ones_own_are_named_by_the_file_beside_them(tmp_path: Path) -> None:
    recipe = Recipe(accelerate_config="zero3", deepspeed_json=ZERO3_SETTINGS.replace("1000000000,", "2000000000,"))
    files = accelerated.own_files(recipe, gpus(80, 2), tmp_path)
    assert files[tmp_path / "deepspeed.json"] == recipe.deepspeed_json
    named = yaml.safe_load(files[tmp_path / "accelerate.yaml"])
    assert named["deepspeed_config"] == {"deepspeed_config_file": str(tmp_path / "deepspeed.json"), "zero3_init_flag": True}


REFUSED = [
    ({"accelerate_yaml": FSDP}, "needs a distribution that is chosen"),
    ({"accelerate_yaml": FSDP, "accelerate_config": "ddp"}, "is for FSDP and the distribution is ddp"),
    ({"accelerate_yaml": "a: [", "accelerate_config": "ddp"}, "no YAML"),
    ({"accelerate_yaml": "words", "accelerate_config": "ddp"}, "no keys and values"),
    ({"accelerate_yaml": FSDP + "mixed_precision: fp8\n", "accelerate_config": "fsdp2"}, "mixed_precision cannot be set here"),
    ({"accelerate_yaml": FSDP.replace("LOCAL_MACHINE", "AMAZON_SAGEMAKER"), "accelerate_config": "fsdp2"}, "another place"),
    ({"accelerate_yaml": ZERO3.replace("spaces/deepspeed/zero3.json", "/etc/passwd"), "accelerate_config": "zero3"}, "no file that ships"),
    ({"deepspeed_json": ZERO3_SETTINGS, "accelerate_config": "zero2"}, "not for ZeRO stage 2"),
    ({"deepspeed_json": ZERO3_SETTINGS, "accelerate_config": "ddp"}, "has no part in ddp"),
    ({"deepspeed_json": "{", "accelerate_config": "zero3"}, "no JSON"),
    ({"deepspeed_json": "[]", "accelerate_config": "zero3"}, "not for ZeRO stage 3"),
]


@pytest.mark.parametrize(("knobs", "said"), REFUSED)
def test_a_file_that_cannot_be_meant_is_refused(knobs: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        checks.check(Recipe(method="lora", **knobs), gpus(80, 2))


@pytest.mark.parametrize("config", launch.SPREAD)
def test_a_shipped_file_is_taken_back_as_ones_own(config: str) -> None:
    text, settings = accelerated.texts(Recipe(), config, gpus(80, 2))
    checks.check(Recipe(method="lora", accelerate_config=config, accelerate_yaml=text, deepspeed_json=settings), gpus(80, 2))


def test_the_exported_command_brings_the_files_along(tmp_path: Path) -> None:
    settings = json.dumps({"zero_optimization": {"stage": 3}}) + "\n"
    recipe = Recipe(method="lora", name="Mine", accelerate_config="zero3", deepspeed_json=settings)
    text = exports.export(recipe, "command", gpus(80, 2))
    head, _, last = text.rpartition("END\n")
    subprocess.run(["sh", "-c", f"{head}END\n"], cwd=tmp_path, check=True)
    assert (tmp_path / "Mine-deepspeed.json").read_text(encoding="utf-8") == settings
    written = yaml.safe_load((tmp_path / "Mine-accelerate.yaml").read_text(encoding="utf-8"))
    assert written["deepspeed_config"]["deepspeed_config_file"] == "Mine-deepspeed.json"
    words = shlex.split(last.replace("\\\n", " "))
    assert words[words.index("--config_file") + 1] == "Mine-accelerate.yaml"
    assert Recipe.model_validate(yaml.safe_load(exports.export(recipe, "yaml", CPU))) == recipe

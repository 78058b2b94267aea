"""How a training worker is started: pure data in, an argument list and an environment out. Golden-tested."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.paths import SPACES
from core.training.hardware import Hardware
from core.training.recipe import Recipe

# Configurations under which every process holds only a share of the weights.
SHARDED = ("fsdp2", "zero3")
DEEPSPEED = ("zero2", "zero3")


@dataclass(frozen=True)
class Launch:
    """A worker's start: `argv` never passes through a shell, `env` is added to the allow-listed environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    accelerate_config: str
    num_processes: int


def command(run_dir: Path, recipe: Recipe, hardware: Hardware, threads: int) -> Launch:
    """The command that trains `recipe` in `run_dir` on `hardware`, each process with `threads` CPU threads.

    One process needs no launcher; two or more, and every DeepSpeed configuration, go through ``accelerate launch``.
    """
    num_processes = recipe.num_processes or max(1, len(hardware.gpus))
    config = recipe.accelerate_config
    if config == "auto":
        config = "ddp" if num_processes > 1 else ("single_gpu" if hardware.gpus else "cpu")
    env = {"OMP_NUM_THREADS": str(threads)}
    if not hardware.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
        # accelerate's use_cpu would quietly turn DeepSpeed into plain data parallelism.
        env |= {"DS_ACCELERATOR": "cpu"} if config in DEEPSPEED else {"ACCELERATE_USE_CPU": "true"}
    worker = ("-m", "core.worker", str(run_dir))
    if num_processes == 1 and config in ("cpu", "single_gpu", "ddp"):
        return Launch((sys.executable, *worker), env, config, 1)
    file = "cpu" if config == "ddp" and not hardware.gpus else config
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(SPACES / "accelerate" / f"{file}.yaml"))
    options = ("--num_processes", str(num_processes), "--num_machines", "1", "--main_process_port", "0")
    return Launch((*launcher, *options, *worker), env, config, num_processes)


def check(recipe: Recipe, hardware: Hardware) -> None:
    """Refuse what cannot work before anything starts.

    Raises:
        UserError: with the reason and the nearest that works.
    """
    where = "the recipe"
    if recipe.method == "qlora" and recipe.accelerate_config in SHARDED and recipe.quant_storage != "compute":
        raise UserError(
            f"QLoRA under {recipe.accelerate_config} cannot shard 4-bit weights stored as uint8.",
            where,
            "Set quant_storage=compute, so that they are stored in the compute dtype, or take zero2 or method=lora.",
        )
    if not hardware.gpus:
        _check_cpu(recipe, where)
    elif recipe.num_processes > len(hardware.gpus):
        raise UserError(
            f"{recipe.num_processes} processes are asked for and this machine has {len(hardware.gpus)} GPUs.", where, "Set num_processes=0."
        )
    if hardware.gpus and recipe.dtype == "bf16" and not hardware.has_bf16:
        raise UserError(f"{hardware.gpus[0].name} has no bf16.", where, "Set dtype=fp16 or dtype=auto.")


def _check_cpu(recipe: Recipe, where: str) -> None:
    if recipe.optim.startswith("paged_") or recipe.optim == "adamw_8bit":
        raise UserError(f"The optimizer {recipe.optim} needs a GPU, and there is none.", where, "Set optim=adamw_torch.")
    if recipe.dtype == "fp16":
        raise UserError("fp16 training needs a GPU, and there is none.", where, "Set dtype=auto, which takes fp32 on a CPU.")
    if recipe.attn_implementation == "flash_attention_2":
        raise UserError("flash_attention_2 needs a GPU, and there is none.", where, "Set attn_implementation=auto.")
    if recipe.accelerate_config in ("single_gpu", "fsdp2"):
        raise UserError(f"{recipe.accelerate_config} needs a GPU, and there is none.", where, "Set accelerate_config=auto or ddp.")
    if recipe.method == "qlora" and recipe.accelerate_config == "zero3":
        raise UserError("4-bit weights under ZeRO-3 need a GPU, and there is none.", where, "Take method=lora or accelerate_config=zero2.")

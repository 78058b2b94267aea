"""What cannot work is refused before anything starts: the reason, and the nearest that can. Collected in the order a person decides."""

from __future__ import annotations

import importlib.util
import math
from typing import Any

from core.errors import UserError
from core.training import accelerated, architecture
from core.training.hardware import Hardware
from core.training.launch import DEEPSPEED, OFFLOAD, SHARDED, num_processes
from core.training.models import ModelRef
from core.training.recipe import Recipe
from core.units import size

WHERE = "the recipe"
BITSANDBYTES = ("paged_adamw_32bit", "paged_adamw_8bit", "adamw_8bit")  # optimizers
MAX_PROMPTS = 8
DISK_SPARE_BYTES = 256 * 2**20  # that a run leaves free, as every other step does
PACKAGES = {"trackio": "trackio", "wandb": "wandb"}  # value of report_to: package


def check(recipe: Recipe, hardware: Hardware) -> None:
    """Refuse what `hardware` cannot do, and knobs that contradict each other.

    Raises:
        UserError: with the reason and the nearest that works.
    """
    check_machine(recipe, hardware)
    accelerated.check(recipe)
    _check_packages(recipe, hardware)
    _check_evaluation(recipe)


def check_machine(recipe: Recipe, hardware: Hardware) -> None:
    """Refuse what no machine like `hardware` can do, whatever is installed on it.

    Raises:
        UserError: with the reason and the nearest that works.
    """
    if not hardware.gpus:  # first: what a GPU alone can do needs no other remedy
        _check_cpu(recipe)
    _check_distribution(recipe, hardware)
    if hardware.gpus:
        _check_gpus(recipe, hardware)


def _can_shard(recipe: Recipe) -> bool:
    """Whether the weights can be shared between devices."""
    return recipe.method != "qlora" or recipe.quant_storage == "compute"


def _check_distribution(recipe: Recipe, hardware: Hardware) -> None:
    if recipe.accelerate_config in SHARDED and not _can_shard(recipe):
        raise UserError(
            f"QLoRA under {recipe.accelerate_config} cannot shard 4-bit weights stored as uint8.",
            WHERE,
            "Set quant_storage=compute, so that they are stored in the compute dtype, or take zero2 or method=lora.",
        )
    if recipe.accelerate_config in ("cpu", "single_gpu") and recipe.num_processes > 1:
        raise UserError(
            f"{recipe.accelerate_config} is for one process and num_processes is {recipe.num_processes}.",
            WHERE,
            "Set accelerate_config=ddp.",
        )
    if recipe.accelerate_config in OFFLOAD and recipe.optim in ("adafactor", "adamw_8bit", "paged_adamw_8bit"):
        raise UserError(
            f"{recipe.accelerate_config} runs DeepSpeed's own Adam in main memory, which would quietly take the place of {recipe.optim}.",
            WHERE,
            "Set optim=adamw_torch: its state takes no GPU memory there.",
        )
    if recipe.accelerate_config == "fsdp2" and recipe.optim in BITSANDBYTES:
        raise UserError(
            f"The optimizer {recipe.optim} cannot work on weights that fsdp2 has split.",
            WHERE,
            "Set optim=adamw_torch: each GPU keeps only its share of the state.",
        )
    if recipe.prompts and recipe.accelerate_config in SHARDED:
        raise UserError(
            f"Sample questions need the whole model on one device, and {recipe.accelerate_config} splits it.",
            "sample_prompts",
            "Set sample_prompts= (none), or take ddp or zero2.",
        )
    if hardware.gpus and recipe.num_processes > len(hardware.gpus):
        raise UserError(
            f"{recipe.num_processes} processes are asked for and this machine has {len(hardware.gpus)} GPUs.", WHERE, "Set num_processes=0."
        )


def check_nodes(recipe: Recipe) -> None:
    """Refuse what several machines without a common disk cannot do.

    Raises:
        UserError: with the reason and the nearest that works.
    """
    if recipe.accelerate_config in ("cpu", "single_gpu"):
        raise UserError(f"{recipe.accelerate_config} is for one process on one machine.", WHERE, "Set accelerate_config=auto.")
    if recipe.accelerate_config == "fsdp2":
        remedy = "Set accelerate_config=zero3, whose checkpoints each machine keeps by itself, or ddp."
        raise UserError("A checkpoint of fsdp2 is in parts that every machine must see.", WHERE, remedy)


def _check_gpus(recipe: Recipe, hardware: Hardware) -> None:
    old = next((gpu for gpu in hardware.gpus if not gpu.has_bf16), None)
    if old and recipe.dtype == "bf16":
        raise UserError(f"{old.name} has no bf16.", WHERE, "Set dtype=fp16 or dtype=auto.")
    if recipe.dtype == "fp32" and recipe.attn_implementation == "flash_attention_2":
        raise UserError("flash_attention_2 computes in 16 bit only.", WHERE, "Set dtype=auto, or attn_implementation=auto.")
    if old and recipe.attn_implementation == "flash_attention_2":
        capability = ".".join(map(str, old.compute_capability))
        raise UserError(
            f"flash_attention_2 needs compute capability 8.0 (Ampere), and {old.name} has {capability}.",
            WHERE,
            "Set attn_implementation=auto.",
        )


def _check_cpu(recipe: Recipe) -> None:
    if recipe.optim in BITSANDBYTES:
        raise UserError(f"The optimizer {recipe.optim} needs a GPU, and there is none.", WHERE, "Set optim=adamw_torch.")
    if recipe.dtype == "fp16":
        raise UserError("fp16 training needs a GPU, and there is none.", WHERE, "Set dtype=auto, which takes fp32 or bf16 on a CPU.")
    if recipe.attn_implementation == "flash_attention_2":
        raise UserError("flash_attention_2 needs a GPU, and there is none.", WHERE, "Set attn_implementation=auto.")
    if recipe.accelerate_config in ("single_gpu", "fsdp2"):
        raise UserError(f"{recipe.accelerate_config} needs a GPU, and there is none.", WHERE, "Set accelerate_config=auto or ddp.")
    if recipe.accelerate_config in OFFLOAD:
        plain = recipe.accelerate_config.removesuffix("_offload")
        remedy = f"Set accelerate_config={plain} or auto." if plain not in SHARDED or _can_shard(recipe) else "Set accelerate_config=auto."
        raise UserError(f"{recipe.accelerate_config} moves GPU memory to main memory, and there is no GPU.", WHERE, remedy)


def _check_packages(recipe: Recipe, hardware: Hardware) -> None:
    if recipe.use_liger_kernel and not hardware.gpus:
        raise UserError("Liger kernels are GPU programs, and there is no GPU.", WHERE, "Set use_liger_kernel=false.")
    if recipe.use_liger_kernel and not is_installed("liger_kernel"):
        remedy = "Set use_liger_kernel=false, or install it: pip install liger-kernel."
        raise UserError("The package liger-kernel is not installed.", WHERE, remedy)
    package = PACKAGES.get(recipe.report_to)
    if package and not is_installed(package):
        remedy = f"Set report_to=none (TensorBoard files are written anyway), or install it: pip install {package}."
        raise UserError(f"The package {package} is not installed.", WHERE, remedy)
    if recipe.accelerate_config in DEEPSPEED and not is_installed("deepspeed"):
        others = "fsdp2 or ddp" if hardware.gpus and _can_shard(recipe) else "ddp"
        raise UserError("The package deepspeed is not installed.", WHERE, f"Take accelerate_config={others}, or pip install deepspeed.")
    if recipe.attn_implementation == "flash_attention_2" and not (is_installed("flash_attn") or is_installed("kernels")):
        remedy = "Set attn_implementation=auto, or install it: pip install -r requirements-gpu.txt."
        raise UserError("The package flash-attn is not installed.", WHERE, remedy)


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _check_evaluation(recipe: Recipe) -> None:
    has_eval = bool(recipe.eval_dataset) or recipe.eval_fraction > 0
    if recipe.early_stopping_patience and not recipe.eval_steps:
        raise UserError("Stopping early needs evaluations on the way, and eval_steps is 0.", WHERE, "Set eval_steps=50, for example.")
    if (recipe.early_stopping_patience or recipe.eval_steps) and not has_eval:
        without = "eval_steps=0" + (" and early_stopping_patience=0" if recipe.early_stopping_patience else "")
        problem = "There is nothing to evaluate on: no eval_dataset, and eval_fraction is 0."
        raise UserError(problem, WHERE, f"Set eval_fraction=0.05, or {without}.")
    if len(recipe.prompts) > MAX_PROMPTS:
        raise UserError(f"{len(recipe.prompts)} sample questions are given.", "sample_prompts", f"Keep {MAX_PROMPTS} of them.")


def check_model(recipe: Recipe, model: ModelRef) -> None:
    """Refuse a recipe that this model cannot follow: layers, modules or positions that it does not have, attention that drops a part of it.

    Raises:
        UserError: with the reason and the nearest that works.
    """
    config = architecture.read_config(model.path)
    text: dict[str, Any] = architecture.text_config(config)
    layers = text.get("num_hidden_layers")
    if recipe.method == "sft" and layers and recipe.trainable_layers > layers:
        raise UserError(
            f"{model.name} has {layers} decoder layers and {recipe.trainable_layers} shall learn.",
            "trainable_layers",
            f"Set it to {layers} or less.",
        )
    _check_positions(recipe, model.name, config)
    if recipe.packing and not architecture.separates_documents(config):
        raise UserError(
            f"Packed conversations would see each other: the layers of {model.name} are not told where one begins.",
            "packing",
            "Set packing=false, which makes every conversation a row of its own.",
        )
    if text.get("attn_logit_softcapping") and recipe.attn_implementation == "sdpa":
        raise UserError(
            f"{model.name} caps its attention scores, which sdpa leaves out: another model would be trained.",
            "attn_implementation",
            "Set attn_implementation=auto, which takes eager here.",
        )
    if recipe.is_adapter and recipe.target_modules != "all-linear":
        _check_targets(recipe.target_modules, model)


def _check_positions(recipe: Recipe, name: str, config: dict[str, Any]) -> None:
    reached = architecture.positions(config)
    if not reached or recipe.max_length <= reached:
        return
    if recipe.rope_scaling == "linear":
        architecture.stretched(config, recipe.max_length)
        return
    factor = architecture.stretch_factor(recipe.max_length, reached)
    stretched = (
        f"; or rope_scaling=linear, which stretches its positions by {factor}, as FastChat does" if architecture.can_stretch(config) else ""
    )
    raise UserError(
        f"{name} has {reached} positions and max_length is {recipe.max_length}.",
        "max_length",
        f"Set max_length={reached} or less{stretched}.",
    )


def _check_targets(asked: str, model: ModelRef) -> None:
    known = architecture.linear_names(model.path)
    names = [name for name in (word.strip() for word in asked.split(",")) if name]
    unknown = [name for name in names if name not in known]
    if not names or (unknown and known):
        problem = f"{model.name} has no module {' or '.join(unknown)}." if names else f"{asked!r} names no module."
        raise UserError(problem, "target_modules", f"Take all-linear, or some of: {', '.join(known)}." if known else "Take all-linear.")


def check_disk(recipe: Recipe, needs: dict[str, float], free_bytes: float) -> None:
    """Refuse a run that leaves more than the disk has room for; `needs` is `forecast.disk`.

    Raises:
        UserError: with what it needs, what there is, and the setting that lowers it (code DISK).
    """
    missing = sum(needs.values()) + DISK_SPARE_BYTES - free_bytes
    if missing <= 0:
        return
    one = needs["checkpoints"] / (recipe.save_total_limit + 1)
    fewer = min(math.ceil(missing / one), recipe.save_total_limit - 1) if one else 0
    ways = [f"save_total_limit={recipe.save_total_limit - fewer} ({size(fewer * one)} less)"] if fewer else []
    ways += [f"levels=[] ({size(needs['levels'])} less)"] if needs["levels"] else []
    lowered = f"Set {' or '.join(ways)}; or make room" if ways else "Make room"
    parts = ", ".join(f"{name} {size(needed)}" for name, needed in needs.items() if needed)
    raise UserError(
        f"The run needs about {size(sum(needs.values()))} of disk ({parts}), and {size(free_bytes)} are free.",
        "the workspace",
        f"{lowered}: delete runs that you no longer need, or set TRANSMUTE_HOME to a larger disk.",
        code="DISK",
    )


def check_data(recipe: Recipe, num_train: int, num_eval: int, hardware: Hardware) -> None:
    """Refuse numbers that cannot work with this much data: `num_train` conversations to train on, `num_eval` to measure on.

    Raises:
        UserError: a micro batch that nothing fills, or a share set aside that comes to no conversation.
    """
    if recipe.eval_fraction and not recipe.eval_dataset and not num_eval:
        raise UserError(
            f"A share of {recipe.eval_fraction:g} of the {num_train} conversations sets none aside: those that are alike stay on one side.",
            "eval_fraction",
            "Give more conversations that differ, or set eval_fraction=0 to go without an evaluation.",
        )
    processes = num_processes(recipe, hardware)
    if recipe.micro_batch_size * processes > num_train:
        if processes > num_train:
            remedy = f"Set num_processes={max(1, num_train)} or fewer, or give more conversations."
        else:
            remedy = f"Set micro_batch_size={num_train // processes} or less."
        problem = f"{_at_once(recipe, processes)} at a time are more than the {num_train} conversations there are."
        raise UserError(problem, "micro_batch_size", remedy)


def check_packed(recipe: Recipe, num_rows: int, hardware: Hardware) -> None:
    """Refuse a micro batch that the `num_rows` packed rows of an epoch never fill: `check_data` for rows that hold many conversations each.

    Raises:
        UserError: with the micro batch that they fill, and what fills this one.
    """
    processes = num_processes(recipe, hardware)
    if recipe.micro_batch_size * processes <= num_rows:
        return
    smaller = f"micro_batch_size={num_rows // processes} or less, or " if processes <= num_rows else ""
    raise UserError(
        f"{_at_once(recipe, processes)} at a time are more than the conversations fill when packed: {num_rows} of {recipe.max_length} tokens.",
        "micro_batch_size",
        f"Set {smaller}packing=false, which makes every conversation a row of its own.",
    )


def _at_once(recipe: Recipe, processes: int) -> str:
    return f"{recipe.micro_batch_size} rows" + (f" on each of {processes} devices" if processes > 1 else "")

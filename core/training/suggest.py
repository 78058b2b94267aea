"""Settings for a model, a dataset and a machine: today's usual values, and batches as large as fit. Every choice is said with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.training import checks
from core.training.architecture import UNSEPARATED
from core.training.forecast import Estimate, of_shapes
from core.training.hardware import Hardware
from core.training.recipe import ADAPTER_METHODS, Method, Recipe
from core.training.shapes import Shapes
from core.training.workload import Workload

LONGEST = 8192  # tokens; beyond it a row is mostly worth splitting
BATCH_TOKENS = 16_384  # of a micro batch; more does not make a GPU faster
CPU_BATCH_TOKENS = 2048
STEP_TOKENS = 65_536  # of an optimizer step, where the data are many
STEPS_AN_EPOCH = 50  # at least, where the data are few
# Learning rates of adapters and of whole weights, for models up to so many parameters. Adapters: QLoRA (arXiv:2305.14314, table 9) takes
# 2e-4 to 13B and 1e-4 from 33B. Weights: FastChat takes 2e-5 for 7B. The smaller the model, the larger the steps it bears.
RATES = ((0.5e9, 1e-3, 1e-4), (2e9, 2e-4, 5e-5), (20e9, 2e-4, 2e-5), (math.inf, 1e-4, 1e-5))
EPOCHS = ((2_000, 3.0), (20_000, 2.0), (math.inf, 1.0))  # up to so many conversations


@dataclass(frozen=True)
class Suggestion:
    """Knobs to set, why, and what the recipe then takes."""

    knobs: dict[str, Any]
    reasons: tuple[str, ...]
    estimate: Estimate


def suggest(recipe: Recipe, model: Shapes, hardware: Hardware, work: Workload, method: Method | None = None) -> Suggestion:
    """Settings for the model and the data of `recipe` on `hardware`. Names, data, loss, levels and seeds stay as they are.

    Without `method` it is LoRA where the base fits in 16 bit, else QLoRA; each is tried plain, then with checkpointing, and on several
    GPUs whole on each before shared between them.

    Raises:
        UserError: no method of those fits this machine.
    """
    for chosen in (method,) if method else ("lora", "qlora"):
        for sharing in ("ddp", "fsdp2") if len(hardware.gpus) > 1 and chosen != "qlora" else ("auto",):
            for checkpointing in (False, True):
                begin = _begin(recipe, model, hardware, work, chosen) | {
                    "accelerate_config": sharing,
                    "gradient_checkpointing": checkpointing,
                }
                if sharing == "fsdp2":
                    begin["optim"] = "adamw_torch"  # bitsandbytes does not know split weights
                if found := _largest_batch(recipe, begin, model, hardware, work):
                    return found
    wanted = method or "qlora"
    raise UserError(
        f"A model of {model.total / 1e9:.1f} billion parameters does not fit this machine with {wanted}.",
        recipe.base_model,
        "Take a smaller base model, or a larger machine: `estimate` lists those that it fits.",
        code="NO_FIT",
    )


def _begin(recipe: Recipe, model: Shapes, hardware: Hardware, work: Workload, method: Method) -> dict[str, Any]:
    is_adapter = method in ADAPTER_METHODS
    of_adapter, of_weights = next((adapter, weights) for most, adapter, weights in RATES if model.total <= most)
    conversations = work.conversations or work.rows
    learns_much = bool(hardware.gpus) and not is_adapter
    return {
        "method": method,
        "learning_rate": of_adapter if is_adapter else of_weights,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "num_train_epochs": next(epochs for most, epochs in EPOCHS if conversations <= most),
        "max_steps": 0,
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "use_dora": False,
        "use_rslora": False,
        "max_length": _length(recipe, model, work),
        "packing": model.family not in UNSEPARATED,
        "group_by_length": False,
        "dtype": "auto",
        "optim": "paged_adamw_8bit" if learns_much else "adamw_torch",
        "num_processes": 0,
        "attn_implementation": "auto",
        "use_liger_kernel": recipe.use_liger_kernel and bool(hardware.gpus),
        "accelerate_yaml": "",  # they are for a distribution that was chosen otherwise
        "deepspeed_json": "",
    }


def _length(recipe: Recipe, model: Shapes, work: Workload) -> int:
    """As long as the longest conversation, where that was counted, in steps of 256; never beyond the model's positions."""
    most = min(LONGEST, model.positions or recipe.max_length)
    wanted = 256 * math.ceil(work.longest_conversation / 256) if work.longest_conversation else recipe.max_length
    return min(most, max(256, wanted))


def _largest_batch(recipe: Recipe, begin: dict[str, Any], model: Shapes, hardware: Hardware, work: Workload) -> Suggestion | None:
    """The largest micro batch, a power of two, that fits and is filled; None where not even one row does."""
    length: int = begin["max_length"]
    packed, processes = work.packed(length), max(1, len(hardware.gpus))
    rows = (BATCH_TOKENS if hardware.gpus else CPU_BATCH_TOKENS) // length
    rows = 2 ** int(math.log2(max(1, min(rows, packed.rows // processes))))  # more than the data fill are refused
    while rows:
        accumulated = _accumulation(packed, rows, length, processes)
        knobs = begin | {"micro_batch_size": rows, "gradient_accumulation_steps": accumulated}
        changed = recipe.model_copy(update=knobs)
        try:
            checks.check_machine(changed, hardware)
        except UserError:
            return None
        if (found := of_shapes(changed, model, hardware, packed)).fits:
            whole = {"accelerate_config": "auto"} if changed.accelerate_config == "ddp" else {}  # which comes to ddp, since it fits
            return Suggestion(knobs | whole, _reasons(changed, found, hardware, work), found)
        rows //= 2
    return None


def _accumulation(work: Workload, rows: int, length: int, processes: int) -> int:
    """So many micro batches a step that there are enough steps, and not more tokens in one than help."""
    most = max(1, STEP_TOKENS // (rows * length * processes))
    enough = max(1, work.rows // (rows * processes * STEPS_AN_EPOCH))
    return min(most, enough)


def _reasons(chosen: Recipe, found: Estimate, hardware: Hardware, work: Workload) -> tuple[str, ...]:
    where = "each GPU" if len(hardware.gpus) > 1 else "the GPU" if hardware.gpus else "this machine"
    if chosen.method == "lora":
        method = f"LoRA: the base fits into {where} in {'16 bit' if hardware.gpus else '32 bit'}, so nothing is lost to 4-bit weights."
    elif chosen.method == "qlora":
        method = f"QLoRA: the base fits into {where} in 4 bit only." if hardware.gpus else "QLoRA: the base fits into memory in 4 bit."
    else:
        method = f"{chosen.method}, as asked."
    length = f"Rows of {chosen.max_length:,} tokens{', packed' if chosen.packing else ' at most'}" + (
        ": the longest conversation fits." if 0 < work.longest_conversation <= chosen.max_length else "; what is longer is cut."
    )
    step = chosen.micro_batch_size * chosen.gradient_accumulation_steps * chosen.max_length * found.processes
    batches = "one micro batch" if chosen.gradient_accumulation_steps == 1 else f"{chosen.gradient_accumulation_steps} micro batches"
    on_each = f" on each of {found.processes} GPUs" if found.processes > 1 else ""
    batch = f"{step:,} tokens a step: {batches} of {chosen.micro_batch_size} rows{on_each}."
    often = "Once" if chosen.num_train_epochs == 1 else f"{chosen.num_train_epochs:g} times"
    epochs = (
        f"{often} through the data at a learning rate of {chosen.learning_rate:g}, as is usual for this method, size and amount of data."
    )
    slower = ("Activations are computed again, without which it does not fit.",) if chosen.gradient_checkpointing else ()
    shared = ("The weights are shared between the GPUs, without which they do not fit.",) if chosen.accelerate_config == "fsdp2" else ()
    return (method, length, batch, epochs, *slower, *shared)

"""Where a process of a run computes and on how many tokens at a time, and which weights learn: what every term of the estimate starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.training.hardware import Hardware
from core.training.launch import num_processes
from core.training.recipe import Recipe
from core.training.shapes import Shapes
from core.training.workload import Workload, eval_batch_rows

Device = Literal["cpu", "gpu"]
Precision = Literal["bf16", "fp16", "fp32"]
FP32, HALF = 4, 2
# Of the process, not of the model: what the libraries load after their imports, thread pools, rows and optimizer objects. Measured on the
# embedded starter and on a 20M model (CPU, 2026-11), none of which the estimate is judged by.
CPU_OVERHEAD = 95 * 2**20
# Weights from which a CPU that multiplies bf16 is given it. Measured on two cores with avx512_bf16: a 40M model trains 1.4 times as fast with
# about the same memory, a 9M one 1.1 times as fast with 1.7 times the memory (`benchmarks/results/train.json`).
BF16_WEIGHTS = 30_000_000
CUDA_CONTEXT = 550 * 2**20  # driver, kernels and cuBLAS workspace of one process; outside what torch counts as allocated


@dataclass(frozen=True)
class Setting:
    """Where a process of the run computes. `half` is true under bf16 or fp16."""

    device: Device
    half: bool
    processes: int = 1
    sharing: str = "ddp"  # the recipe's accelerate_config, resolved

    @property
    def weights_share(self) -> float:
        """Of the weights, what this process holds on its device between two steps."""
        if self.sharing == "zero3_offload":
            return 0.0
        return 1 / self.processes if self.sharing in ("fsdp2", "zero3") else 1.0

    @property
    def optimizer_share(self) -> float:
        return 1.0 if self.sharing == "ddp" else 1 / self.processes

    @property
    def is_zero(self) -> bool:
        """DeepSpeed's engine holds every weight in the compute dtype, and a float32 copy of what learns beside the optimizer's state."""
        return self.sharing.startswith("zero")

    @property
    def offloads(self) -> bool:
        return self.sharing.endswith("_offload")


@dataclass(frozen=True)
class Batch:
    """The tokens of a micro batch, and of one batch of an evaluation (0 rows where nothing is evaluated)."""

    rows: int
    length: int
    eval_rows: int
    eval_length: int
    is_masked: bool  # rows are packed or padded, so that attention takes a mask
    is_flat: bool  # a packed batch is one row of all its tokens
    by_document: bool = False  # attention takes the documents of a packed row one at a time (`core.training.attention`)
    is_fused: bool = False  # adapters take one pass and share their inputs (`core.training.lora`)
    on_cpu: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def precision_of(recipe: Recipe, hardware: Hardware, weights: int) -> Precision:
    """What the recipe's precision comes to on `hardware` for a model of so many `weights`; it holds for all of a run, resumed or not.

    `auto` is bf16 on a CPU only where one process trains alone: the others need not have the same kind of core.
    """
    if recipe.dtype != "auto":
        return recipe.dtype
    if hardware.gpus:
        return "bf16" if hardware.has_bf16 else "fp16"
    is_alone = num_processes(recipe, hardware) == 1 and recipe.accelerate_config in ("auto", "cpu", "single_gpu", "ddp")
    return "bf16" if hardware.cpu_has_bf16 and is_alone and weights >= BF16_WEIGHTS else "fp32"


def setting_of(recipe: Recipe, hardware: Hardware, model: Shapes) -> Setting:
    """Where `recipe` computes on `hardware`, decided as the launcher and the worker decide it."""
    processes = num_processes(recipe, hardware)
    sharing = recipe.accelerate_config
    if sharing in ("auto", "cpu", "single_gpu"):
        sharing = "ddp"
    device: Device = "gpu" if hardware.gpus else "cpu"
    return Setting(device, precision_of(recipe, hardware, model.total) != "fp32", processes, sharing)


def batch_of(recipe: Recipe, work: Workload, setting: Setting) -> Batch:
    """The recipe's batches at their largest."""
    rows = min(recipe.micro_batch_size, work.rows)
    eval_rows = min(eval_batch_rows(recipe), work.eval_rows)
    eval_length = min(recipe.max_length, work.eval_tokens) if work.is_counted and not recipe.packing else recipe.max_length
    eval_length = min(eval_length, work.longest) if not recipe.eval_dataset else eval_length
    by_document = recipe.packing and recipe.attn_implementation == "auto"
    is_masked = not by_document and (recipe.packing or rows > 1)
    is_fused = (setting.device == "gpu" or setting.half) and not recipe.use_dora and not setting.sharing.startswith("zero3")
    return Batch(rows, work.longest, eval_rows, eval_length, is_masked, recipe.packing, by_document, is_fused, setting.device == "cpu")


def context_bytes(setting: Setting) -> int:
    return CUDA_CONTEXT if setting.device == "gpu" else CPU_OVERHEAD


def trainable(recipe: Recipe, model: Shapes) -> int:
    """Weights that learn."""
    if recipe.is_adapter:
        return adapter_weights(recipe, model)
    if recipe.method == "fft":
        return model.total - model.tower
    head = (model.embedding if recipe.train_head else 0) + (model.hidden if recipe.train_norms else 0)
    return min(recipe.trainable_layers, model.layers) * model.layer + head


def adapter_weights(recipe: Recipe, model: Shapes) -> int:
    """A (r, columns) and B (rows, r) of every target; DoRA adds a length for each row."""
    if not recipe.is_adapter:
        return 0
    return model.layers * sum(
        recipe.lora_r * (matrix.rows + matrix.columns) + (matrix.rows if recipe.use_dora else 0)
        for matrix in model.targets(recipe.target_modules)
    )


def learns_head(recipe: Recipe) -> bool:
    return recipe.method == "fft" or (recipe.method == "sft" and recipe.train_head)

"""About how long a run takes: operations counted from the shapes, over what a machine does of them in a second."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache

from core.paths import SPACES
from core.training.hardware import Hardware
from core.training.recipe import Recipe
from core.training.setting import Setting, adapter_weights
from core.training.shapes import Shapes
from core.training.workload import Workload, evaluations, optimizer_steps

# Shares of the datasheet's peak that trainings reach; rules of thumb until a run on the same machine was measured.
GPU_SHARE, QLORA_SHARE = 0.35, 0.22  # every 4-bit weight is unpacked in the forward and the backward pass
UNKNOWN_TFLOPS = 50.0  # a GPU that is not in spaces/hardware.toml
CPU_CORE_FLOPS = 15e9  # float32 on one core; a server core with AVX2 reaches 10 to 40
CPU_BF16_SPEED = 1.35  # times that, where the cores multiply bf16: a 40M model of benchmarks/results/train.json
START_S = {"cpu": 25.0, "gpu": 45.0}  # imports, driver, data
READ_BYTES_PER_S = 500e6  # weights from a disk
STEP_S = 0.05  # of one micro batch besides its operations


@dataclass(frozen=True)
class Duration:
    """Seconds by part."""

    start_s: float
    train_s: float
    evaluate_s: float
    save_s: float

    @property
    def total_s(self) -> float:
        return self.start_s + self.train_s + self.evaluate_s + self.save_s


def duration(recipe: Recipe, model: Shapes, hardware: Hardware, setting: Setting, work: Workload) -> Duration:
    """How long `recipe` takes on `hardware`, training to saving; merging and quantising come on top."""
    steps = optimizer_steps(recipe, work, setting.processes)
    micro_batches = steps * recipe.gradient_accumulation_steps
    is_padded = recipe.micro_batch_size > 1 and not (recipe.packing or recipe.group_by_length)
    length = (work.mean_length + work.longest) / 2 if is_padded else work.mean_length
    speed = flops_per_s(recipe, hardware, setting)
    tokens = micro_batches * recipe.micro_batch_size * length
    evals = evaluations(recipe, work, steps)
    weights_bytes = model.total * model.stored_bytes
    return Duration(
        start_s=START_S[setting.device] + weights_bytes / READ_BYTES_PER_S,
        train_s=tokens * operations(recipe, model, length) / speed + micro_batches * STEP_S,
        evaluate_s=evals * work.eval_tokens * forward(model, length) / (speed * setting.processes),
        save_s=(adapter_weights(recipe, model) * 4 if recipe.is_adapter else weights_bytes) / READ_BYTES_PER_S,
    )


def forward(model: Shapes, length: float) -> float:
    """Operations of one token's forward pass: two a weight of every product, and attention over half the row."""
    return 2.0 * (model.layers * (model.layer_linear + model.active_experts) + model.embedding) + attention(model, length)


def attention(model: Shapes, length: float) -> float:
    seen = min(length, model.window or length) / 2
    return 4.0 * model.layers * model.queries * seen


def operations(recipe: Recipe, model: Shapes, length: float) -> float:
    """Operations of one token's step. The backward pass costs the forward's once for the activations and once for weights that learn."""
    ahead = forward(model, length)
    again = ahead if recipe.gradient_checkpointing else 0.0
    if recipe.is_adapter:
        return 2 * ahead + again + 6.0 * adapter_weights(recipe, model)
    if recipe.method == "fft":
        return 3 * ahead + again
    learning = min(recipe.trainable_layers, model.layers) / model.layers
    head = 2.0 * model.embedding
    return ahead + learning * (2 * (ahead - head) + again) + head * (2 if recipe.train_head else 1)


def flops_per_s(recipe: Recipe, hardware: Hardware, setting: Setting) -> float:
    """Of one process."""
    if setting.device == "cpu":
        faster = CPU_BF16_SPEED if setting.half and hardware.cpu_has_bf16 else 1.0
        return CPU_CORE_FLOPS * faster * hardware.cpu_count / setting.processes
    slowest = min(tflops(gpu.name) for gpu in hardware.gpus)
    share = QLORA_SHARE if recipe.method == "qlora" else GPU_SHARE
    return slowest * 1e12 * share * (1 if setting.half else 0.5)


def tflops(gpu: str) -> float:
    """What the datasheet says of a GPU, by the name that the driver or spaces/hardware.toml gives it."""
    found = [value for name, value in _sheet().items() if re.search(rf"\b{re.escape(name)}\b", gpu)]
    return max(found, default=UNKNOWN_TFLOPS)


@lru_cache(maxsize=1)
def _sheet() -> dict[str, float]:
    return tomllib.loads((SPACES / "hardware.toml").read_text(encoding="utf-8"))["tflops"]

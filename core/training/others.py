"""What two well-known rules of thumb say of a model's memory, to be read beside the estimate: neither looks at batch, length or adapter."""

from __future__ import annotations

from dataclasses import dataclass

from core.training.recipe import Recipe
from core.training.setting import FP32, Setting
from core.training.shapes import Shapes

GB = 1e9
SIZES = (7e9, 14e9, 30e9, 70e9)  # parameters, the columns of LLaMA-Factory's table
NEAR = 0.25  # of a column, beyond which the table's own formula stands for the size
# GB for each of `SIZES`, and for every billion parameters of another size: README of LLaMA-Factory, "Hardware Requirement" (2025).
FULL = ("Full (bf16 or fp16)", (120, 240, 600, 1200), 18.0)
PURE = ("Full (pure_bf16)", (60, 120, 300, 600), 8.0)
ADAPTED = ("Freeze/LoRA", (16, 32, 64, 160), 2.0)
FOUR_BIT = ("QLoRA, 4 bit", (6, 12, 24, 48), 0.5)
ROWS = {"fft": (FULL, PURE), "sft": (ADAPTED,), "lora": (ADAPTED,), "qlora": (FOUR_BIT,)}


@dataclass(frozen=True)
class Opinion:
    """What somebody else says that a recipe takes of one GPU."""

    whose: str
    said: str  # which of their figures it is
    size_bytes: float


def opinions(recipe: Recipe, model: Shapes, setting: Setting) -> tuple[Opinion, ...]:
    """What `accelerate estimate-memory` and LLaMA-Factory's table say of the recipe's model."""
    dtype = "float16" if setting.half else "float32"
    rows = tuple(Opinion("LLaMA-Factory's table", name, _of_table(model, sizes, each)) for name, sizes, each in ROWS[recipe.method])
    return (Opinion("accelerate estimate-memory", f"training with Adam, {dtype}", accelerate_bytes(model, dtype)), *rows)


def accelerate_bytes(model: Shapes, dtype: str) -> float:
    """Its column "Training using Adam" (accelerate 1.x, commands/estimate.py): all weights learn, the output layer is left out unless tied."""
    whole = (model.total - model.head) * FP32
    return float(whole * (4 if dtype == "float32" else 2))


def _of_table(model: Shapes, sizes: tuple[int, ...], each: float) -> float:
    """The figure of the column that is about as large as the model, else the formula of the table's last column."""
    nearest, given = min(zip(SIZES, sizes, strict=True), key=lambda pair: abs(pair[0] - model.total))
    return given * GB if abs(model.total / nearest - 1) <= NEAR else model.total * each

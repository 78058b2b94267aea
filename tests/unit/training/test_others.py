"""What others say of a model's memory: their own figures for 7B, and the formula of the last column for sizes between the columns."""

from __future__ import annotations

import dataclasses

import pytest

from core.training import others, shapes
from core.training.recipe import Recipe
from core.training.setting import Setting

SEVEN_B = shapes.of_listed("lmsys/vicuna-7b-v1.5")
GPU, CPU = Setting("gpu", half=True), Setting("cpu", half=False)


@pytest.mark.parametrize(("method", "said"), [("fft", [120, 60]), ("sft", [16]), ("lora", [16]), ("qlora", [6])])
def test_the_table_says_its_own_figures_for_7b(method: str, said: list[int]) -> None:
    assert SEVEN_B
    accelerate, *table = others.opinions(Recipe(method=method), SEVEN_B, GPU)
    assert [each.size_bytes / 1e9 for each in table] == said and all("LLaMA-Factory" in each.whose for each in table)
    assert accelerate.whose == "accelerate estimate-memory" and "float16" in accelerate.said


def test_a_size_between_the_columns_is_told_by_the_formula() -> None:
    assert SEVEN_B
    small = dataclasses.replace(SEVEN_B, layers=4)
    (_, row) = others.opinions(Recipe(method="qlora"), small, GPU)
    assert row.size_bytes == small.total / 2


def test_accelerate_counts_every_weight_four_times_in_float32_and_leaves_the_output_layer_out() -> None:
    """Llama 2 7B in its documentation: 24.61 GiB of weights, 98.46 GiB to train in float32, 49.23 in float16."""
    assert SEVEN_B
    assert others.opinions(Recipe(method="fft"), SEVEN_B, CPU)[0].size_bytes / 2**30 == pytest.approx(98.46, abs=0.02)
    assert others.opinions(Recipe(method="fft"), SEVEN_B, GPU)[0].size_bytes / 2**30 == pytest.approx(49.23, abs=0.02)

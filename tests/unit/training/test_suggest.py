"""Suggested settings fit the machine they are for, suit model and data, and say why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from core.training import checks, shapes, workload
from core.training.forecast import of_shapes
from core.training.hardware import Gpu, Hardware, TorchBuild
from core.training.recipe import Recipe
from core.training.suggest import LONGEST, suggest

GB = 10**9
SEVEN_B = shapes.of_listed("lmsys/vicuna-7b-v1.5")
assert SEVEN_B
pytestmark = pytest.mark.usefixtures("workspace")


def machine(vram_gb: float = 0, count: int = 1, ram_gb: float = 200) -> Hardware:
    gpus = (Gpu("NVIDIA A100", int(vram_gb * GB), (8, 0)),) * count if vram_gb else ()
    return Hardware(16, int(ram_gb * GB), gpus, TorchBuild("2.13.0", "12.8" if gpus else None))


def data(conversations: int = 1000, mean: int = 400, longest: int = 1900, is_counted: bool = True) -> workload.Workload:
    tokens = conversations * mean
    return workload.Workload(conversations, tokens, longest, 0, 0, is_counted, conversations, longest if is_counted else 0)


def test_lora_where_the_base_fits_and_qlora_where_only_4_bit_does() -> None:
    assert suggest(Recipe(), SEVEN_B, machine(80), data()).knobs["method"] == "lora"
    small = suggest(Recipe(), SEVEN_B, machine(12), data())
    assert small.knobs["method"] == "qlora" and "4 bit" in small.reasons[0]


def test_rows_hold_the_longest_conversation_but_not_more_than_the_model_takes() -> None:
    assert suggest(Recipe(), SEVEN_B, machine(80), data(longest=1300)).knobs["max_length"] == 1536
    assert suggest(Recipe(), SEVEN_B, machine(80), data(longest=30_000)).knobs["max_length"] == SEVEN_B.positions
    guessed = suggest(Recipe(max_length=1024), SEVEN_B, machine(80), data(is_counted=False))
    assert guessed.knobs["max_length"] == 1024


def test_few_data_are_seen_more_often_and_still_give_enough_steps() -> None:
    few, many = (suggest(Recipe(), SEVEN_B, machine(80), data(count)) for count in (300, 100_000))
    assert few.knobs["num_train_epochs"] == 3 and many.knobs["num_train_epochs"] == 1
    assert few.knobs["gradient_accumulation_steps"] == 1 < many.knobs["gradient_accumulation_steps"]


def test_no_more_rows_at_a_time_than_the_data_fill_when_packed() -> None:
    knobs = suggest(Recipe(), SEVEN_B, machine(80, count=2), data(40, mean=300, longest=300)).knobs
    assert knobs["packing"] and knobs["max_length"] == 512
    assert knobs["micro_batch_size"] == 8, "24 rows, 12 for each GPU"


def test_several_gpus_share_what_does_not_fit_on_one() -> None:
    shared = suggest(Recipe(), SEVEN_B, machine(80, count=4), data(), "fft").knobs
    assert (shared["accelerate_config"], shared["optim"]) == ("fsdp2", "adamw_torch")
    assert suggest(Recipe(), SEVEN_B, machine(80, count=4), data(), "lora").knobs["accelerate_config"] == "auto"


def test_what_fits_in_no_way_is_refused_with_what_to_do() -> None:
    with pytest.raises(UserError, match="does not fit this machine with qlora") as refused:
        suggest(Recipe(), SEVEN_B, machine(2), data())
    assert "smaller base model" in refused.value.remedy


def test_names_data_loss_and_levels_stay() -> None:
    kept = {"name", "base_model", "dataset", "eval_dataset", "eval_fraction", "loss_on", "levels", "seed", "chat_template", "report_to"}
    assert not kept & suggest(Recipe(), SEVEN_B, machine(80), data()).knobs.keys()


@given(
    vram=st.sampled_from([0, 16, 24, 48, 80, 141]),
    count=st.integers(1, 8),
    conversations=st.integers(1, 200_000),
    mean=st.integers(20, 6000),
    method=st.sampled_from([None, "qlora", "lora", "sft", "fft"]),
)
def test_every_suggestion_is_a_recipe_that_fits(vram, count, conversations, mean, method) -> None:
    hardware, work = machine(vram, count), data(conversations, mean, 3 * mean)
    try:
        found = suggest(Recipe(), SEVEN_B, hardware, work, method)
    except UserError:
        return
    chosen = Recipe.model_validate(Recipe().model_dump() | found.knobs)
    checks.check_machine(chosen, hardware)
    assert 1 <= chosen.max_length <= LONGEST
    assert of_shapes(chosen, SEVEN_B, hardware, work.packed(chosen.max_length)).fits
    assert all(reason.endswith(".") for reason in found.reasons)

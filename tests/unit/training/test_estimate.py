"""What a recipe takes is counted from the model's config alone, says where each number comes from, and finds the change that fits."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import events, paths
from core.errors import UserError
from core.training import fits, forecast, measured, memory, pace, shapes, workload
from core.training.hardware import Gpu, Hardware, TorchBuild, flavours
from core.training.memory import SOURCES
from core.training.recipe import Recipe
from core.training.setting import Setting, precision_of
from core.training.workload import Workload

GB = 10**9
CPU = Hardware(2, 24 * GB, (), TorchBuild("2.13.0+cpu", None))
SEVEN_B = shapes.of_listed("lmsys/vicuna-7b-v1.5")
WORK = Workload(rows=1000, tokens=1000 * 1500, longest=2048, eval_rows=50, eval_tokens=50 * 1500, is_counted=True)
pytestmark = pytest.mark.usefixtures("workspace")


def machine(vram_gb: float, count: int = 1, ram_gb: float = 200) -> Hardware:
    return Hardware(16, int(ram_gb * GB), (Gpu("NVIDIA A100", int(vram_gb * GB), (8, 0)),) * count, TorchBuild("2.13.0", "12.8"))


def of(recipe: Recipe, hardware: Hardware = CPU, work: Workload = WORK) -> forecast.Estimate:
    assert SEVEN_B
    return forecast.of_shapes(recipe, SEVEN_B, hardware, work)


def test_the_parts_add_up_to_the_peak_and_each_names_its_source() -> None:
    for method in ("qlora", "lora", "sft", "fft"):
        for hardware in (CPU, machine(80)):
            found = of(Recipe(method=method, gradient_checkpointing=True), hardware)
            assert sum(part.size_bytes for part in found.parts) == pytest.approx(found.memory.peak_bytes)
            assert {part.name for part in found.parts} <= set(SOURCES) and all(part.size_bytes >= 0 for part in found.parts)


def test_7b_is_near_what_others_published() -> None:
    """LLaMA-Factory's table: 7B takes 120 GB in full, 16 GB with LoRA, 6 GB with QLoRA; small rows, activations computed again."""
    small = Workload(1000, 256_000, 256, 0, 0, is_counted=True)
    light = {"micro_batch_size": 1, "gradient_checkpointing": True, "max_length": 256, "eval_fraction": 0.0}
    peaks = {method: of(Recipe(method=method, **light), machine(141), small).peak_bytes / GB for method in ("fft", "lora", "qlora")}
    assert peaks["fft"] == pytest.approx(120, rel=0.15)
    assert peaks["lora"] == pytest.approx(16, rel=0.15)
    assert peaks["qlora"] == pytest.approx(6, rel=0.15)


@given(rows=st.integers(1, 64), length=st.sampled_from([128, 512, 2048, 8192]), method=st.sampled_from(["qlora", "lora", "sft", "fft"]))
def test_more_tokens_never_take_less(rows: int, length: int, method: str) -> None:
    work = Workload(10_000, 10_000 * length, length, 0, 0, is_counted=True)
    recipe = Recipe(method=method, micro_batch_size=rows, max_length=length)
    more = recipe.model_copy(update={"micro_batch_size": rows + 1})
    assert of(more, machine(80), work).peak_bytes >= of(recipe, machine(80), work).peak_bytes


def test_sharing_takes_less_of_each_gpu() -> None:
    peaks = [of(Recipe(method="fft", accelerate_config=kind), machine(80, 4)).peak_bytes for kind in ("ddp", "zero2", "fsdp2")]
    assert peaks == sorted(peaks, reverse=True) and peaks[2] < peaks[0] * 0.6


@pytest.mark.parametrize("count", [2, 4, 8])
def test_zero_takes_of_each_gpu_about_what_deepspeed_says(count: int) -> None:
    """Of weights, gradients and optimizer: `estimate_zero2_model_states_mem_needs` and the same of ZeRO-3 in deepspeed 0.19, without the layer
    that ZeRO-3 has here for a moment. That function leaves ZeRO-3's gradients in 16 bit out, which are there beside those in 32.
    """
    assert SEVEN_B
    recipe, total = Recipe(method="fft"), SEVEN_B.total
    said = {"zero2": 2 * total + 18 * total / count, "zero2_offload": 2 * total, "zero3": (18 + 2) * total / count, "zero3_offload": 0}
    for kind, expected in said.items():
        setting = Setting("gpu", True, count, kind)
        states = memory.weights(recipe, SEVEN_B, setting) * setting.weights_share + memory.gradient_bytes(recipe, SEVEN_B, setting)
        assert states + memory.optimizer_bytes(recipe, SEVEN_B, setting) * setting.optimizer_share == pytest.approx(expected), kind
        assert memory.sharing_bytes(recipe, SEVEN_B, setting) > 10**9, kind


def test_weights_that_are_shared_are_collected_by_one_process_only() -> None:
    recipe = Recipe(method="fft", accelerate_config="fsdp2", micro_batch_size=1)
    four, eight = (of(recipe, machine(200, count, 2000)) for count in (4, 8))
    assert SEVEN_B and eight.host_bytes - four.host_bytes == pytest.approx(4 * 3 * 2**30, rel=0.01)
    assert four.host_bytes > 6 * SEVEN_B.total, "the files and what was collected for them"


def test_a_process_alone_reads_the_weights_straight_into_its_gpu() -> None:
    """In main memory there need not be room for the model; several processes each hold it first."""
    alone, two = (of(Recipe(method="lora", accelerate_config="ddp"), machine(80, count)) for count in (1, 2))
    assert SEVEN_B and alone.host_bytes < 5 * GB and two.host_bytes > 4 * SEVEN_B.total


def test_the_smallest_change_fits_and_keeps_the_batch() -> None:
    recipe = Recipe(method="lora", micro_batch_size=16, max_length=2048)
    hardware = machine(24)
    assert SEVEN_B and not of(recipe, hardware).fits
    change = fits.smallest_change(recipe, SEVEN_B, hardware, WORK)
    assert change is not None
    changed = recipe.model_copy(update=change.knobs)
    assert of(changed, hardware).fits
    assert changed.micro_batch_size * changed.gradient_accumulation_steps == 16
    assert "method" not in change.knobs and change.said


def test_a_sum_is_called_the_same_only_where_it_is() -> None:
    odd, even = Recipe(micro_batch_size=5), Recipe(micro_batch_size=4)
    assert "6 rows a step instead of 5" in fits.said(odd, {"micro_batch_size": 2, "gradient_accumulation_steps": 3})
    assert "the same sum" in fits.said(even, {"micro_batch_size": 2, "gradient_accumulation_steps": 2})


def test_where_only_another_method_fits_it_is_named_with_its_learning_rate() -> None:
    recipe = Recipe(method="fft", learning_rate=2e-5, dtype="bf16")
    assert SEVEN_B
    change = fits.smallest_change(recipe, SEVEN_B, machine(24), WORK)
    assert change and change.knobs["method"] in ("lora", "qlora") and change.knobs["learning_rate"] == pytest.approx(2e-4)


def test_where_each_gpu_was_to_hold_all_sharing_the_weights_comes_before_another_optimizer() -> None:
    recipe = Recipe(method="fft", accelerate_config="ddp", micro_batch_size=1, gradient_checkpointing=True)
    assert SEVEN_B
    change = fits.smallest_change(recipe, SEVEN_B, machine(80, 4), WORK)
    assert change and change.knobs == {"accelerate_config": "fsdp2"} and "shared" in change.said
    assert of(recipe.model_copy(update=change.knobs), machine(80, 4)).fits


def test_nothing_is_changed_where_it_fits_and_nothing_is_offered_where_nothing_helps() -> None:
    assert SEVEN_B
    assert fits.smallest_change(Recipe(method="qlora", micro_batch_size=1), SEVEN_B, machine(80), WORK) is None
    assert fits.smallest_change(Recipe(method="qlora"), SEVEN_B, machine(1), WORK) is None


def test_every_flavour_has_an_answer() -> None:
    assert SEVEN_B
    found = fits.offers(Recipe(method="qlora", micro_batch_size=1, gradient_checkpointing=True), SEVEN_B, WORK)
    assert [offer.flavour.name for offer in found] == [flavour.name for flavour in flavours()]
    assert all(bool(offer.refused) == (offer.estimate is None) for offer in found)
    by_name = {offer.flavour.name: offer for offer in found}
    assert by_name["a100-large"].fits and by_name["a100-large"].job_usd
    assert fits.cheapest(found) in [offer for offer in found if offer.fits]
    refused = {offer.flavour.name: offer.refused for offer in fits.offers(Recipe(dtype="bf16"), SEVEN_B, WORK)}
    assert "no bf16" in refused["t4-small"] and not refused["l4x1"]


def test_every_gpu_that_can_be_rented_has_its_datasheet_speed() -> None:
    assert all(pace.tflops(flavour.gpu) != pace.UNKNOWN_TFLOPS for flavour in flavours() if flavour.gpu)
    assert pace.tflops("NVIDIA H100 80GB HBM3") == 989 and pace.tflops("NVIDIA GeForce RTX 4090") == 165
    assert pace.tflops("NVIDIA A100-SXM4-80GB") == 312 and pace.tflops("Tesla T4") == 65
    assert pace.tflops("Some other card") == pace.UNKNOWN_TFLOPS


GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34},
    "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "num_hidden_layers": 27, "patch_size": 14},
}  # fmt: skip
QWEN3 = {"vocab_size": 151_936, "num_attention_heads": 32, "head_dim": 128}
PUBLISHED = {  # billions, of the models' cards
    "gemma-3-4b": (GEMMA_3_4B, 4.30),
    "Qwen3-4B": ({"model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_key_value_heads": 8,
                  "tie_word_embeddings": True} | QWEN3, 4.02),
    "Qwen3-30B-A3B": ({"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
                       "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4} | QWEN3, 30.5),
    "Mixtral-8x7B": ({"model_type": "mixtral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                      "num_attention_heads": 32, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}, 46.7),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_models_with_experts_or_eyes_have_as_many_weights_as_their_cards_say(name: str) -> None:
    config, billions = PUBLISHED[name]
    assert shapes.shapes(config).total / 1e9 == pytest.approx(billions, rel=0.005)


def test_experts_are_held_whole_and_passed_through_in_part() -> None:
    """QLoRA packs linear modules, which experts are none of in transformers 5; a token's operations are those of the experts it meets."""
    model = shapes.shapes(PUBLISHED["Qwen3-30B-A3B"][0])
    found = forecast.of_shapes(Recipe(method="qlora", micro_batch_size=1, gradient_checkpointing=True), model, machine(80), WORK)
    assert found.peak_bytes > 1.9 * model.total
    assert pace.forward(model, 1) / 2 == pytest.approx(3.0e9, rel=0.1)


def test_a_config_without_sizes_is_refused_in_three_parts() -> None:
    with pytest.raises(UserError, match="hidden_size") as raised:
        forecast.estimate(Recipe(), {"model_type": "odd"}, CPU, WORK)
    assert raised.value.where and raised.value.remedy


@given(conversations=st.integers(1, 10_000), size=st.integers(0, 10**9), packing=st.booleans(), share=st.floats(0, 0.5))
def test_a_guessed_workload_makes_sense(conversations: int, size: int, packing: bool, share: float) -> None:
    recipe = Recipe(packing=packing, eval_fraction=share)
    found = workload.assumed(recipe, conversations, size)
    assert found.rows >= 1 and found.tokens >= 1 and found.eval_rows <= conversations
    assert found.tokens <= conversations * recipe.max_length
    assert workload.optimizer_steps(recipe, found, 1) >= 1


BF16_CPU = dataclasses.replace(CPU, cpu_has_bf16=True)


@pytest.mark.parametrize(
    ("knobs", "hardware", "weights", "precision"),
    [
        ({}, CPU, 10**9, "fp32"),
        ({}, BF16_CPU, 10**9, "bf16"),
        ({}, BF16_CPU, 10**7, "fp32"),
        ({"dtype": "fp32"}, BF16_CPU, 10**9, "fp32"),
        ({"dtype": "bf16"}, CPU, 10**7, "bf16"),
        ({"num_processes": 2}, BF16_CPU, 10**9, "fp32"),
        ({"accelerate_config": "zero3"}, BF16_CPU, 10**9, "fp32"),
        ({}, machine(80), 10**7, "bf16"),
        ({}, dataclasses.replace(CPU, gpus=(Gpu("Tesla T4", 15 * GB, (7, 5)),)), 10**9, "fp16"),
    ],
)
def test_auto_is_the_precision_that_the_hardware_is_quick_in(knobs: dict, hardware: Hardware, weights: int, precision: str) -> None:
    assert precision_of(Recipe(**knobs), hardware, weights) == precision


def test_a_cpu_that_multiplies_bf16_is_told_to_take_half_of_the_frozen_weights() -> None:
    assert SEVEN_B
    whole, half = (of(Recipe(method="lora", micro_batch_size=1), hardware) for hardware in (CPU, BF16_CPU))
    weights = [next(part.size_bytes for part in found.parts if part.name == "weights") for found in (whole, half)]
    assert weights[1] == pytest.approx(weights[0] / 2, rel=0.02) and half.peak_bytes < 0.7 * whole.peak_bytes
    explicit = of(Recipe(method="lora", micro_batch_size=1, dtype="bf16"), CPU)
    assert explicit.memory == half.memory, "the same as when it is asked for"


def test_frozen_weights_that_are_held_as_they_are_stored_are_neither_read_nor_written_twice() -> None:
    """They are the mapped file itself. A file in float16 is copied into bf16, and one in whatever type is where nobody knows it."""
    assert SEVEN_B
    stored = dataclasses.replace(SEVEN_B, is_bf16=True)
    for method, phase, copied in (("lora", "load", 1.0), ("sft", "save", 0.9)):
        recipe = Recipe(method=method, micro_batch_size=1, max_length=256)
        in_place, copies = (forecast.of_shapes(recipe, model, BF16_CPU, WORK).memory.phases[phase] for model in (stored, SEVEN_B))
        assert copies - in_place == pytest.approx(copied * SEVEN_B.total * 2, rel=0.1), (method, phase)
    on_gpu = [forecast.of_shapes(Recipe(method="sft"), model, machine(80), WORK).memory for model in (stored, SEVEN_B)]
    assert on_gpu[0] == on_gpu[1]


# --- predicted and measured --------------------------------------------------------------------------------------------------------


def a_run(home: Path, name: str, *, predicted: float = 1000.0, peak: float | None = 1200.0, attempts: int = 1) -> Path:
    run_dir = home / "runs" / name
    run_dir.mkdir(parents=True)
    estimate = {"machine": "2 CPUs", "method": "lora", "peak_bytes": predicted, "train_s": 10.0}
    paths.write_json(run_dir / "launch.json", {"estimate": estimate})
    events.append(run_dir, "created", run_id=name, name=name, method="lora", steps=["train"])
    for _ in range(attempts):
        events.append(run_dir, "train_began", step=0, max_steps=5)
    events.append(run_dir, "facts", facts={"train_s": 20.0} | ({"memory_bytes": {"load": 10, "train": peak}} if peak else {}))
    return run_dir


def test_a_cpu_that_multiplies_bf16_is_foretold_as_faster_where_bf16_is_what_auto_comes_to() -> None:
    recipe, fast = Recipe(method="lora"), dataclasses.replace(CPU, cpu_has_bf16=True)
    exact = of(recipe).duration.train_s
    assert of(recipe, fast).duration.train_s < exact
    assert of(recipe.model_copy(update={"dtype": "fp32"}), fast).duration.train_s == exact


def test_what_a_run_took_corrects_the_next_estimate(workspace: Path) -> None:
    assert measured.correction("2 CPUs", "lora", 1000).runs == 0
    assert measured.keep(a_run(workspace, "r-1"))
    found = measured.correction("2 CPUs", "lora", 1000)
    assert (found.memory, found.time, found.runs) == (1.2, 2.0, 1) and found.error == pytest.approx(1 / 6)
    assert measured.correction("2 CPUs", "fft", 1000).runs == 0, "other methods are not spoken for"
    assert measured.correction("1x NVIDIA L4", "lora", 1000).runs == 0
    assert measured.correction("2 CPUs", "lora", 50_000).runs == 0, "a small model says nothing of a large one"


def test_a_gpu_is_corrected_by_what_torch_counts_and_its_context_is_added_as_it_is(workspace: Path) -> None:
    recipe, hardware = Recipe(method="qlora"), machine(80)
    plain = of(recipe, hardware)
    assert plain.memory.uncounted_bytes > 0 and plain.peak_bytes == plain.memory.peak_bytes
    pair = measured.Pair("r-1", "1x NVIDIA A100", "qlora", plain.memory.measurable_bytes, plain.memory.measurable_bytes * 1.1, 10.0, 10.0)
    paths.write_text(measured.path(), json.dumps(dataclasses.asdict(pair)))
    assert of(recipe, hardware).peak_bytes == pytest.approx(1.1 * plain.memory.measurable_bytes + plain.memory.uncounted_bytes)
    assert of(recipe).memory.uncounted_bytes == 0, "what a CPU's process takes is all measured"


def test_one_odd_run_does_not_spoil_the_others(workspace: Path) -> None:
    for number, peak in enumerate((1100, 1100, 90_000, 1100)):
        measured.keep(a_run(workspace, f"r-{number}", peak=peak))
    assert measured.correction("2 CPUs", "lora", 1000).memory == 1.1


def test_a_probe_of_the_same_recipe_speaks_before_whatever_else_was_trained(workspace: Path) -> None:
    for number in range(5):
        measured.keep(a_run(workspace, f"r-{number}", predicted=2000, peak=2000))
    measured.keep(a_run(workspace, "r-probe", predicted=1000, peak=1150))
    assert measured.correction("2 CPUs", "lora", 1010).memory == 1.15
    assert measured.correction("2 CPUs", "lora", 1500).memory == 1.0


@pytest.mark.parametrize("change", [{"peak": None}, {"attempts": 2}])
def test_a_run_without_a_peak_or_with_two_attempts_is_not_kept(workspace: Path, change: dict) -> None:
    assert measured.keep(a_run(workspace, "r-1", **change)) is None
    assert measured.read() == []


def test_a_torn_or_foreign_line_is_passed_over(workspace: Path) -> None:
    measured.keep(a_run(workspace, "r-1"))
    with measured.path().open("a", encoding="utf-8") as file:
        file.write('[]\n{"run_id": "x"}\n\x00\x01\n{"torn": ')
    measured.keep(a_run(workspace, "r-2"))
    assert [pair.run_id for pair in measured.read()] == ["r-1", "r-2"]


def test_an_estimate_as_a_program_reads_it_is_json() -> None:
    said = json.loads(json.dumps(of(Recipe(method="qlora")).as_dict()))
    assert said["peak_bytes"] == pytest.approx(sum(part["bytes"] for part in said["parts"]), abs=10)
    assert all(part["source"] for part in said["parts"])

"""The figures beside the methods are counted; where somebody published one, ours agrees."""

from __future__ import annotations

import pytest

from core.training.presets import preset
from core.training.recipe import Method
from ui import form, methods

DEMO = form.to_values(preset("demo"))


def cost(method: Method, model: str) -> methods.Cost:
    return methods.cost(method, methods.shapes_of(model)[1], DEMO)


def test_the_starters_adapter_has_as_many_parameters_as_peft_says() -> None:
    found = cost("qlora", "starter")
    assert found.trainable == 409_600  # `trainable_params` of a real run with r 16 on all linear layers
    assert found.total == pytest.approx(5_065_472, rel=0.001)  # and its `total_params`


@pytest.mark.parametrize(("method", "published_gb", "share"), [("fft", 120, 0.02), ("lora", 16, 0.25), ("sft", 16, 0.3), ("qlora", 6, 0.3)])
def test_7b_is_near_the_published_memory(method: Method, published_gb: float, share: float) -> None:
    """Activations, which the published figures of the adapters include, make the difference."""
    assert cost(method, "lmsys/vicuna-7b-v1.5").memory_bytes / 1e9 == pytest.approx(published_gb, rel=share)


@pytest.mark.parametrize("model", form.offered_models(), ids=lambda model: model["id"])
def test_the_parameters_add_up_to_the_models_own(model: dict) -> None:
    if "parameters" in model:
        assert cost("fft", model["id"]).total == pytest.approx(model["parameters"], rel=0.001)


def test_a_full_fine_tune_is_the_measure_of_the_work() -> None:
    works = {method: cost(method, "lmsys/vicuna-7b-v1.5").work for method in ("fft", "lora", "sft")}
    assert works["fft"] == 1 and works["sft"] < works["lora"] < 0.7


def test_an_unknown_model_is_said_to_be_unknown() -> None:
    assert "not known yet" in methods.comparison(DEMO | {"base_model": "some/thing"})


def test_an_empty_field_does_no_harm() -> None:
    assert methods.comparison(DEMO | {"lora_r": None, "trainable_layers": None, "base_model": None, "target_modules": ""})

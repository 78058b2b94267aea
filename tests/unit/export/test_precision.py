"""float16 is taken where it holds the weights, and where it does not the format that they are stored in."""

import json

import pytest
import torch
from safetensors.torch import save_file

from core.errors import UserError
from core.export.convert_child import choose_format
from core.export.precision import narrowest_format
from core.export.tensors import model_tensors


def model(folder, **tensors):
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({}))
    return folder


def found_for(folder):
    return narrowest_format(model_tensors(folder).values(), lambda _done, _total: None)


def formats(folder):
    return found_for(folder)[0]


USUAL = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.02


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_ordinary_weights_fit(dtype, tmp_path):
    tiny_ones = USUAL.clone()
    tiny_ones[0] = 1e-9  # what is small beside the rest of its own matrix does not count
    weights = {"a": USUAL.to(dtype), "b": tiny_ones.to(dtype), "zeros": torch.zeros(4, 4, dtype=dtype), "norm": torch.full((4,), 3.0)}
    assert formats(model(tmp_path, **weights)) == "f16"


def with_one(value, dtype):
    weights = USUAL.clone()
    weights[3, 5] = value
    return weights.to(dtype)


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (with_one(70_000.0, torch.bfloat16), "bf16"),
        (with_one(-1e6, torch.float32), "f32"),
        (with_one(65_000.0, torch.float32), "f16"),
        ((USUAL * 1e-6).to(torch.bfloat16), "bf16"),
        ((USUAL * 1e-6).to(torch.float32), "f32"),
        (USUAL * 1e-2, "f16"),
    ],
)
def test_what_float16_would_lose_is_kept(weights, found, tmp_path):
    assert formats(model(tmp_path, usual=USUAL.to(torch.float16), other=weights)) == found


def test_a_vector_out_of_range_stays_float32_in_the_file_and_does_not_matter(tmp_path):
    assert formats(model(tmp_path, norm=torch.full((4,), 1e6), other=USUAL)) == "f16"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("weights", [USUAL.to(torch.bfloat16), USUAL.to(torch.float16), USUAL[0]])
@pytest.mark.parametrize("wanted", ["auto", "f32"])
def test_what_is_no_number_is_refused_by_name(value, weights, wanted, tmp_path):
    broken = weights.clone()
    broken.view(-1)[5] = value
    with pytest.raises(UserError, match="broken holds NaN or infinity") as refusal:
        choose_format(model_tensors(model(tmp_path, broken=broken)).values(), "a model", wanted, lambda _: None)
    assert refusal.value.code == "NAN"


def test_float16_asked_for_by_name_is_refused_where_it_does_not_fit(tmp_path):
    weights = model_tensors(model(tmp_path, large=with_one(70_144.0, torch.bfloat16))).values()
    with pytest.raises(UserError, match=r"too large or too small.*large reaches 70,144") as refusal:
        choose_format(weights, "a model", "f16", lambda _: None)
    assert refusal.value.code == "F16" and "bf16" in refusal.value.remedy
    assert choose_format(weights, "a model", "auto", lambda _: None) == ("bf16", "large reaches 70,144, and float16 ends at 65,504")


def test_the_reason_names_the_first_weight_that_does_not_fit(tmp_path):
    tiny = (USUAL * 1e-6).to(torch.bfloat16)
    found, why = found_for(model(tmp_path, ordinary=USUAL, tiny=tiny))
    assert found == "bf16" and why.startswith("tiny is so small (at most ") and "rounds too much" in why
    assert found_for(model(tmp_path, ordinary=USUAL)) == ("f16", "float16 holds every weight")


def test_how_far_the_looking_is_goes_up_to_the_end(tmp_path):
    told = []
    choose_format(model_tensors(model(tmp_path, one=USUAL, other=USUAL.clone())).values(), "a model", "auto", told.append)
    assert [event["done"] for event in told] == [4 * USUAL.numel(), 8 * USUAL.numel()] and told[-1]["total"] == told[-1]["done"]

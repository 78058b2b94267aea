"""The fused LoRA pass gives PEFT's outputs and gradients."""

import copy

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.training.lora import _LoraProduct, fuse_adapters

# peft 0.21 asks transformers 5.23 by its old name, and says what it does with a bias
pytestmark = pytest.mark.filterwarnings("default")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def adapted(**knobs):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(attention_bias=True, **SIZES))
    chosen = {"r": 4, "lora_alpha": 12, "lora_dropout": 0.0, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | knobs
    model = peft.get_peft_model(model, peft.LoraConfig(**chosen))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def outcome(model, ids):
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.item(), {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("knobs", [{}, {"use_rslora": True}])
def test_outputs_and_gradients_are_those_of_peft(knobs):
    theirs = adapted(**knobs)
    ours = copy.deepcopy(theirs)
    assert fuse_adapters(ours) == 14
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    (loss, gradients), (expected_loss, expected) = outcome(ours, ids), outcome(theirs, ids)
    assert loss == pytest.approx(expected_loss, rel=1e-6) and gradients.keys() == expected.keys() and gradients
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-7)


def test_dropped_inputs_are_dropped_in_both_passes_and_the_base_sees_all():
    """With a base of zeros, the output and the gradient of A come from the same kept numbers, scaled by 1 / (1 - rate)."""
    torch.manual_seed(0)
    x, down, up = torch.ones(1, 1, 400, requires_grad=True), torch.eye(400, requires_grad=True), torch.eye(400)
    out = _LoraProduct.apply(x, torch.eye(400), None, down, up, 2.0, 0.25, None)
    out.sum().backward()
    update = (out - 1).detach()[0, 0]  # the base gave one for each
    assert {round(value, 4) for value in update.tolist()} == {0.0, round(2 / 0.75, 4)}
    assert 0.65 < (update > 0).float().mean() < 0.85
    assert torch.equal(down.grad[0] != 0, update > 0), "A learns from what was kept only"
    torch.testing.assert_close(x.grad[0, 0], 1 + update)


def test_no_dropout_in_an_evaluation():
    model = adapted(lora_dropout=0.5)
    ids = torch.randint(64, (1, 9))
    expected = model.eval()(input_ids=ids).logits
    fuse_adapters(model)
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    assert not torch.allclose(model.train()(input_ids=ids).logits, expected)


def test_a_switched_off_adapter_leaves_the_base_alone():
    model = adapted()
    ids = torch.randint(64, (1, 9))
    fuse_adapters(model)
    with model.disable_adapter():
        off = model(input_ids=ids).logits
    torch.testing.assert_close(off, model.unload()(input_ids=ids).logits)


@pytest.mark.parametrize("knobs", [{"use_dora": True}, {"lora_bias": True, "bias": "none"}])
def test_variants_keep_peft_s_own_pass(knobs):
    assert fuse_adapters(adapted(**knobs)) == 0


def test_a_4_bit_base_gives_what_bitsandbytes_gives():
    from bitsandbytes.nn import Linear4bit

    theirs = adapted()
    for module in theirs.modules():
        for name, child in list(module.named_children()):
            if name == "base_layer":
                quantized = Linear4bit(
                    child.in_features, child.out_features, bias=child.bias is not None, compute_dtype=torch.float32, quant_type="nf4"
                )
                quantized.load_state_dict(child.state_dict())
                setattr(module, name, quantized.to("cpu"))
    from peft.tuners.lora.bnb import Linear4bit as Lora4bit
    from peft.tuners.lora.layer import Linear as LoraLinear

    for module in theirs.modules():
        if type(module) is LoraLinear:
            module.__class__ = Lora4bit
    from core.training.layers import keep_gradients

    keep_gradients(theirs)
    ours = copy.deepcopy(theirs)
    assert fuse_adapters(ours) == 14
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(1))
    (loss, gradients), (expected_loss, expected) = outcome(ours, ids), outcome(theirs, ids)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-6)

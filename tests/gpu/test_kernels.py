"""On a GPU: attention by document, the loss at labels only and fused adapters give what the plain operations give."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from core.training import attention
from core.training.attention import BY_DOCUMENT
from core.training.head import score_labels_only
from core.training.lora import fuse_adapters

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

SHAPE = {"vocab_size": 512, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8}
LENGTHS = (300, 1, 129, 64)
CLOSE = {"rtol": 3e-2, "atol": 3e-2}  # bf16 keeps 8 bits


def packed():
    ids = torch.randint(SHAPE["vocab_size"], (1, sum(LENGTHS)), device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS])[None].cuda()


def model_of(kind, config, implementation, **more):
    torch.manual_seed(0)
    return kind._from_config(config(**SHAPE, **more), attn_implementation=implementation, dtype=torch.bfloat16).cuda()


@pytest.mark.parametrize("heads", [8, 2])
@pytest.mark.parametrize(
    ("kind", "config", "more"), [(LlamaForCausalLM, LlamaConfig, {}), (MistralForCausalLM, MistralConfig, {"sliding_window": 100})]
)
def test_packed_documents_attend_each_by_itself_as_under_a_mask(kind, config, more, heads, monkeypatch):
    used = []
    kernel = attention.flash
    monkeypatch.setattr(attention, "flash", lambda *given: used.append(1) or kernel(*given))
    ours, theirs = (model_of(kind, config, name, num_key_value_heads=heads, **more) for name in (BY_DOCUMENT, "sdpa"))
    ids, positions = packed()
    gradients = []
    for model in (ours, theirs):
        scores = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        scores.float().logsumexp(-1).mean().backward()
        gradients.append({name: each.grad.float() for name, each in model.named_parameters()})
    torch.testing.assert_close(
        ours(input_ids=ids, position_ids=positions, use_cache=False).logits,
        theirs(input_ids=ids, position_ids=positions, use_cache=False).logits,
        **CLOSE,
    )
    assert len(used) == 2 * SHAPE["num_hidden_layers"]
    for name, expected in gradients[1].items():
        error = (gradients[0][name] - expected).norm() / expected.norm().clamp(min=1e-9)
        assert error < 0.05, f"{name}: {error}"


def test_a_document_sees_nothing_of_the_one_before_it():
    model = model_of(LlamaForCausalLM, LlamaConfig, BY_DOCUMENT)
    ids, positions = packed()
    before = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    ids[:, : LENGTHS[0]] = ids[:, : LENGTHS[0]].flip(1)
    after = model(input_ids=ids, position_ids=positions.clone(), use_cache=False).logits
    assert torch.equal(before[:, LENGTHS[0] :], after[:, LENGTHS[0] :])
    assert not torch.equal(before[:, : LENGTHS[0]], after[:, : LENGTHS[0]])


def test_the_loss_at_labels_only_is_the_model_s_own():
    plain = model_of(LlamaForCausalLM, LlamaConfig, "sdpa")
    ours = copy.deepcopy(plain)
    assert score_labels_only(ours)
    ids, positions = packed()
    labels = ids.masked_fill(torch.rand(ids.shape, device="cuda") < 0.4, -100)
    expected = plain(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss
    loss = ours(input_ids=ids, position_ids=positions, labels=labels, fused_lm_head=True).loss
    assert loss.item() == pytest.approx(expected.item(), rel=2e-3)
    loss.backward()
    expected.backward()
    mine, theirs = ours.get_input_embeddings().weight.grad.float(), plain.get_input_embeddings().weight.grad.float()
    assert (mine - theirs).norm() / theirs.norm() < 0.05


@pytest.mark.parametrize("is_4_bit", [False, True])
def test_fused_adapters_give_peft_s_outputs_and_gradients_under_autocast(is_4_bit, small):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16) if is_4_bit else None
    )
    base = AutoModelForCausalLM.from_pretrained(small, dtype=torch.bfloat16, quantization_config=quantization, device_map={"": 0})
    model = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    ids, _ = packed()

    def outcome():
        model.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss.item(), {name: each.grad.float().clone() for name, each in model.named_parameters() if each.grad is not None}

    expected_loss, expected = outcome()
    assert fuse_adapters(model) == 7 * base.config.num_hidden_layers
    loss, gradients = outcome()
    assert loss == pytest.approx(expected_loss, rel=5e-3) and gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() / expected[name].norm() < 0.08, name

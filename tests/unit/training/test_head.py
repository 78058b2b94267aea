"""The loss of the output layer on a CPU: that of plain cross entropy, and its gradients, whatever the chunks."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from core.training import head

SIZES = {"vocab_size": 101, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip


def llama(**more) -> LlamaForCausalLM:
    torch.manual_seed(3)
    model = LlamaForCausalLM(LlamaConfig(**SIZES | more))
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model


def batch(share_labelled: float = 0.5) -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    ids = torch.randint(3, 101, (2, 17))
    return {"input_ids": ids, "labels": torch.where(torch.rand(ids.shape) < share_labelled, ids, -100)}


def plain_loss(model, given) -> torch.Tensor:
    scores = model(input_ids=given["input_ids"]).logits[:, :-1]
    return cross_entropy(scores.flatten(0, 1).float(), given["labels"][:, 1:].flatten(), ignore_index=-100)


def gradients(model, loss) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("chunk", [1, 3 * 101, 2**23])
def test_loss_and_gradients_are_those_of_all_the_scores(monkeypatch, tied, chunk):
    monkeypatch.setattr(head, "CHUNK_SCORES", chunk)
    model, given = llama(tie_word_embeddings=tied), batch()
    expected_loss = plain_loss(model, given)
    expected = gradients(model, expected_loss)
    assert head.score_labels_only(model)
    output = model(**given, fused_lm_head=True)
    found = gradients(model, output.loss)
    torch.testing.assert_close(output.loss, expected_loss, rtol=1e-6, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_what_the_trainer_adds_up_is_what_trl_has_for_each_token():
    model, given = llama(), batch()
    theirs = model(**given, fused_lm_head=True)
    assert head.score_labels_only(model)
    ours = model(**given, fused_lm_head=True, num_items_in_batch=torch.tensor(7))
    torch.testing.assert_close(ours.log_probs.sum(), theirs.log_probs.sum())
    torch.testing.assert_close(ours.loss, -theirs.log_probs.sum() / 7)
    assert ours.is_top1.sum() == (theirs.is_top1 & theirs.label_mask).sum()
    assert torch.equal(ours.label_mask, theirs.label_mask)


def test_a_frozen_output_layer_gets_no_gradient_and_what_is_below_it_does():
    model, given = llama(), batch()
    head.score_labels_only(model)
    model.lm_head.requires_grad_(False)
    found = gradients(model, model(**given, fused_lm_head=True).loss)
    assert "lm_head.weight" not in found and found["model.layers.0.mlp.down_proj.weight"].any()


def test_a_batch_without_labels_is_a_loss_of_nothing():
    model, given = llama(), batch(share_labelled=0)
    head.score_labels_only(model)
    output = model(**given, fused_lm_head=True)
    assert output.loss == 0 and not any(gradient.any() for gradient in gradients(model, output.loss).values())


def test_nothing_is_computed_for_a_gradient_that_nobody_wants():
    model, given = llama(), batch()
    head.score_labels_only(model)
    with torch.no_grad():
        output = model(**given, fused_lm_head=True)
    assert not output.loss.requires_grad
    torch.testing.assert_close(output.loss, plain_loss(model, given).detach(), rtol=1e-6, atol=1e-6)


def test_scores_for_generation_stay_the_models_own():
    model, given = llama(), batch()
    before = model(input_ids=given["input_ids"]).logits
    head.score_labels_only(model)
    torch.testing.assert_close(model(input_ids=given["input_ids"]).logits, before)


def test_half_precision_is_that_of_autocast():
    model, given = llama(), batch()
    head.score_labels_only(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**given, fused_lm_head=True)
    found = gradients(model, output.loss)
    torch.testing.assert_close(output.loss, plain_loss(model, given), rtol=0.02, atol=0)
    assert found and all(gradient.dtype == torch.float32 for gradient in found.values())


def test_capped_scores_are_left_to_trl():
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES | {"head_dim": 8}))
    add_fused_lm_head(model)
    forward = model.forward
    assert not head.score_labels_only(model) and model.forward == forward

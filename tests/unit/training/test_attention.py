"""Packed rows whose documents attend one at a time: the same numbers as each document alone, and as sdpa's mask gives."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from core.training.attention import BY_DOCUMENT, document_lengths

LENGTHS = (5, 1, 9, 3)
SIZES = {"vocab_size": 101, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip


def positions(lengths=LENGTHS) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])[None]


def model_of(kind, config, attention: str, **more):
    torch.manual_seed(5)
    return kind(config(attn_implementation=attention, **SIZES | more)).eval()


def gradients(model, ids) -> torch.Tensor:
    model.zero_grad()
    model(input_ids=ids, position_ids=positions(), use_cache=False).logits.square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize(
    ("kind", "config", "more"),
    [
        (LlamaForCausalLM, LlamaConfig, {}),
        (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 4}),
        (MistralForCausalLM, MistralConfig, {"sliding_window": 64}),
        (MistralForCausalLM, MistralConfig, {"sliding_window": 4}),  # shorter than a document: the mask says who sees whom
    ],
)
def test_a_packed_row_has_the_scores_and_gradients_that_a_mask_gives(kind, config, more):
    ids = torch.randint(3, 101, (1, sum(LENGTHS)))
    ours, theirs = (model_of(kind, config, attention, **more) for attention in (BY_DOCUMENT, "sdpa"))
    scores = [model(input_ids=ids, position_ids=positions(), use_cache=False).logits for model in (ours, theirs)]
    torch.testing.assert_close(*scores)
    torch.testing.assert_close(gradients(ours, ids), gradients(theirs, ids))


def test_no_document_sees_another():
    model = model_of(LlamaForCausalLM, LlamaConfig, BY_DOCUMENT)
    ids = torch.randint(3, 101, (1, sum(LENGTHS)))
    together = model(input_ids=ids, position_ids=positions(), use_cache=False).logits[0]
    alone = [model(input_ids=part, use_cache=False).logits[0] for part in ids.split(LENGTHS, dim=1)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_padded_batches_and_single_rows_go_the_usual_way():
    ours, theirs = (model_of(LlamaForCausalLM, LlamaConfig, attention) for attention in (BY_DOCUMENT, "sdpa"))
    ids, mask = torch.randint(3, 101, (2, 8)), torch.ones(2, 8, dtype=torch.long)
    mask[1, 5:] = 0
    for given in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids}, {"input_ids": ids[:1]}):
        torch.testing.assert_close(ours(**given).logits, theirs(**given).logits)


def test_generation_with_a_cache_is_that_of_sdpa():
    ours, theirs = (model_of(LlamaForCausalLM, LlamaConfig, attention) for attention in (BY_DOCUMENT, "sdpa"))
    ids = torch.randint(3, 101, (1, 6))
    answers = [model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0) for model in (ours, theirs)]
    assert torch.equal(*answers)


def test_the_attention_is_not_written_into_a_saved_config(tmp_path):
    model_of(LlamaForCausalLM, LlamaConfig, BY_DOCUMENT).save_pretrained(tmp_path)
    assert BY_DOCUMENT not in (tmp_path / "config.json").read_text()


def test_documents_are_told_by_where_positions_begin_anew():
    assert document_lengths(positions()) == list(LENGTHS)
    assert document_lengths(torch.arange(7)[None]) == [7]
    assert document_lengths(torch.tensor([[4]])) == [1]
    assert document_lengths(None) == [] and document_lengths(torch.zeros(2, 3)) == []

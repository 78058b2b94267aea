"""The output layer's loss: scores at labelled positions only, a few rows at a time, and their gradient in the same pass.

TRL 1.16 scores every position, the labelled ones or not, in tiles of 4,096 x 32,768 scores, and computes each a second time in the backward
pass (``trl.kernels.chunked_logprob``). The gradient of a mean cross entropy is known as soon as the scores are, as in Liger's fused linear
cross entropy (arXiv:2410.10989, section 3.2), so here no score outlives its chunk.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.nn.functional import log_softmax
from trl.trainer.utils import FusedCausalLMOutput

CHUNK_SCORES = 2**23  # of one chunk on a CPU, 32 MB: smaller ones make thin products, larger ones leave the cache
GPU_CHUNK_SCORES = 2**27  # a GPU wants products of many rows
IGNORED = -100
OWN_SCALES = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def score_labels_only(model: Any) -> bool:
    """Give `model`, a causal language model that TRL has prepared, the loss of this module. False, and nothing changed, where it cannot have it.

    It needs a plain linear output layer: no capped or scaled scores, no experts with a loss of their own, no weights that are elsewhere
    (ZeRO-3).
    """
    head = model.get_output_embeddings()
    config = model.config.get_text_config()
    is_plain = type(head) is torch.nn.Linear and not hasattr(head.weight, "ds_id")
    if not is_plain or getattr(config, "output_router_logits", False) or any(getattr(config, name, None) for name in OWN_SCALES):
        return False
    forward_of_trl = model.forward

    @functools.wraps(forward_of_trl)
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None or kwargs.get("shift_labels") is not None:
            return forward_of_trl(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        num_items = kwargs.pop("num_items_in_batch", None)
        hidden = self.base_model(*args, **kwargs | {"use_cache": False}).last_hidden_state[:, :-1]
        head = self.get_output_embeddings()
        targets = labels[:, 1:]
        is_labelled = targets != IGNORED
        weight, bias = _gathered(head.weight), _gathered(head.bias)
        loss, num_right = _CrossEntropy.apply(hidden[is_labelled], weight, bias, targets[is_labelled], torch.is_grad_enabled())
        # The trainer adds up what each token has; here one sum stands for all of them.
        return FusedCausalLMOutput(
            loss=loss / (is_labelled.sum().clamp(min=1) if num_items is None else num_items),
            log_probs=-loss[None],
            entropy=torch.zeros(1, device=loss.device),
            is_top1=num_right[None],
            label_mask=is_labelled,
        )

    model.forward = types.MethodType(forward, model)
    return True


def _gathered(weight: torch.Tensor | None) -> torch.Tensor | None:
    """The whole of a weight of which FSDP2 keeps a share here, as TRL gathers it: the output layer is read, not called, so nothing else does."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


class _CrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of ``hidden @ weight.T + bias`` (N, V) against `targets` (N,), and at how many of them the target is first."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, learns: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        needs = tuple(learns and needed for needed in ctx.needs_input_grad[:3])
        given, weights = hidden.to(dtype), weight.to(dtype)
        gradients = [
            torch.zeros_like(of, dtype=torch.float32) if of is not None and need else None
            for of, need in zip((hidden, weight, bias), needs, strict=True)
        ]
        by_hidden, by_weight, by_bias = gradients
        rows = max(1, (CHUNK_SCORES if device == "cpu" else GPU_CHUNK_SCORES) // len(weight))
        loss, num_right = hidden.new_zeros((), dtype=torch.float32), hidden.new_zeros((), dtype=torch.int64)
        for start in range(0, len(given), rows):
            part, wanted = given[start : start + rows], targets[start : start + rows, None]
            scores = part @ weights.T if bias is None else torch.addmm(bias.to(dtype), part, weights.T)
            num_right += (scores.argmax(-1, keepdim=True) == wanted).sum()
            scores = log_softmax(scores, -1, dtype=torch.float32)
            loss -= scores.gather(-1, wanted).sum()
            if not any(needs):
                continue
            scores.exp_().scatter_add_(-1, wanted, torch.full_like(wanted, -1, dtype=torch.float32))
            slope = scores.to(dtype)
            if by_hidden is not None:
                by_hidden[start : start + rows] = slope @ weights
            if by_weight is not None:
                by_weight += slope.T @ part
            if by_bias is not None:
                by_bias += scores.sum(0)
        ctx.gradients = [
            None if found is None or of is None else found.to(of.dtype) for found, of in zip(gradients, (hidden, weight, bias), strict=True)
        ]
        ctx.mark_non_differentiable(num_right)
        return loss, num_right

    @staticmethod
    def backward(ctx: Any, by_loss: torch.Tensor, _: Any) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if found is None else found.mul_(by_loss) for found in gradients), None, None)

"""Attention of packed rows: every document by itself, instead of the whole row under a mask that throws most of it away.

Packed documents may not see each other, so a row of documents of n1, n2, ... tokens needs the scores of n1^2 + n2^2 + ... pairs, half of them
after the causal rule; with a mask, PyTorch computes all (n1 + n2 + ...)^2. On a GPU one call of the flash attention kernel that is part of
PyTorch takes all documents of a row (FlashAttention-2, arXiv:2307.08691; compute capability 8.0 and 16-bit numbers); elsewhere they go one
after the other.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_DOCUMENT = "sdpa_by_document"


def by_document(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention over `query`, `key` and `value` of shape (batch, heads, tokens, head size); what is not a packed row goes the usual way.

    `position_ids` (1, tokens) count from 0 in every document of the row.
    """
    lengths = document_lengths(position_ids) if query.shape[0] == 1 and query.shape[2] == key.shape[2] else []
    if len(lengths) > 1 and has_flash(query, options):
        return flash(query, key, value, position_ids, sliding_window, options.get("scaling")), None
    if len(lengths) < 2 or (sliding_window and max(lengths) > sliding_window):
        return sdpa_attention_forward(module, query, key, value, attention_mask, sliding_window=sliding_window, **options)
    documents = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    parts = [sdpa_attention_forward(module, *states, attention_mask=None, **options | {"is_causal": True})[0] for states in documents]
    return torch.cat(parts, dim=1), None


def has_flash(query: torch.Tensor, options: dict[str, Any]) -> bool:
    """Whether the kernel can take `query`: its device, numbers and head size."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16) or options.get("dropout"):
        return False
    return query.shape[-1] <= 256 and query.shape[-1] % 8 == 0 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, position_ids: Any, sliding_window: int | None, scaling: float | None
) -> torch.Tensor:
    """Causal attention of all documents at once; like `query` but with tokens before heads: (1, tokens, heads, head size)."""
    ends, longest = position_ids.documents[1], max(position_ids.documents[0])
    states = (states[0].transpose(0, 1) for states in (query, key, value))  # (tokens, heads, head size)
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        *states,
        ends,
        ends,
        longest,
        longest,
        0.0,
        True,
        False,
        scale=scaling,
        window_size_left=sliding_window - 1 if sliding_window else None,
    )[0]
    return out[None]


def document_lengths(position_ids: torch.Tensor | None) -> list[int]:
    """How many tokens each document of a packed row has, told by where the positions begin anew.

    All layers ask for the same tensor, and a GPU must be waited for each time: the answer stays with it, as ``(lengths, ends from 0)``.
    """
    if position_ids is None or position_ids.shape[0] != 1:
        return []
    if not hasattr(position_ids, "documents"):
        begins = torch.nonzero(position_ids[0].diff() != 1)[:, 0] + 1
        ends = torch.cat([begins.new_zeros(1), begins, begins.new_tensor([position_ids.shape[1]])])
        position_ids.documents = (ends.diff().tolist(), ends.to(torch.int32))  # type: ignore[attr-defined]
    return position_ids.documents[0]  # type: ignore[attr-defined]


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **options: Any,
) -> torch.Tensor | None:
    """No mask for one row without padding, which `by_document` reads off the positions; else the mask of sdpa."""
    if batch_size == 1 and q_length == kv_length and attention_mask is None and local_size is None:
        return None
    return sdpa_mask(batch_size, q_length, kv_length, attention_mask=attention_mask, local_size=local_size, **options)


AttentionInterface.register(BY_DOCUMENT, by_document)
AttentionMaskInterface.register(BY_DOCUMENT, mask)

"""LoRA's forward and backward pass in one function: the update joins the base's product in place, and little is kept for the backward pass.

PEFT computes ``base(x) + lora_B(lora_A(dropout(x))) * scaling`` from whole operations. Under autocast with float32 adapters each of them reads
and writes tensors as large as the activations: x as float32, dropped, cast back, the update, its scaled copy, the sum. With seven adapters
a layer that costs about as much time on a GPU as the base's own products, and every adapter keeps an input of its own. Here x stays as it
is, shared between the adapters that read it; kept are one byte for each dropped number and the narrow tensor between A and B
(LoRA, arXiv:2106.09685, section 4.1). The arithmetic is PEFT's under autocast.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import LoraLayer


def fuse_adapters(model: torch.nn.Module) -> int:
    """Give every plain LoRA layer of `model` the forward pass of this module, and say how many got it.

    Left as they are: variants (DoRA), adapters with a bias, layers with several adapters, weights that are elsewhere (ZeRO-3), and
    4-bit weights in a layout of bitsandbytes' CPU kernel.
    """
    fused = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            module.forward = types.MethodType(_forward, module)
            fused += 1
    return fused


def _is_plain(module: Any) -> bool:
    names = list(module.lora_A)
    if len(names) != 1 or names != module.active_adapters or module.lora_variant or module.lora_bias[names[0]]:
        return False
    base = module.get_base_layer()
    is_known = (type(module) is LoraLinear and type(base) is torch.nn.Linear) or _is_4_bit(module, base)
    return is_known and not hasattr(base.weight, "ds_id") and not getattr(module, "fan_in_fan_out", False)


def _is_4_bit(module: Any, base: Any) -> bool:
    if type(base).__name__ != "Linear4bit":
        return False
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora.bnb import Linear4bit as Lora4bit

    return type(module) is Lora4bit and type(base) is Linear4bit


def _forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """PEFT's own forward pass where the adapter is switched off or merged, or more than `x` is asked."""
    if args or kwargs or self.disable_adapters or self.merged:
        return type(self).forward(self, x, *args, **kwargs)
    (name,) = self.lora_A
    base, dropout = self.get_base_layer(), self.lora_dropout[name]
    rate = dropout.p if isinstance(dropout, torch.nn.Dropout) and dropout.training else 0.0
    weights = (base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight)
    # FSDP2 makes another weight of the one that bitsandbytes packed; how it was packed stays with the module.
    quant_state = getattr(base.weight, "quant_state", None) or getattr(base, "quant_state", None)
    return _LoraProduct.apply(x, *weights, self.scaling[name], rate, quant_state)


class _LoraProduct(torch.autograd.Function):
    """``x W^T + bias + scaling * dropout(x) A^T B^T``: x (..., in), W (out, in) or in 4 bit, A (r, in), B (out, r)."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scaling: float,
        rate: float,
        quant_state: Any,
    ) -> torch.Tensor:
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        given = x.reshape(-1, x.shape[-1]).to(dtype)
        whole = _whole(weight, quant_state, dtype)
        out = given @ whole.T if bias is None else torch.addmm(bias.to(dtype), given, whole.T)
        dropped, kept = torch.native_dropout(given, rate, True) if rate else (given, None)
        down_cast, up_cast = down.to(dtype), up.to(dtype)
        inner = dropped @ down_cast.T  # (tokens, r)
        out.addmm_(inner, up_cast.T, alpha=scaling)
        ctx.save_for_backward(given, weight, down_cast, up_cast, inner, kept)
        ctx.scaling, ctx.rate, ctx.quant_state, ctx.dtypes = scaling, rate, quant_state, (x.dtype, down.dtype, up.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, by_out: torch.Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        given, weight, down, up, inner, kept = ctx.saved_tensors
        x_dtype, down_dtype, up_dtype = ctx.dtypes
        shape = (*by_out.shape[:-1], given.shape[-1])
        by_out = by_out.reshape(-1, by_out.shape[-1]).to(given.dtype)
        by_bias = by_out.sum(0) if ctx.needs_input_grad[2] else None
        by_inner = by_out @ up  # (tokens, r), not scaled yet
        by_up = (by_out.T @ inner).to(up_dtype).mul_(ctx.scaling) if ctx.needs_input_grad[4] else None
        by_down = (by_inner.T @ _dropped(given, kept, ctx.rate)).to(down_dtype).mul_(ctx.scaling) if ctx.needs_input_grad[3] else None
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = by_out @ _whole(weight, ctx.quant_state, given.dtype)
            if kept is None:
                by_x.addmm_(by_inner, down, alpha=ctx.scaling)
            else:
                by_x.add_(_dropped(by_inner @ down, kept, ctx.rate), alpha=ctx.scaling)
            by_x = by_x.view(shape).to(x_dtype)
        return by_x, None, by_bias, by_down, by_up, None, None, None


def _whole(weight: torch.Tensor, quant_state: Any, dtype: torch.dtype) -> torch.Tensor:
    """The base's weight (out, in) in `dtype`; a 4-bit one is unpacked, as bitsandbytes does in each pass."""
    if quant_state is None:
        return weight.to(dtype)
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, quant_state).to(dtype)


def _dropped(values: torch.Tensor, kept: torch.Tensor | None, rate: float) -> torch.Tensor:
    """`values` where they were kept, scaled as dropout scales them."""
    return values if kept is None else torch.ops.aten.native_dropout_backward(values, kept, 1 / (1 - rate))

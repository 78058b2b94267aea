"""Where a model's parts are, whatever its family calls them: decoder layers, final norm, output layer, linear modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from core.errors import UserError


def decoder_layers(model: Any) -> nn.ModuleList:
    """The stack of decoder layers: the list whose members are of the class that must not be split between devices."""
    unsplit: set[str] = set(getattr(model, "_no_split_modules", None) or ())
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    named = [stack for stack in stacks if type(stack[0]).__name__ in unsplit]
    return max(named or stacks, key=len)


def final_norm(model: Any) -> nn.Module:
    """The norm between the last decoder layer and the output layer.

    Raises:
        UserError: the model has none under the name that every family of transformers uses.
    """
    norm = getattr(model.get_decoder(), "norm", None)
    if not isinstance(norm, nn.Module):
        raise UserError(f"{type(model).__name__} has no final norm that is known here.", "train_norms", "Set train_norms=false.")
    return norm


def train_last_layers(model: Any, count: int, *, head: bool = False, norms: bool = False) -> None:
    """Freeze everything but the last `count` decoder layers, and the output layer and final norm if asked; what learns is float32."""
    model.requires_grad_(False)
    parts: list[nn.Module] = list(decoder_layers(model))[-count:]
    if norms:
        parts.append(final_norm(model))
    if head:
        parts.append(model.get_output_embeddings())
    for part in parts:
        part.float().requires_grad_(True)


def linear_names(model: Any) -> list[str]:
    """The last words of the names of the linear modules in the decoder layers, such as ``q_proj``; 4-bit ones count."""
    names: dict[str, None] = {}
    for name, module in decoder_layers(model).named_modules():
        if isinstance(module, nn.Linear):
            names[name.rpartition(".")[2]] = None
    return list(names)


def targets(model: Any, asked: str) -> str | list[str]:
    """The recipe's target modules as PEFT takes them.

    Raises:
        UserError: a name that the model does not have; it lists those there are.
    """
    if asked == "all-linear":
        return asked
    names, known = [name.strip() for name in asked.split(",") if name.strip()], linear_names(model)
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"{type(model).__name__} has no module {' or '.join(unknown)}.",
            "target_modules",
            f"Take all-linear, or some of: {', '.join(known)}.",
        )
    return names


def keep_float32(model: Any) -> None:
    """Hold what learns in float32, as PEFT does; TRL 1.16 rounds adapters on a 4-bit base to bfloat16.

    There small updates vanish, and a resumed run, whose adapter PEFT loads in float32, would go on to other losses than one left alone.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def keep_gradients(model: torch.nn.Module) -> None:
    """Keep bitsandbytes 0.50 from repacking 4-bit weights for its CPU inference kernel.

    On CPUs with avx512_bf16, `Linear4bit` repacks at the first evaluation and never unpacks; the kernel it then uses has no autograd, so
    every later training step would have no gradient, without a word.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def leave_file(model: torch.nn.Module) -> None:
    """Copy what a 4-bit model on a CPU still reads from the mapped file of its base.

    One tensor in it, such as the embeddings in the file's own dtype, keeps the whole file mapped, and as much memory is held as the model
    takes without 4 bits.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.clone()

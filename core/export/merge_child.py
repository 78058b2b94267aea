"""The merging child: reads the base's safetensors tensor by tensor and writes W + scaling * B A with the same layout.

A safetensors file is an 8-byte length, a JSON header with name, dtype, shape and offsets, and the bytes
(https://github.com/huggingface/safetensors#format). Merging changes values only, so the base's header is written again as it is.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from core import paths
from core.childio import Emit, serve
from core.errors import UserError

PREFIX = "base_model.model."
REMEDY = "Merge it with the base it was trained on, or train again."


@dataclass
class Update:
    """What an adapter does to one weight (out, in): B (out, r) times A (r, in) times scaling, or a whole new weight."""

    a: torch.Tensor | None = None
    b: torch.Tensor | None = None
    scaling: float = 1.0
    replacement: torch.Tensor | None = None

    def apply(self, weight: torch.Tensor, name: str) -> torch.Tensor:
        """The merged weight in the dtype of `weight`; computed in float32 and rounded once."""
        if self.replacement is not None:
            merged, expected = self.replacement.float(), weight.shape
        else:
            if self.a is None or self.b is None:
                raise UserError(f"The adapter has only half of its update for {name}.", name, REMEDY)
            merged, expected = torch.empty(0), torch.Size((self.b.shape[0], self.a.shape[1]))
        if weight.shape != expected:
            raise UserError(f"{name} is {tuple(weight.shape)} in the base and {tuple(expected)} in the adapter.", name, REMEDY)
        if self.replacement is None:
            assert self.a is not None and self.b is not None
            merged = weight.float() + self.scaling * (self.b.float() @ self.a.float())
        if not torch.isfinite(merged).all():
            raise UserError(f"{name} would hold NaN or infinity.", name, "The training diverged: train again with a lower learning_rate.")
        return merged.to(weight.dtype)


def merge(payload: dict[str, Any], emit: Emit) -> dict[str, int]:
    base, adapter, out = Path(payload["base"]), Path(payload["adapter"]), Path(payload["out"])
    updates = read_updates(adapter)
    shards = sorted(base.glob("*.safetensors"))
    done = 0
    for index, shard in enumerate(shards):
        done += merge_shard(shard, out / shard.name, updates)
        emit({"event": "progress", "done": index + 1, "total": len(shards), "unit": "files"})
    if updates:
        raise UserError(f"The base has no weight {next(iter(updates))}, which the adapter changes.", str(adapter.name), REMEDY)
    return {"merged_weights": done}


def merge_shard(source: Path, target: Path, updates: dict[str, Update]) -> int:
    """Write `source` with its updates applied; each is taken out of `updates`. Returns how many weights changed."""
    with source.open("rb") as file:
        length = file.read(8)
        header_bytes = file.read(int.from_bytes(length, "little"))
    header: dict[str, Any] = json.loads(header_bytes)
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][0])
    changed = 0
    with safe_open(source, framework="pt") as weights, target.open("wb") as file:
        file.write(length + header_bytes)
        for name in names:
            weight = weights.get_tensor(name)
            if update := updates.pop(name, None):
                weight = update.apply(weight, name)
                changed += 1
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return changed


def read_updates(adapter: Path) -> dict[str, Update]:
    """The adapter's updates by the name of the base weight they change."""
    config = paths.read_json(adapter / "adapter_config.json")
    for feature in ("use_dora", "fan_in_fan_out", "lora_bias"):
        if config.get(feature):
            raise UserError(
                f"The adapter uses {feature}, which cannot be merged here yet.", adapter.name, "Merge it with PEFT's merge_and_unload."
            )
    file = adapter / "adapter_model.safetensors"
    if not file.is_file():
        raise UserError("The adapter has no adapter_model.safetensors.", adapter.name, "Save it with safe_serialization=True.")
    tensors = load_file(file)
    if not tensors or any(tensor.numel() == 0 for tensor in tensors.values()):
        raise UserError("The adapter is empty.", adapter.name, "Under ZeRO-3 the weights must be gathered before saving; train again.")
    updates: dict[str, Update] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if match := re.fullmatch(r"(.+)\.lora_(A|B)\.weight", name):
            module, half = match.groups()
            update = updates.setdefault(f"{module}.weight", Update())
            if half == "A":
                update.a, update.scaling = tensor, scaling(config, module, tensor.shape[0])
            else:
                update.b = tensor
        else:
            updates[name] = Update(replacement=tensor)
    return updates


def scaling(config: dict[str, Any], module: str, r: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732); alpha_pattern as in PEFT's `get_pattern_key`."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    alpha = next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module)), config["lora_alpha"])
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


if __name__ == "__main__":
    serve(merge)

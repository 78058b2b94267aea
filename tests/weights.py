"""What a training must have left behind."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from core import paths


def require_learnt(folder: Path, method: str) -> None:
    """The weights in `folder` are there and are numbers: an adapter that is no longer zero, or weights that are not the starter's."""
    weights = {name: weight for file in folder.glob("*.safetensors") for name, weight in load_file(file).items()}
    assert weights and all(weight.numel() and torch.isfinite(weight).all() for weight in weights.values())
    if method in ("qlora", "lora"):
        lora_b = [weight for name, weight in weights.items() if "lora_B" in name]
        assert lora_b and all(weight.abs().max() > 0 for weight in lora_b)
        return
    before = load_file(paths.STARTER / "model.safetensors")
    assert set(weights) == set(before), "tied weights are written once"
    changed = {name for name, weight in weights.items() if not torch.equal(before[name].float(), weight.float())}
    assert changed and (method == "fft") == any(".layers.0." in name for name in changed)

"""Merges with PEFT itself, the whole model in memory: for the kinds of adapter that are not merged tensor by tensor."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import psutil
import torch

from core import paths
from core.childio import Emit, serve
from core.errors import UserError
from core.export.artifacts import adapter_weights
from core.export.merge import WHOLE_PASSES
from core.export.mergeplan import refuse_quantised
from core.export.tensors import weight_bytes
from core.units import size

MEMORY_SHARE = 1.3  # of the weights' bytes: the model, and one merged weight with its product


def merge(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    base, adapter, out = Path(payload["base"]), Path(payload["adapter"]), Path(payload["out"])
    refuse_quantised(base, paths.read_json(base / "config.json"))
    adapter_weights(adapter)
    needed, free = MEMORY_SHARE * weight_bytes(base), psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{payload['reason'].capitalize()}, so the whole model must be in memory: {size(needed)}, and {size(free)} are free.",
            "merge",
            "Merge it on a machine with more memory.",
            "OOM",
        )
    told = Told(emit, weight_bytes(base))
    model = merged(base, adapter, told)
    broken = next((name for name, weight in model.state_dict().items() if weight.is_floating_point() and not weight.isfinite().all()), None)
    if broken:
        raise UserError(f"{broken} would hold NaN or infinity.", broken, "The training diverged: train again.", "NAN")
    told.step()
    model.save_pretrained(out)
    told.step()
    return {"sha256": {}, "merged_weights": len(model.state_dict())}


class Told:
    """Progress in bytes, as of a merge block by block; each of the four passes over the weights counts as a quarter of them."""

    def __init__(self, emit: Emit, size_bytes: int) -> None:
        self.emit, self.size_bytes, self.passes = emit, size_bytes, -1
        self.step()

    def step(self) -> None:
        self.passes += 1
        done = self.size_bytes * self.passes // WHOLE_PASSES
        self.emit({"event": "progress", "done": done, "total": self.size_bytes, "unit": "bytes"})


def merged(base: Path, adapter: Path, told: Told) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True, low_cpu_mem_usage=True
    )
    told.step()
    with warnings.catch_warnings(record=True) as said, torch.inference_mode():
        warnings.simplefilter("always")
        try:
            whole: Any = PeftModel.from_pretrained(model, adapter).merge_and_unload()  # type: ignore[operator]
        except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"PEFT refused the adapter: {error}", str(adapter), "Merge it with the base it was trained on.", "ADAPTER"
            ) from None
    if missing := next((str(warning.message) for warning in said if "missing adapter keys" in str(warning.message)), None):
        raise UserError(f"The adapter is not whole: {missing:.200}", str(adapter), "Save the adapter again.", "ADAPTER")
    told.step()
    return whole


if __name__ == "__main__":
    serve(merge)

"""The child that runs the model over conversations and sums up the squares of what enters each weight."""

from __future__ import annotations

import importlib
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from core.childio import Emit, serve
from core.errors import UserError
from core.export.imatrix import COUNTS, SUMS
from core.export.tensors import weight_bytes
from core.units import size

EVENT_S = 0.2


class Collector:
    """Sums of squares by GGUF tensor name. They are float64, because a float32 sum stops growing after some millions of tokens."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}  # (in,)
        self.tokens: dict[str, int] = {}

    def hook(self, name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def add(_module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
            values = inputs[0].detach().reshape(-1, inputs[0].shape[-1]).float()  # (T, in)
            squares = values.square().sum(dim=0).double()
            self.sums[name] = self.sums[name] + squares if name in self.sums else squares
            self.tokens[name] = self.tokens.get(name, 0) + len(values)

        return add


def collect(payload: dict[str, Any], emit: Emit) -> dict[str, int]:
    sys.path[:0] = [str(Path(payload["converter"]) / "gguf-py")]
    model = load(Path(payload["model_dir"]))
    collector = Collector()
    names = tensor_names(model, payload)
    if not names:
        raise UserError(
            "llama.cpp knows none of this model's weights.", payload["architecture"], "Choose levels that need no matrix.", "IMATRIX"
        )
    for name, module in names.items():
        module.register_forward_pre_hook(collector.hook(name))
    run(model, payload["rows"], emit)
    write(Path(payload["out"]), collector, len(payload["rows"]), max(len(row) for row in payload["rows"]))
    return {"num_tensors": len(collector.sums), "num_tokens": sum(len(row) for row in payload["rows"])}


def load(model_dir: Path) -> Any:
    needed, free = weight_bytes(model_dir), psutil.virtual_memory().available
    if needed * 1.1 > free:
        raise UserError(
            f"The model takes {size(needed)} of memory, and {size(free)} are free.",
            "the importance matrix",
            "Make it on a machine with more memory, or choose levels that need none.",
            "OOM",
        )
    model: Any = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype="auto", local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    on_gpu = torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > needed * 1.2
    return model.to("cuda" if on_gpu else "cpu").eval()


def tensor_names(model: Any, payload: dict[str, Any]) -> dict[str, torch.nn.Module]:
    """The linear layers of the blocks by the name of their weight in the GGUF file; the output head is left out, as llama.cpp does."""
    gguf: Any = importlib.import_module("gguf")  # the one beside the converter
    architectures = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(architectures[payload["architecture"]], payload["num_blocks"])
    found: dict[str, torch.nn.Module] = {}
    for path, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear | Conv1D):
            continue
        name = f"{known.get_name(path)}.weight"
        width = module.in_features if isinstance(module, torch.nn.Linear) else module.weight.shape[0]
        if name.startswith("blk.") and payload["widths"].get(name) == width:
            found[name] = module
    return found


@torch.inference_mode()
def run(model: Any, rows: list[list[int]], emit: Emit) -> None:
    done, total, told_s = 0, sum(len(row) for row in rows), 0.0
    options: dict[str, Any] = {"use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        options["logits_to_keep"] = 1  # nothing is read of them, and those of a long row take more than the model
    for row in rows:
        model(torch.tensor([row], device=model.device), **options)
        done += len(row)
        if done == total or time.monotonic() - told_s > EVENT_S:
            told_s = time.monotonic()
            emit({"event": "progress", "done": done, "total": total, "unit": "tokens", "text": "importance matrix, tokens"})


def write(out: Path, collector: Collector, num_chunks: int, chunk_size: int) -> None:
    """The file as `llama-imatrix` writes it (tools/imatrix/imatrix.cpp, save_imatrix)."""
    gguf: Any = importlib.import_module("gguf")  # the one beside the converter
    writer = gguf.GGUFWriter(str(out), "")
    writer.kv_data[0].pop("general.architecture", None)
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["the model's own conversations"])
    writer.add_uint32("imatrix.chunk_count", num_chunks)
    writer.add_uint32("imatrix.chunk_size", chunk_size)
    for name in sorted(collector.sums):
        sums = collector.sums[name].cpu().numpy()
        if not np.isfinite(sums).all():
            raise UserError(f"The inputs of {name} are no numbers.", name, "The model is broken: train again, or fetch it again.", "NAN")
        writer.add_tensor(name + SUMS, sums.astype(np.float32)[None])
        writer.add_tensor(name + COUNTS, np.full((1, 1), collector.tokens[name], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    serve(collect)

"""The proving child: loads the models in turn, compares their log-probabilities at the answer tokens."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from core.childio import Emit, serve
from core.export.artifacts import adapter_weights
from core.export.native_support import FREE_SHARE, free_bytes
from core.export.prove import compare
from core.export.room import Device, Room, find_room


def prove(payload: dict[str, Any], emit: Emit) -> dict[str, float]:
    """merge_kl, merge_top1 (adapter on the float32 base against merged) and trained_to_merged_kl, _top1 (nf4 base with adapter against merged)."""
    rows, max_bytes = payload["rows"], payload["max_table_bytes"]

    def tell(name: str) -> Callable[[int], None]:
        return lambda done: emit({"event": "progress", "done": done, "total": len(rows), "text": name})

    scratch = payload["scratch"]
    merged = log_probabilities(load(payload["merged"], scratch), rows, max_bytes, tell("merged model"))  # (N, V)
    if payload["table"]:
        np.save(payload["table"], merged)
    if not payload["adapter"]:
        return {}
    adapter = log_probabilities(load(payload["base"], scratch, payload["adapter"]), rows, max_bytes, tell("adapter"))
    merge_kl, merge_top1 = compare(adapter, merged)
    proofs = {"merge_kl": merge_kl, "merge_top1": merge_top1}
    if payload["nf4"]:
        trained = log_probabilities(
            load(payload["base"], scratch, payload["adapter"], payload["nf4"]), rows, max_bytes, tell("adapter on 4 bit")
        )
        kl, top1 = compare(trained, merged)
        proofs |= {
            "trained_to_merged_kl": kl,
            "trained_to_merged_top1": top1,
            "eval_loss_trained": mean_loss(trained, rows),
            "eval_loss_merged": mean_loss(merged, rows),
        }
    return proofs


def load(folder: str, scratch: str, adapter: str | None = None, nf4: dict[str, bool] | None = None) -> Any:
    """A model for inference, computing in float32 whatever its weights are stored in; what finds no room elsewhere lies in `scratch`.

    Raises:
        UserError: there is no room for it with its adapter.
    """
    here: Device = "cuda" if torch.cuda.is_available() else "cpu"
    room = Room(here) if nf4 else find_room(Path(folder), free(), may_use_disk=not adapter)
    how: dict[str, Any] = {"device_map": {"": room.device}, "dtype": "auto" if room.as_stored else torch.float32}
    if nf4:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=nf4["double_quant"],
            bnb_4bit_compute_dtype=torch.float32,
        )
    if room.device == "disk":
        most = {0 if device == "cuda" else device: int(FREE_SHARE * size_bytes) for device, size_bytes in free()}
        how |= {"device_map": "auto", "max_memory": most, "offload_folder": scratch}
    model = AutoModelForCausalLM.from_pretrained(Path(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True, **how)
    if room.as_stored:
        widen_in_turn(model)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter_weights(Path(adapter)).parent)
    return model.eval()


def free() -> list[tuple[Device, int]]:
    """The devices that a model may lie on, and the bytes that each has free."""
    gpu: list[tuple[Device, int]] = [("cuda", torch.cuda.mem_get_info()[0])] if torch.cuda.is_available() else []
    return [*gpu, ("cpu", free_bytes())]


def widen_in_turn(model: torch.nn.Module) -> None:
    """Let every module compute in float32 while its own weights stay as they are stored between its turns: the same numbers in half the room."""
    for module in model.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.is_floating_point()]
        if any(parameter.dtype != torch.float32 for parameter in own):
            kept: list[torch.Tensor] = []

            def widen(_module: Any, _args: Any, own: list[Any] = own, kept: list[torch.Tensor] = kept) -> None:
                kept[:] = [parameter.data for parameter in own]
                for parameter in own:
                    parameter.data = parameter.data.float()

            def narrow(_module: Any, _args: Any, _out: Any, own: list[Any] = own, kept: list[torch.Tensor] = kept) -> None:
                for parameter, stored in zip(own, kept, strict=True):
                    parameter.data = stored

            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)


@torch.inference_mode()
def log_probabilities(model: Any, rows: list[dict[str, Any]], max_bytes: int, tell: Callable[[int], None]) -> np.ndarray[Any, Any]:
    """Log-probabilities (N, V) in float32 at the positions of the rows, row after row, at most `max_bytes` of them."""
    tables: list[np.ndarray[Any, Any]] = []
    used_bytes = 0
    for row in rows:
        ids = torch.tensor([row["input_ids"]], device=model.device)  # (1, T)
        logits = model(ids).logits[0, row["positions"]]  # (P, V)
        table = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        used_bytes += table.nbytes
        if tables and used_bytes > max_bytes:
            break
        tables.append(table)
        tell(len(tables))
    del model
    gc.collect()
    return np.concatenate(tables)


def mean_loss(table: np.ndarray[Any, Any], rows: list[dict[str, Any]]) -> float:
    """Mean negative log-probability of the tokens that follow the positions."""
    targets = [row["input_ids"][position + 1] for row in rows for position in row["positions"]][: len(table)]
    return float(-table[np.arange(len(table)), targets].mean())


if __name__ == "__main__":
    serve(prove)

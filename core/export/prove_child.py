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
from core.export.prove import compare


def prove(payload: dict[str, Any], emit: Emit) -> dict[str, float]:
    """merge_kl, merge_top1 (adapter on the float32 base against merged) and trained_to_merged_kl, _top1 (nf4 base with adapter against merged)."""
    rows, max_bytes = payload["rows"], payload["max_table_bytes"]

    def tell(name: str) -> Callable[[int], None]:
        return lambda done: emit({"event": "progress", "done": done, "total": len(rows), "text": name})

    merged = log_probabilities(load(payload["merged"]), rows, max_bytes, tell("merged model"))  # (N, V)
    if payload["table"]:
        np.save(payload["table"], merged)
    if not payload["adapter"]:
        return {}
    adapter = log_probabilities(load(payload["base"], payload["adapter"]), rows, max_bytes, tell("adapter"))
    merge_kl, merge_top1 = compare(adapter, merged)
    proofs = {"merge_kl": merge_kl, "merge_top1": merge_top1}
    if payload["nf4"]:
        trained = log_probabilities(load(payload["base"], payload["adapter"], payload["nf4"]), rows, max_bytes, tell("adapter on 4 bit"))
        kl, top1 = compare(trained, merged)
        proofs |= {
            "trained_to_merged_kl": kl,
            "trained_to_merged_top1": top1,
            "eval_loss_trained": mean_loss(trained, rows),
            "eval_loss_merged": mean_loss(merged, rows),
        }
    return proofs


def load(folder: str, adapter: str | None = None, nf4: dict[str, bool] | None = None) -> Any:
    """A model for inference, computing in float32 whatever its weights are stored in."""
    quantization = None
    if nf4:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=nf4["double_quant"],
            bnb_4bit_compute_dtype=torch.float32,
        )
    model = AutoModelForCausalLM.from_pretrained(
        Path(folder),
        dtype=torch.float32,
        quantization_config=quantization,
        device_map={"": "cuda" if torch.cuda.is_available() else "cpu"},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


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

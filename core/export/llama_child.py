"""The child side of `core.export.llama`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.export.measure_child import log_softmax
from core.export.native import LlamaModel


def handle(payload: dict[str, Any], emit: Emit) -> list[list[int]] | None:
    path = Path(payload["path"])
    if payload["texts"] is not None:
        model = LlamaModel(path, vocabulary_only=True)
        ids: list[list[int]] = []
        for text in payload["texts"]:
            ids.append(model.encode(text))
            emit({"event": "progress", "done": len(ids), "total": len(payload["texts"])})
        model.close()
        return ids
    _write_logprobs(path, payload["sequences"], Path(payload["out"]), emit)
    return None


def _write_logprobs(path: Path, sequences: list[tuple[list[int], list[int]]], out: Path, emit: Emit) -> None:
    import numpy as np

    model = LlamaModel(path)
    model.open_context(max(len(ids) for ids, _ in sequences))
    rows = sum(len(positions) for _, positions in sequences)
    stored = np.lib.format.open_memmap(out, mode="w+", dtype=np.float32, shape=(rows, model.num_vocabulary))
    row = 0
    for ids, positions in sequences:
        for found, logits in model.logits_at(ids, positions):
            stored[row : row + len(found)] = log_softmax(logits, path)
            row += len(found)
            emit({"event": "progress", "done": row, "total": rows})
    stored.flush()
    model.close()


if __name__ == "__main__":
    serve(handle)

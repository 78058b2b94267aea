"""Proofs: what was trained is what is merged, what is in the GGUF file, and so what is chatted with and published."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from core import process
from core.conversation import Conversation
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.gguf import reference_in
from core.export.jobs import OnEvent
from core.export.merge import base_folder
from core.export.tensors import weight_bytes
from core.training.recipe import Recipe

# Thresholds of each proof: the figure must not be above (KL) or below (top-1) them.
MAX_MERGE_KL, MIN_MERGE_TOP1 = 1e-3, 0.98
MAX_GGUF_KL, MIN_GGUF_TOP1 = 1e-4, 0.995
MAX_POSITIONS = 1024
MAX_TABLE_BYTES = 512 * 2**20


def prove_run(
    folder: Path, recipe: Recipe, conversations: list[Conversation], log: Path | None = None, on_event: OnEvent | None = None
) -> dict[str, Any]:
    """Prove the artifacts of a run, store the proofs in their manifests and return them all.

    Keys: template_identical, tokens_identical, merge_kl, merge_top1, gguf_kl, gguf_top1, trained_to_merged_kl, trained_to_merged_top1, passed.
    KL is the mean over answer tokens of KL(reference || candidate) in nats; top-1 is the share of equal best tokens.
    """
    nf4 = {"double_quant": recipe.double_quant} if recipe.method == "qlora" else None
    merged = artifacts.read(folder / "merged")
    adapter = artifacts.read(folder / "adapter") if (folder / "adapter").is_dir() else None
    f16 = reference_in(folder)
    proofs = prove(merged, adapter, f16, conversations, nf4=nf4, log=log, on_event=on_event)
    for artifact in artifacts.of_run(folder.parent):
        artifacts.update(artifact, proofs=proofs)
    return proofs


def prove(
    merged: Artifact,
    adapter: Artifact | None,
    f16: Artifact | None,
    conversations: list[Conversation],
    *,
    nf4: dict[str, bool] | None = None,
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """The proofs of one merged model against the adapter it came from and the f16 GGUF file made of it; whichever is there.

    `nf4` describes the 4-bit base that the adapter was trained on (``{"double_quant": bool}``), None when it was not quantised.
    `on_event` gets ``{"event": "progress", "done", "total", "text"}``: the conversations that the model named in `text` has read.
    """
    rows = labelled_rows(merged.folder, conversations)
    proofs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "merged.npy"
        payload = {
            "merged": str(merged.folder),
            "adapter": str(adapter.folder) if adapter else None,
            "base": str(base_folder(adapter)) if adapter else None,
            "nf4": nf4,
            "rows": [{"input_ids": row["input_ids"], "positions": row["positions"]} for row in rows],
            "table": str(table) if f16 else None,
            "max_table_bytes": MAX_TABLE_BYTES,
            "scratch": scratch,
        }
        timeout_s = process.patience_s(weight_bytes(merged.folder), max((len(row["input_ids"]) for row in rows), default=0))
        proofs |= process.call_child("core.export.prove_child", payload, step="Proving", log=log, on_event=on_event, timeout_s=timeout_s)
        if f16:
            proofs |= prove_gguf(merged, f16, rows, table)
    return proofs | {"num_positions": sum(len(row["positions"]) for row in rows), "passed": passed(proofs)}


def prove_gguf(merged: Artifact, f16: Artifact, rows: list[dict[str, Any]], table: Path) -> dict[str, Any]:
    """The GGUF file renders, tokenises and predicts as the merged model does; `table` holds the merged model's log-probabilities (N, V)."""
    import numpy as np

    from core.export.header import gguf_template
    from core.export.llama import gguf_logprobs, gguf_tokenize

    template = (merged.folder / "chat_template.jinja").read_text(encoding="utf-8")
    path = f16.gguf_path
    ids = gguf_tokenize(path, [row["text"] for row in rows])
    reference = np.load(table, mmap_mode="r")  # (N, V)
    out = gguf_logprobs(path, [row["input_ids"] for row in rows], [row["positions"] for row in rows], table.with_name("gguf.npy"))
    candidate = np.load(out, mmap_mode="r")  # (N, V)
    kl, top1 = compare(reference, candidate[: len(reference)])
    return {
        "template_identical": gguf_template(path) == template,
        "tokens_identical": ids == [row["input_ids"] for row in rows],
        "gguf_kl": kl,
        "gguf_top1": top1,
    }


def compare(reference: Any, candidate: Any) -> tuple[float, float]:
    """(mean KL in nats, top-1 agreement) of two tables of log-probabilities (N, V), in blocks so that memory stays flat."""
    import numpy as np

    kl_sum, agreed = 0.0, 0
    for begin in range(0, len(reference), 256):
        p = np.asarray(reference[begin : begin + 256], dtype=np.float64)
        q = np.asarray(candidate[begin : begin + 256], dtype=np.float64)
        kl_sum += float((np.exp(p) * (p - q)).sum())
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
    return kl_sum / len(reference), agreed / len(reference)


def labelled_rows(model: Path, conversations: list[Conversation]) -> list[dict[str, Any]]:
    """Token rows with the positions whose next token carries loss, up to `MAX_POSITIONS` of them in all."""
    from core.data.render import tokenize
    from core.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    rows: list[dict[str, Any]] = []
    left = MAX_POSITIONS
    for conversation in conversations:
        sample = tokenize(conversation, tokenizer)
        positions = [index - 1 for index, label in enumerate(sample.labels) if label != -100 and index > 0][:left]
        if positions:
            rows.append({"input_ids": list(sample.input_ids), "positions": positions, "text": sample.text})
            left -= len(positions)
        if left <= 0:
            break
    return rows


def passed(proofs: dict[str, Any]) -> bool:
    """Whether every proof that was made holds."""
    checks = (
        proofs.get("template_identical", True),
        proofs.get("tokens_identical", True),
        proofs.get("merge_kl", 0.0) <= MAX_MERGE_KL,
        proofs.get("merge_top1", 1.0) >= MIN_MERGE_TOP1,
        proofs.get("gguf_kl", 0.0) <= MAX_GGUF_KL,
        proofs.get("gguf_top1", 1.0) >= MIN_GGUF_TOP1,
    )
    return all(checks)

"""What a GGUF file computes, asked from outside: token ids of a text, and log-probabilities at chosen places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.export.split import gguf_bytes, gguf_headers
from core.process import call_child, patience_s


def gguf_tokenize(gguf: Path, texts: Sequence[str], *, log: Path | None = None) -> list[list[int]]:
    """The token ids of each text by llama.cpp: special tokens recognised, BOS first if the file says so."""
    gguf_headers(gguf)
    payload = {"path": str(gguf), "texts": list(texts), "sequences": None}
    timeout_s = patience_s(gguf_bytes(gguf))
    return call_child("core.export.llama_child", payload, step=f"Tokenising with {gguf.name}", log=log, timeout_s=timeout_s)


def gguf_logprobs(
    gguf: Path, token_ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], out: Path, *, log: Path | None = None
) -> Path:
    """Write log-probabilities as a float32 .npy of shape (sum of len(positions), V): row after row, sequence after sequence.

    Row for position p of a sequence: the distribution of the token that follows ``token_ids[p]``. Open it with
    ``numpy.load(out, mmap_mode="r")``.
    """
    gguf_headers(gguf)
    sequences = [[list(ids), list(wanted)] for ids, wanted in zip(token_ids, positions, strict=True)]
    payload = {"path": str(gguf), "texts": None, "sequences": sequences, "out": str(out)}
    timeout_s = patience_s(gguf_bytes(gguf), max(map(len, token_ids), default=0))
    call_child("core.export.llama_child", payload, step=f"Computing with {gguf.name}", log=log, timeout_s=timeout_s)
    return out

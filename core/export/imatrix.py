"""Importance matrix: how strongly each input of each weight is used, from the user's own conversations. Levels of few bits need one.

For every matrix product, the sum over tokens of the squared inputs; the same figures that llama.cpp's `llama-imatrix` collects, in the
same file format, so each reads the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import paths
from core.conversation import Conversation
from core.errors import UserError
from core.export import converter
from core.export.header import gguf_header
from core.export.jobs import OnEvent
from core.export.split import all_tensors
from core.export.tensors import weight_bytes
from core.process import call_child, patience_s

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Importance = dict[str, "NDArray[np.float32]"]  # by tensor name: the mean squared input, (in,)
MAX_TOKENS = 50_000  # as many as llama.cpp's usual hundred chunks of 512
SUMS, COUNTS = ".in_sum2", ".counts"


def make_imatrix(
    model_dir: Path,
    source: Path,
    conversations: Sequence[Conversation],
    out: Path,
    *,
    max_length: int | None = None,
    max_tokens: int = MAX_TOKENS,
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> Path:
    """Run the model over the conversations and write its importance matrix to `out`, a GGUF file.

    Args:
        source: the model's float GGUF file, which says how its tensors are called there.
        max_length: conversations are cut after so many tokens, as in training, and at the latest where the model's context ends.
        on_event: gets ``{"event": "progress", "done", "total"}`` in tokens.

    Raises:
        UserError: no conversation, too little memory for the model (code OOM), or none of its weights is known to llama.cpp.
    """
    header = gguf_header(source)
    limits = (max_length, header.context_length)
    rows = _rows(model_dir, conversations, min((limit for limit in limits if limit), default=None), max_tokens)
    with paths.replacing(out) as partial:
        payload: dict[str, Any] = {
            "converter": str(converter.converter_dir()),
            "model_dir": str(model_dir),
            "architecture": header.architecture,
            "num_blocks": header.metadata.get(f"{header.architecture}.block_count", 0),
            "widths": {tensor.name: tensor.shape[0] for tensor in all_tensors(source) if len(tensor.shape) == 2},
            "rows": rows,
            "out": str(partial),
        }
        timeout_s = patience_s(weight_bytes(model_dir), max(map(len, rows)))
        step = "Making the importance matrix"
        call_child("core.export.imatrix_child", payload, step=step, log=log, on_event=on_event, timeout_s=timeout_s)
    return out


def _rows(model_dir: Path, conversations: Sequence[Conversation], max_length: int | None, max_tokens: int) -> list[list[int]]:
    """Token ids of whole conversations, `max_tokens` in all at most."""
    from core.data.render import tokenize
    from core.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_dir)
    rows: list[list[int]] = []
    left = max_tokens
    for conversation in conversations:
        ids = list(tokenize(conversation, tokenizer, max_length).input_ids[:left])
        if ids:
            rows.append(ids)
        left -= len(ids)
        if left <= 0:
            break
    if not rows:
        raise UserError("There is no conversation to make the importance matrix from.", "the conversations", "Give some.", "IMATRIX")
    return rows


def read_imatrix(path: Path) -> Importance:
    """The mean squared inputs by tensor name; experts stand one behind the other, and those that saw no token count as even.

    Raises:
        UserError: not an importance matrix, or a part of one is missing.
    """
    import numpy as np

    header = gguf_header(path)
    found: dict[str, NDArray[np.float32]] = {}
    for tensor in header.tensors:
        if tensor.type == "F32":
            shape = tensor.shape[::-1]
            found[tensor.name] = np.fromfile(path, np.float32, tensor.size_bytes // 4, offset=header.data_offset + tensor.offset).reshape(
                shape
            )
    importance: Importance = {}
    for name, sums in found.items():
        counts = found.get(name.removesuffix(SUMS) + COUNTS)
        if not name.endswith(SUMS):
            continue
        if counts is None or counts.size != sums.size // sums.shape[-1]:
            raise UserError(f"{path.name} lacks the counts of {name}.", str(path), "Make the importance matrix again.", "IMATRIX")
        counts = counts.reshape(-1, 1)
        means = np.where(counts > 0, sums.reshape(len(counts), -1) / np.maximum(counts, 1), 1.0)
        importance[name.removesuffix(SUMS)] = np.ascontiguousarray(means, np.float32).reshape(-1)
    if not importance:
        raise UserError(f"{path.name} is no importance matrix.", str(path), "Make one with `python -m core imatrix`.", "IMATRIX")
    return importance

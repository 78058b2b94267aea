"""How much memory a chat with a model takes, before it is loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core import paths
from core.chat.engine import CONTEXT_LENGTH, base_here
from core.chat.sources import Source
from core.export.artifacts import Artifact
from core.export.header import cache_bytes, gguf_header

# Of the empty process with its libraries, measured on Linux x86-64: python with llama.cpp 65 MB, with torch and transformers 520 MB.
LLAMA_BYTES, TORCH_BYTES = 80 * 10**6, 550 * 10**6
FLOAT32_BYTES = 4 * 2**30  # on a CPU, weights up to this size are computed in float32


def needed_bytes(sources: Iterable[Source], context_length: int | None = None) -> int:
    """Memory of all these sources together; those that share a process count once, endpoints take none."""
    unique = {source.engine_id: source.artifact for source in sources if source.artifact}
    return sum(_artifact_bytes(artifact, context_length or CONTEXT_LENGTH) for artifact in unique.values())


def _artifact_bytes(artifact: Artifact, context_length: int) -> int:
    if artifact.kind == "gguf":
        header = gguf_header(artifact.gguf_path)
        length = min(context_length, header.context_length or context_length)
        return LLAMA_BYTES + artifact.size_bytes + cache_bytes(header, length)
    base = (base_here(artifact) or Path(artifact.base_path or artifact.folder)) if artifact.kind == "adapter" else artifact.folder
    config = _config(base)
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors")) if base.is_dir() else 0
    stored_bytes = 4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    computed = weights * 4 // stored_bytes if weights <= FLOAT32_BYTES else weights
    adapter = artifact.size_bytes if artifact.kind == "adapter" else 0
    length = min(context_length, _number(config, "max_position_embeddings") or context_length)
    heads = _number(config, "num_attention_heads") or 1
    width = _number(config, "head_dim") or _number(config, "hidden_size") // heads
    keys = 2 * 4 * length * _number(config, "num_hidden_layers") * (_number(config, "num_key_value_heads") or heads) * width
    return TORCH_BYTES + computed + adapter + keys


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = paths.read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0

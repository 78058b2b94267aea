"""How much memory a chat with models takes, of the machine and of its GPUs, before they are loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import paths
from core.chat.engine import CONTEXT_LENGTH, base_here
from core.chat.sources import Source
from core.export.artifacts import Artifact
from core.export.header import cache_bytes, gguf_header
from core.export.native_support import free_bytes
from core.training import hardware
from core.training.setting import CUDA_CONTEXT
from core.units import size
from core.usage import usage

# Of the empty process with its libraries, measured on Linux x86-64: python with llama.cpp 65 MB, with torch and transformers 520 MB.
LLAMA_BYTES, TORCH_BYTES = 80 * 10**6, 550 * 10**6
CUDA_HOST_BYTES = 10**9  # main memory that CUDA's libraries take besides; a rule of thumb
FLOAT32_BYTES = 4 * 2**30  # on a CPU, weights up to this size are computed in float32


@dataclass(frozen=True)
class Room:
    """What is free now, in bytes, and which engines load a model onto a GPU."""

    main: int
    gpus: tuple[int, ...] = ()  # in CUDA's order
    has_torch_gpu: bool = False
    has_llama_gpu: bool = False

    def with_back(self, unloaded: Need) -> Room:
        """What is free once models that take `unloaded` have gone."""
        shares = [unloaded.any_gpu // max(1, len(self.gpus)) + (0 if index else unloaded.first_gpu) for index in range(len(self.gpus))]
        gpus = tuple(free + share for free, share in zip(self.gpus, shares, strict=True))
        return replace(self, main=self.main + unloaded.main, gpus=gpus)


@dataclass(frozen=True)
class Need:
    """What models take, in bytes: transformers puts a model on the first GPU, llama.cpp spreads it over all."""

    main: int = 0
    first_gpu: int = 0
    any_gpu: int = 0

    @property
    def gpu(self) -> int:
        return self.first_gpu + self.any_gpu

    def __add__(self, other: Need) -> Need:
        return Need(self.main + other.main, self.first_gpu + other.first_gpu, self.any_gpu + other.any_gpu)


def room() -> Room:
    """This machine's; its driver is asked only where one of the engines is built for CUDA."""
    has_torch, has_llama = hardware.torch_build().cuda is not None, _has_llama_cuda()
    gpus = _free_vram() if has_torch or has_llama else ()
    return Room(free_bytes(), gpus, has_torch and bool(gpus), has_llama and bool(gpus))


def _free_vram() -> tuple[int, ...]:
    used = {gpu.index: gpu.memory_used_bytes or 0 for gpu in usage().gpus}
    return tuple(max(0, gpu.vram_bytes - used.get(gpu.index, 0)) for gpu in hardware.installed_gpus())


def _has_llama_cuda() -> bool:
    """Read from the library's files, because importing it loads native code."""
    spec = importlib.util.find_spec("llama_cpp")
    return bool(spec and spec.origin and list((Path(spec.origin).parent / "lib").glob("*ggml-cuda*")))


def needed(sources: Iterable[Source], at: Room, context_length: int | None = None) -> Need:
    """What all these sources take together; those that share a process count once, endpoints take nothing."""
    unique = {source.engine_id: source.artifact for source in sources if source.artifact}
    return sum((_of_artifact(artifact, at, context_length or CONTEXT_LENGTH) for artifact in unique.values()), Need())


def shortage(need: Need, at: Room) -> str | None:
    """What does not fit, as a sentence; None when everything does."""
    if need.main > at.main:
        return f"Loading these models needs about {size(need.main)} of memory and {size(at.main)} are free."
    first = at.gpus[0] if at.gpus else 0
    if need.first_gpu > first or need.gpu > sum(at.gpus):
        free = first if need.first_gpu > first else sum(at.gpus)
        return f"Loading these models needs about {size(need.gpu)} of GPU memory and {size(free)} are free."
    return None


def _of_artifact(artifact: Artifact, at: Room, context_length: int) -> Need:
    if artifact.kind == "gguf":
        header = gguf_header(artifact.gguf_path)
        length = min(context_length, header.context_length or context_length)
        model = artifact.size_bytes + cache_bytes(header, length)
        if at.has_llama_gpu:
            return Need(LLAMA_BYTES + CUDA_HOST_BYTES, any_gpu=CUDA_CONTEXT + model)
        return Need(LLAMA_BYTES + model)
    base = (base_here(artifact) or Path(artifact.base_path or artifact.folder)) if artifact.kind == "adapter" else artifact.folder
    config = _config(base)
    weights = sum(file.stat().st_size for file in base.glob("*.safetensors")) if base.is_dir() else 0
    adapter = artifact.size_bytes if artifact.kind == "adapter" else 0
    stored_bytes = 4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2
    numbers = _cached_numbers(config, context_length)
    if at.has_torch_gpu:
        return Need(TORCH_BYTES + CUDA_HOST_BYTES, first_gpu=CUDA_CONTEXT + weights + adapter + stored_bytes * numbers)
    computed = weights * 4 // stored_bytes if weights <= FLOAT32_BYTES else weights
    return Need(TORCH_BYTES + computed + adapter + 4 * numbers)


def _cached_numbers(config: dict[str, Any], context_length: int) -> int:
    """How many numbers the keys and values of a full context are."""
    length = min(context_length, _number(config, "max_position_embeddings") or context_length)
    heads = _number(config, "num_attention_heads") or 1
    width = _number(config, "head_dim") or _number(config, "hidden_size") // heads
    return 2 * length * _number(config, "num_hidden_layers") * (_number(config, "num_key_value_heads") or heads) * width


def _config(folder: Path) -> dict[str, Any]:
    try:
        found = paths.read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0

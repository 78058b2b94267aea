"""Quantises inside a child process with `llama_model_quantize`, the function behind llama.cpp's own `llama-quantize`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from core.childio import Emit, serve
from core.errors import UserError
from core.export.header import TENSOR_TYPES, Header, Tensor, gguf_header, tensor_bytes
from core.export.imatrix import Importance, read_imatrix
from core.export.native_support import limit_memory, log_lines
from core.export.split import all_tensors, gguf_bytes
from core.training.failures import ELSEWHERE, disk_full, too_little_memory

# "[   3/  39] blk.0.attn_k.weight  - [ 256, 128, 1, 1], type = f16, size = 0.06 MiB -> 0.02 MiB (q4_0)"
TENSOR_LINE = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+) .*?(?:\((\w+)\)\s*)?$")
ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT, what llama_model_quantize writes
ADDED_KEYS = ("general.quantization_version", "general.file_type")
NO_IMPORTANCE: Importance = {"": np.zeros(1, np.float32)}  # for a dry run: there is a matrix, and its values do not matter


def handle(payload: dict[str, Any], emit: Emit) -> None:
    source = Path(payload["source"])
    limit_memory(gguf_bytes(source))
    header, tensors = gguf_header(source), all_tensors(source)
    importance = read_imatrix(Path(payload["imatrix"])) if payload["imatrix"] else NO_IMPORTANCE if payload["dry_run"] else {}
    for job in payload["jobs"]:
        types: dict[str, str] = {}
        errors: list[str] = []
        if job["is_guided"] and not importance:
            raise explain("missing importance matrix", job["id"])
        with log_lines(_watch(emit, types, errors)):
            code = _quantise(source, job, payload, importance if job["is_guided"] else {})
        if code:
            raise explain(" ".join(errors), job["id"], job["is_guided"])
        out = Path(job["out"])
        value = _exact_size(header, tensors, types) if payload["dry_run"] else out.stat().st_size
        emit({"event": "done", "id": job["id"], "value": value})


def _quantise(source: Path, job: dict[str, Any], payload: dict[str, Any], importance: Importance) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = payload["threads"]
    params.dry_run = payload["dry_run"]
    if importance:
        entries = _as_entries(importance)  # must live as long as the call
        params.imatrix = entries
    return int(llama_cpp.llama_model_quantize(str(source).encode(), job["out"].encode(), llama_cpp.byref(params)))


def _as_entries(importance: Importance) -> Any:
    """llama.cpp's `llama_model_imatrix_data` array, which ends with an entry without a name."""
    import ctypes

    import llama_cpp

    entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name, entry.size = name.encode(), len(values)
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries


def _watch(emit: Emit, types: dict[str, str], errors: list[str]) -> Callable[[str, bool], None]:
    def watch(line: str, is_error: bool) -> None:
        if is_error and line.strip(" =\n"):
            errors.append(line.strip())
        if found := TENSOR_LINE.match(line):
            done, total, name, new_type = found.groups()
            if new_type:
                types[name] = new_type.upper()
            emit({"event": "progress", "done": int(done), "total": int(total)})

    return watch


def _exact_size(header: Header, tensors: list[Tensor], types: dict[str, str]) -> int:
    """The file's bytes when the tensors in `types` change to that type and all others stay."""
    numbers = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
    data = 0
    for tensor in tensors:
        size = tensor_bytes(tensor.shape, numbers[types.get(tensor.name, tensor.type)])
        data += -(-size // ALIGNMENT) * ALIGNMENT
    added = sum(16 + len(key) for key in ADDED_KEYS if key not in header.metadata)
    return -(-(header.header_bytes + added) // ALIGNMENT) * ALIGNMENT + data


def explain(said: str, name: str, is_guided: bool = False) -> UserError:
    where = f"quantising to {name}"
    if "iostream error" in said or "No space left" in said:  # of writing; reading has messages of its own
        return disk_full(where, ELSEWHERE)
    if "bad_alloc" in said or "not enough memory" in said or "failed to allocate" in said:
        return too_little_memory(where)
    if is_guided and "imatrix" in said.lower():
        remedy = "Make the importance matrix of this very model; weights that few words reach (experts) need more conversations."
        return UserError(f"The importance matrix does not fit the model: {said}", where, remedy, code="IMATRIX")
    if "imatrix" in said or "importance matrix" in said:
        remedy = "Make one of your conversations (--imatrix auto), or choose a level that needs none, for example Q4_K_M or IQ3_M."
        return UserError(f"{name} needs an importance matrix of the model.", where, remedy, code="IMATRIX")
    return UserError(
        f"llama.cpp refused to quantise to {name}: {said or 'no reason given'}.",
        where,
        "Choose another level; K and IQ levels need rows that are multiples of 256.",
        code="QUANTISE",
    )


if __name__ == "__main__":
    serve(handle)

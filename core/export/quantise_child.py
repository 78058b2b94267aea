"""Quantises inside a child process with `llama_model_quantize`, the function behind llama.cpp's own `llama-quantize`."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.errors import UserError
from core.export.header import TENSOR_TYPES, Header, gguf_header, tensor_bytes
from core.export.native_support import log_lines

# "[   3/  39] blk.0.attn_k.weight  - [ 256, 128, 1, 1], type = f16, size = 0.06 MiB -> 0.02 MiB (q4_0)"
TENSOR_LINE = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+) .*?(?:\((\w+)\)\s*)?$")
ALIGNMENT = 32  # GGUF_DEFAULT_ALIGNMENT, what llama_model_quantize writes
ADDED_KEYS = ("general.quantization_version", "general.file_type")


def handle(payload: dict[str, Any], emit: Emit) -> None:
    source = Path(payload["source"])
    header = gguf_header(source)
    for job in payload["jobs"]:
        types: dict[str, str] = {}
        errors: list[str] = []
        with log_lines(_watch(emit, types, errors)):
            code = _quantise(source, job, payload)
        if code:
            raise explain(" ".join(errors), job["id"])
        out = Path(job["out"])
        value = _exact_size(header, types) if payload["dry_run"] else out.stat().st_size
        emit({"event": "done", "id": job["id"], "value": value})


def _quantise(source: Path, job: dict[str, Any], payload: dict[str, Any]) -> int:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = job["ftype"]
    params.nthread = payload["threads"]
    params.dry_run = payload["dry_run"]
    return int(llama_cpp.llama_model_quantize(str(source).encode(), job["out"].encode(), llama_cpp.byref(params)))


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


def _exact_size(header: Header, types: dict[str, str]) -> int:
    """The file's bytes when the tensors in `types` change to that type and all others stay."""
    numbers = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
    data = 0
    for tensor in header.tensors:
        size = tensor_bytes(tensor.shape, numbers[types.get(tensor.name, tensor.type)])
        data += -(-size // ALIGNMENT) * ALIGNMENT
    added = sum(16 + len(key) for key in ADDED_KEYS if key not in header.metadata)
    return -(-(header.header_bytes + added) // ALIGNMENT) * ALIGNMENT + data


def explain(said: str, name: str) -> UserError:
    where = f"quantising to {name}"
    if "imatrix" in said or "importance matrix" in said:
        remedy = "Choose a level with more bits, for example Q4_K_M, Q3_K_M or IQ3_M."
        return UserError(f"{name} stores so few bits that it needs an importance matrix of the model.", where, remedy, code="IMATRIX")
    return UserError(
        f"llama.cpp refused to quantise to {name}: {said or 'no reason given'}.",
        where,
        "Choose another level; K and IQ levels need rows that are multiples of 256.",
        code="QUANTISE",
    )


if __name__ == "__main__":
    serve(handle)

"""Safetensors files without loading them: what tensors they hold and where each lies, and the header of a new file.

A file is an 8-byte length, a JSON header with name, dtype, shape and offsets, and the bytes
(https://github.com/huggingface/safetensors#format). The library itself writes only what it holds in memory as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from core import paths
from core.errors import UserError

INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the library's own limit
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
FLOATS = ("BF16", "F16", "F32", "F64")
METADATA = "__metadata__"
SAMPLES, SAMPLE_BYTES = 4, 4096  # of each tensor, for its model's fingerprint


@dataclass(frozen=True, slots=True)
class Stored:
    """One tensor of a file: row-major, `size_bytes` from `offset` on."""

    path: Path
    name: str
    dtype: str  # "BF16", "F32", ...
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def num_rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return self.size_bytes // self.num_rows if self.num_rows else 0


def stored_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file by name, in the order in which they lie in it.

    Raises:
        UserError: the file is missing, cut short, or its header contradicts itself.
    """
    header, data_offset = _header(path)
    data_bytes = path.stat().st_size - data_offset
    found = [_stored(path, name, entry, data_offset, data_bytes) for name, entry in header.items() if name != METADATA]
    return {stored.name: stored for stored in sorted(found, key=lambda stored: (stored.offset, stored.size_bytes))}


def file_metadata(path: Path) -> dict[str, str]:
    """What the file says about itself: ``{"format": "pt"}``."""
    return _header(path)[0].get(METADATA, {})


def _header(path: Path) -> tuple[dict[str, Any], int]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                _refuse(path, "its header has no sensible length")
            text = file.read(length)
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.", str(path), "Fetch the model again.", "WEIGHTS") from error
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        _refuse(path, "its header is no JSON")
    if len(text) < length or not isinstance(header, dict):
        _refuse(path, "its header is cut short")
    return header, 8 + length


def _stored(path: Path, name: str, entry: Any, data_offset: int, data_bytes: int) -> Stored:
    try:
        dtype, shape, (begin, end) = str(entry["dtype"]), tuple(int(size) for size in entry["shape"]), entry["data_offsets"]
        is_sane = 0 <= begin <= end and all(size >= 0 for size in shape)
    except (KeyError, TypeError, ValueError):
        _refuse(path, f"its entry {name!r:.80} says too little")
    if end > data_bytes:
        _refuse(path, f"the tensor {name!r:.80} should end at byte {data_offset + end}, and the file has {data_offset + data_bytes}")
    if not is_sane or (dtype in DTYPE_BYTES and math.prod(shape) * DTYPE_BYTES[dtype] != end - begin):
        _refuse(path, f"the tensor {name!r:.80} of shape {shape} cannot have {end - begin} bytes")
    return Stored(path, name, dtype, shape, data_offset + begin, end - begin)


def _refuse(path: Path, why: str) -> NoReturn:
    remedy = "Fetch or save the model again; a file that was cut short is the usual cause."
    raise UserError(f"{path.name} is not a usable safetensors file: {why}.", str(path), remedy, "WEIGHTS")


def weight_bytes(folder: Path) -> int:
    """The size of a model folder's weight files together."""
    return sum(file.stat().st_size for file in model_files(folder))


def model_files(folder: Path) -> list[Path]:
    """The weight files of a model folder: those that its index names, else the single file.

    Other safetensors files may lie beside them (Mistral's ``consolidated.safetensors`` holds everything a second time).

    Raises:
        UserError: there are none, or one that the index names is missing.
    """
    model = paths.model_name(folder)
    if (folder / INDEX).is_file():
        try:
            names = list(dict.fromkeys(paths.read_json(folder / INDEX)["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{INDEX} of {model} cannot be read.", str(folder), "Fetch the model again.", "WEIGHTS") from None
        for name in names:
            if Path(str(name)).name != name or not (folder / name).is_file():
                remedy = "Fetch the model again; an interrupted download is the usual cause."
                raise UserError(f"{model} lacks its weight file {name}.", str(folder), remedy, "WEIGHTS")
        return [folder / name for name in sorted(names)]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    problem = f"{model} has several weight files and no index." if found else f"{model} has no safetensors weights."
    raise UserError(problem, str(folder), "Save it again with transformers, which writes safetensors and an index.", "WEIGHTS")


def model_tensors(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder by name."""
    return {name: stored for file in model_files(folder) for name, stored in stored_tensors(file).items()}


def weights_fingerprint(folder: Path) -> str:
    """What tells a model's weights from others of the same names and shapes: a few places of each tensor, in whatever files they lie."""
    digest = hashlib.sha256()
    with ExitStack() as stack:
        files = {file: stack.enter_context(file.open("rb")) for file in model_files(folder)}
        for name, stored in sorted(model_tensors(folder).items()):
            digest.update(f"{name} {stored.dtype} {stored.shape}\n".encode())
            for place in range(SAMPLES):
                start = stored.size_bytes * place // SAMPLES
                files[stored.path].seek(stored.offset + start)
                digest.update(files[stored.path].read(min(SAMPLE_BYTES, stored.size_bytes - start)))
    return digest.hexdigest()


def new_header(entries: Sequence[tuple[str, str, tuple[int, ...]]], metadata: dict[str, str]) -> bytes:
    """The bytes in front of the data of a file that holds (name, dtype, shape) one behind the other."""
    header: dict[str, Any] = {METADATA: metadata or {"format": "pt"}}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * DTYPE_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text

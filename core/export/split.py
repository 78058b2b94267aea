"""Large GGUF files in parts, as llama.cpp loads them: ``Name-Q4_0-00001-of-00003.gguf`` is opened, and the others are found beside it."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path
from typing import BinaryIO

from core.errors import UserError
from core.export.header import Header, Tensor, gguf_header

PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
UINT16, INT32 = 2, 5
COPY_BYTES = 8 * 2**20


def split_gguf(source: Path, max_bytes: int) -> list[Path]:
    """`source` as files of at most `max_bytes` beside it, in order; just `source` when it is small enough. A split source is removed.

    No tensor is divided, so a part can be larger when one tensor is.
    """
    if source.stat().st_size <= max_bytes:
        return [source]
    header = gguf_header(source)
    groups: list[list[Tensor]] = [[]]
    filled = header.data_offset
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.offset):
        size = _padded(tensor.size_bytes, header.alignment)
        if groups[-1] and filled + size > max_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    if len(groups) == 1:
        return [source]
    parts = [source.with_name(f"{source.stem}-{number:05d}-of-{len(groups):05d}.gguf") for number in range(1, len(groups) + 1)]
    with source.open("rb") as file:
        for number, (part, tensors) in enumerate(zip(parts, groups, strict=True)):
            with part.open("wb") as out:
                _write_part(file, out, header, tensors, number, len(groups))
    source.unlink()
    return parts


def _write_part(file: BinaryIO, out: BinaryIO, header: Header, tensors: list[Tensor], number: int, count: int) -> None:
    """The first part carries the metadata of the whole; every part says which it is."""
    keys = [
        ("split.no", UINT16, "<H", number),
        ("split.count", UINT16, "<H", count),
        ("split.tensors.count", INT32, "<i", len(header.tensors)),
    ]
    extra = b"".join(_text(key) + struct.pack("<I", kind) + struct.pack(form, value) for key, kind, form, value in keys)
    metadata, num_keys = b"", 0
    if number == 0:
        file.seek(header.metadata_start)
        metadata, num_keys = file.read(header.metadata_end - header.metadata_start), len(header.metadata)
    elif header.alignment != 32:
        extra += _text("general.alignment") + struct.pack("<II", 4, header.alignment)
        num_keys = 1
    out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), num_keys + len(keys)) + metadata + extra)
    offset = 0
    for tensor in tensors:
        shape = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        out.write(_text(tensor.name) + shape + struct.pack("<IQ", tensor.type_number, offset))
        offset += _padded(tensor.size_bytes, header.alignment)
    out.write(bytes(-out.tell() % header.alignment))
    for tensor in tensors:
        file.seek(header.data_offset + tensor.offset)
        _copy(file, out, tensor.size_bytes)
        out.write(bytes(-out.tell() % header.alignment))


def _copy(file: BinaryIO, out: BinaryIO, size_bytes: int) -> None:
    while size_bytes:
        data = file.read(min(COPY_BYTES, size_bytes))
        if not data:
            raise OSError(f"{file.name} became shorter while it was read")
        out.write(data)
        size_bytes -= len(data)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _padded(size_bytes: int, alignment: int) -> int:
    return -(-size_bytes // alignment) * alignment


def gguf_bytes(path: Path) -> int:
    """The size of all parts together."""
    return sum(part.stat().st_size for part in gguf_parts(path))


def gguf_parts(path: Path) -> list[Path]:
    """Every file of the model that `path` opens: itself, or all parts of a split model.

    Raises:
        UserError: a part is missing, or `path` is not the first.
    """
    match = PART.search(path.name)
    if not match:
        return [path]
    number, count = int(match[1]), int(match[2])
    parts = [path.with_name(f"{path.name[: match.start()]}-{part:05d}-of-{count:05d}.gguf") for part in range(1, count + 1)]
    if missing := next((part for part in parts if not part.is_file()), None):
        raise UserError(f"The part {missing.name} is missing.", str(path), "Download all parts into one folder.", "GGUF")
    if number != 1:
        raise UserError(f"{path.name} is part {number} of {count}.", str(path), f"Open the first part, {parts[0].name}.", "GGUF")
    return parts


def gguf_headers(path: Path) -> list[Header]:
    """The header of every part, in order; the first one says what the model is. What llama.cpp shall load passes here before (rule R17).

    Raises:
        UserError: a part is missing or damaged, or `path` is not the first.
    """
    return [gguf_header(part) for part in gguf_parts(path)]


def all_tensors(path: Path) -> list[Tensor]:
    """The tensors of every part."""
    return [tensor for header in gguf_headers(path) for tensor in header.tensors]


def num_parameters(path: Path) -> int:
    return sum(math.prod(tensor.shape) for tensor in all_tensors(path))

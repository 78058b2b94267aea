"""The merging child: reads the base's tensors block by block and writes each file of the merged model front to back.

Memory holds a few blocks of rows, whatever the size of the model; only weights that DoRA normalises across rows are taken whole.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from core import paths
from core.childio import Emit, serve
from core.errors import UserError
from core.export.adapter import Update
from core.export.mergeplan import Piece, Plan, make_plan
from core.export.tensors import INDEX, Stored, file_metadata, new_header
from core.export.weightfile import HashedFile, Reader

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BLOCK_BYTES = 4 * 2**20  # of stored weights at a time: rows and products of one block stay in the processor's cache
EVENT_S = 0.2


def merge(payload: dict[str, Any], emit: Emit) -> dict[str, Any]:
    """Write the merged weights, their index and config.json; returns ``{"sha256": by file name, "merged_weights"}``."""
    base, out = Path(payload["base"]), Path(payload["out"])
    reader = Reader()
    try:
        plan = make_plan(base, Path(payload["adapter"]), Same(reader))
        return write(plan, base, out, reader, Progress(emit, plan.size_bytes))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError("The disk is full.", "merge", "Free some space, then merge again.", code="DISK") from None
    finally:
        reader.close()


class Same:
    """Whether two stored tensors hold the same bytes."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader

    def __call__(self, one: Stored, other: Stored) -> bool:
        if (one.dtype, one.shape) != (other.dtype, other.shape):
            return False
        starts = range(0, one.size_bytes, BLOCK_BYTES)
        return all(self._part(one, start) == self._part(other, start) for start in starts)

    def _part(self, stored: Stored, start: int) -> bytearray:
        return self.reader.read(stored.path, stored.offset + start, min(BLOCK_BYTES, stored.size_bytes - start))


class Progress:
    """Tells how many bytes of the base are done, a few times per second."""

    def __init__(self, emit: Emit, total: int) -> None:
        self.emit, self.total, self.done, self.told_s = emit, total, 0, 0.0

    def add(self, size_bytes: int) -> None:
        self.done += size_bytes
        if self.done == self.total or time.monotonic() - self.told_s > EVENT_S:
            self.told_s = time.monotonic()
            self.emit({"event": "progress", "done": self.done, "total": self.total, "unit": "bytes"})


def write(plan: Plan, base: Path, out: Path, reader: Reader, progress: Progress) -> dict[str, Any]:
    hashes: dict[str, str] = {}
    for name, pieces in plan.files.items():
        with HashedFile(out / name) as file:
            file.write(new_header([(piece.name, piece.dtype, piece.shape) for piece in pieces], file_metadata(base / name)))
            for piece in pieces:
                for block in unchanged(piece, reader) if piece.update is None else merged(piece, piece.update, reader):
                    file.write(block)
                    progress.add(len(block) if piece.update is None else 0)
                progress.add(piece.source.size_bytes if piece.update else 0)
            hashes[name] = file.sha256()
    if (base / INDEX).is_file():
        everything = [(piece, name) for name, pieces in plan.files.items() for piece in pieces]
        total = sum(torch.Size(piece.shape).numel() * DTYPES[piece.dtype].itemsize for piece, _ in everything if piece.dtype in DTYPES)
        total += sum(piece.source.size_bytes for piece, _ in everything if piece.dtype not in DTYPES)
        weight_map = {piece.name: name for piece, name in sorted(everything, key=lambda entry: entry[0].name)}
        paths.write_json(out / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    paths.write_json(out / "config.json", paths.read_json(base / "config.json") | plan.config)
    changed = sum(piece.update is not None for pieces in plan.files.values() for piece in pieces)
    return {"sha256": hashes, "merged_weights": changed}


def unchanged(piece: Piece, reader: Reader) -> Iterator[bytearray]:
    stored = piece.source
    for start in range(0, stored.size_bytes, BLOCK_BYTES):
        yield reader.read(stored.path, stored.offset + start, min(BLOCK_BYTES, stored.size_bytes - start))


def merged(piece: Piece, update: Update, reader: Reader) -> Iterator[memoryview]:
    """The bytes of the merged weight, block by block; computed in float32 and rounded once to the dtype of the base.

    The arithmetic is that of PEFT's `Linear.merge`: a product of whole rows, so the blocks change no bit of it.
    """
    source = update.new or piece.source
    a = tensor(update.a, reader).float() if update.a else None  # (r, in)
    b = tensor(update.b, reader).float() if update.b else None  # (out, r)
    magnitude = tensor(update.magnitude, reader).float() if update.magnitude else None
    rows_at_once = max(1, BLOCK_BYTES // max(1, source.row_bytes))
    if magnitude is not None and piece.is_transposed:
        rows_at_once = source.num_rows  # the norm runs over all rows
    for first in range(0, source.num_rows, rows_at_once):
        last = min(first + rows_at_once, source.num_rows)
        weight = tensor(source, reader, first, last)
        if a is not None and b is not None:
            delta = (b @ a[:, first:last]).T if piece.is_transposed else b[first:last] @ a
            weight = delta.mul_(update.scaling).add_(weight)
            if magnitude is not None:
                part = magnitude if piece.is_transposed else magnitude[first:last]
                weight = rescaled(weight, part, piece.is_transposed)
        elif update.added:
            weight = weight.float() + tensor(update.added, reader, first, last).float() * update.scaling
        if update.rows:
            weight = replaced(weight, update, first, last, reader)
        weight = weight.to(DTYPES[piece.dtype])
        if not torch.isfinite(weight).all():
            remedy = "The training diverged, or the base is broken: train again with a lower learning_rate."
            raise UserError(f"{piece.name} would hold NaN or infinity.", piece.name, remedy, "NAN")
        yield weight.contiguous().reshape(-1).view(torch.uint8).numpy().data


def rescaled(weight: torch.Tensor, magnitude: torch.Tensor, is_transposed: bool) -> torch.Tensor:
    """DoRA (arXiv:2402.09353): each output's weights have the trained magnitude as their length."""
    if is_transposed:
        return (magnitude / torch.linalg.norm(weight.T, dim=1)).view(1, -1) * weight
    return (magnitude / torch.linalg.norm(weight, dim=1)).view(-1, 1) * weight


def replaced(weight: torch.Tensor, update: Update, first: int, last: int, reader: Reader) -> torch.Tensor:
    """The rows ``first..last`` of a weight with those that were trained one by one put in."""
    chosen = [(place, row) for place, row in enumerate(update.row_ids) if first <= row < last]
    assert update.rows
    for place, row in chosen:
        weight[row - first] = tensor(update.rows, reader, place, place + 1)[0].to(weight.dtype)
    return weight


def tensor(stored: Stored, reader: Reader, first: int = 0, last: int | None = None) -> torch.Tensor:
    """The rows ``first..last`` of a stored tensor."""
    last = stored.num_rows if last is None else last
    data = reader.read(stored.path, stored.offset + first * stored.row_bytes, (last - first) * stored.row_bytes)
    return torch.frombuffer(data, dtype=DTYPES[stored.dtype]).reshape(last - first, *stored.shape[1:])


if __name__ == "__main__":
    serve(merge)

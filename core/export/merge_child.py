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
    merger = Merger(reader)
    for name, pieces in plan.files.items():
        with HashedFile(out / name) as file:
            file.write_bytes(new_header([(piece.name, piece.dtype, piece.shape) for piece in pieces], file_metadata(base / name)))
            for piece in pieces:
                if piece.update is None:
                    copy(piece.source, file, reader, progress)
                    continue
                for rows in merger.blocks(piece, piece.update):
                    block = file.block(rows.numel() * DTYPES[piece.dtype].itemsize)
                    torch.frombuffer(block, dtype=DTYPES[piece.dtype]).view(rows.shape).copy_(rows)
                    refuse_infinite(rows, block, piece)
                    file.write(block)
                progress.add(piece.source.size_bytes)
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


def copy(stored: Stored, file: HashedFile, reader: Reader, progress: Progress) -> None:
    for start in range(0, stored.size_bytes, BLOCK_BYTES):
        block = file.block(min(BLOCK_BYTES, stored.size_bytes - start))
        reader.read_into(stored.path, stored.offset + start, block)
        file.write(block)
        progress.add(len(block))


def refuse_infinite(rows: torch.Tensor, block: memoryview, piece: Piece) -> None:
    """Refuse NaN and infinity, also those that only the rounding to float16 makes; a sum finds them at a fraction of the cost of a search."""
    is_suspect = piece.dtype == "F16" or not rows.sum().isfinite()
    if is_suspect and not torch.frombuffer(block, dtype=DTYPES[piece.dtype]).isfinite().all():
        remedy = "The training diverged, or the base is broken: train again with a lower learning_rate."
        raise UserError(f"{piece.name} would hold NaN or infinity.", piece.name, remedy, "NAN")


class Merger:
    """Computes merged weights in blocks of rows, in float32, to be rounded once to the dtype of the base.

    The arithmetic is that of PEFT's `Linear.merge`, whose product of matrices is one of whole rows, so the blocks change no bit of it.
    """

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._stored = bytearray()  # the memory of one block of stored weights, and of one product; they serve every block
        self._product = torch.empty(0)

    def blocks(self, piece: Piece, update: Update) -> Iterator[torch.Tensor]:
        """The rows of the merged weight, some at a time. Each tensor is only valid until the next."""
        source = update.new or piece.source
        rows_at_once = max(1, BLOCK_BYTES // max(1, source.row_bytes))
        if update.magnitude and piece.is_transposed:
            rows_at_once = source.num_rows  # the norm runs over all rows
        a, b, magnitude, added = (self._whole(part) for part in (update.a, update.b, update.magnitude, update.added))
        for first in range(0, source.num_rows, rows_at_once):
            last = min(first + rows_at_once, source.num_rows)
            weight = self._rows(source, first, last)
            if a is not None and b is not None:
                weight = self._delta(a, b, first, last, piece.is_transposed).mul_(update.scaling).add_(weight)
            if magnitude is not None:
                weight = rescaled(weight, magnitude if piece.is_transposed else magnitude[first:last], piece.is_transposed)
            if added is not None:
                weight = weight.float() + added[first:last] * update.scaling
            if update.rows:
                weight = self._replaced(weight, update.rows, update.row_ids, first)
            yield weight

    def _delta(self, a: torch.Tensor, b: torch.Tensor, first: int, last: int, is_transposed: bool) -> torch.Tensor:
        """The rows ``first..last`` of B A, or of its transpose."""
        if is_transposed:
            return (b @ a[:, first:last]).T
        size = (last - first) * a.shape[1]
        if self._product.numel() < size:
            self._product = torch.empty(size)
        return torch.matmul(b[first:last], a, out=self._product[:size].view(last - first, a.shape[1]))

    def _rows(self, stored: Stored, first: int, last: int) -> torch.Tensor:
        size = (last - first) * stored.row_bytes
        if len(self._stored) < size:
            self._stored = bytearray(size)
        block = memoryview(self._stored)[:size]
        self.reader.read_into(stored.path, stored.offset + first * stored.row_bytes, block)
        return torch.frombuffer(block, dtype=DTYPES[stored.dtype]).view(last - first, *stored.shape[1:])

    def _whole(self, stored: Stored | None) -> torch.Tensor | None:
        """A part of the adapter in float32."""
        if stored is None:
            return None
        data = self.reader.read(stored.path, stored.offset, stored.size_bytes)
        return torch.frombuffer(data, dtype=DTYPES[stored.dtype]).view(stored.shape).float()

    def _replaced(self, weight: torch.Tensor, rows: Stored, row_ids: tuple[int, ...], first: int) -> torch.Tensor:
        """`weight`, whose first row is row `first`, with those rows put in that were trained one by one."""
        new = self._whole(rows)
        assert new is not None
        weight = weight.float()
        for place, row in enumerate(row_ids):
            if first <= row < first + len(weight):
                weight[row - first] = new[place]
        return weight


def rescaled(weight: torch.Tensor, magnitude: torch.Tensor, is_transposed: bool) -> torch.Tensor:
    """DoRA (arXiv:2402.09353): each output's weights have the trained magnitude as their length."""
    if is_transposed:
        return (magnitude / torch.linalg.norm(weight.T, dim=1)).view(1, -1) * weight
    return (magnitude / torch.linalg.norm(weight, dim=1)).view(-1, 1) * weight


if __name__ == "__main__":
    serve(merge)

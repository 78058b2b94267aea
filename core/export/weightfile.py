"""Reading and writing weights in blocks: a second thread hashes and a third pushes to the disk while the next block is computed."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

NUM_BLOCKS = 4  # in memory: one that is filled, and some that are written and not hashed yet
FLUSH_BYTES = 128 * 2**20  # between two requests to the disk, so that the last one finds little left to do


class HashedFile:
    """A new file, written front to back. Fill what `block` gives and hand it to `write`; the blocks take turns, so memory stays flat."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._hasher, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._blocks = [bytearray() for _ in range(NUM_BLOCKS)]
        self._hashing: list[Future[Any] | None] = [None] * NUM_BLOCKS
        self._turn = 0
        self._flush: Future[Any] | None = None
        self._unflushed = 0

    def block(self, size_bytes: int) -> memoryview:
        """Room for the next `size_bytes` of the file."""
        if hashing := self._hashing[self._turn]:
            hashing.result()
        if len(self._blocks[self._turn]) < size_bytes:
            self._blocks[self._turn] = bytearray(size_bytes)
        return memoryview(self._blocks[self._turn])[:size_bytes]

    def write(self, block: memoryview) -> None:
        self._hashing[self._turn] = self._hasher.submit(self._hash.update, block)
        self._turn = (self._turn + 1) % NUM_BLOCKS
        written = 0
        while written < len(block):
            written += self._file.write(block[written:])
        self._unflushed += len(block)
        if self._unflushed >= FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._flush, self._unflushed = self._flusher.submit(os.fdatasync, self._file.fileno()), 0

    def write_bytes(self, data: bytes) -> None:
        block = self.block(len(data))
        block[:] = data
        self.write(block)

    def sha256(self) -> str:
        """The hash of everything written so far."""
        for hashing in self._hashing:
            if hashing:
                hashing.result()
        return self._hash.hexdigest()

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        self._hasher.shutdown(cancel_futures=error is not None)
        self._flusher.shutdown(cancel_futures=error is not None)
        self._file.close()


class Reader:
    """Reads parts of files into memory of its own, so that no mapped page of a large file is ever held."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def read_into(self, path: Path, offset: int, block: memoryview | bytearray) -> None:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        view, done = memoryview(block), 0
        while done < len(view):
            count = os.preadv(self._descriptors[path], [view[done:]], offset + done)
            if not count:
                raise OSError(f"{path.name} became shorter while it was read")
            done += count

    def read(self, path: Path, offset: int, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        self.read_into(path, offset, data)
        return data

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

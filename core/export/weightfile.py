"""Writing large files front to back: hashed by a second thread and pushed to the disk by a third while the next block is computed."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

WAITING_BLOCKS = 3  # that are written and not hashed yet; each stays in memory
FLUSH_BYTES = 128 * 2**20  # between two requests to the disk, so that the last one finds little left to do


class HashedFile:
    """A new file. `write` takes a buffer and keeps it until it is hashed, so nobody may change it afterwards."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._hash = hashlib.sha256()
        self._hasher, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._waiting: deque[Future[Any]] = deque()
        self._flush: Future[Any] | None = None
        self._unflushed = 0

    def write(self, data: memoryview | bytes | bytearray) -> None:
        view = memoryview(data).cast("B")
        self._waiting.append(self._hasher.submit(self._hash.update, view))
        while len(self._waiting) > WAITING_BLOCKS:
            self._waiting.popleft().result()
        written = 0
        while written < len(view):
            written += self._file.write(view[written:])
        self._unflushed += len(view)
        if self._unflushed >= FLUSH_BYTES and (self._flush is None or self._flush.done()):
            self._flush, self._unflushed = self._flusher.submit(os.fdatasync, self._file.fileno()), 0

    def sha256(self) -> str:
        """The hash of everything written so far."""
        while self._waiting:
            self._waiting.popleft().result()
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

    def read(self, path: Path, offset: int, size_bytes: int) -> bytearray:
        if path not in self._descriptors:
            self._descriptors[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        data = bytearray(size_bytes)
        view, done = memoryview(data), 0
        while done < size_bytes:
            count = os.preadv(self._descriptors[path], [view[done:]], offset + done)
            if not count:
                raise OSError(f"{path.name} became shorter while it was read")
            done += count
        return data

    def close(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

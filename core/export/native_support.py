"""What surrounds native code in a child process: its log, its share of the memory, its threads."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

FREE_SHARE = 0.8  # of the free memory that one model may take
ERROR_LEVEL, CONTINUE_LEVEL = 4, 5  # GGML_LOG_LEVEL_ERROR, GGML_LOG_LEVEL_CONT


class Stopped(Exception):  # noqa: N818
    """The computation was asked to end."""


def common_prefix(known: Sequence[int], wanted: Sequence[int]) -> int:
    """How many ids both begin with."""
    length = min(len(known), len(wanted))
    if known[:length] == wanted[:length]:
        return length
    return next(index for index in range(length) if known[index] != wanted[index])


def limit_memory(file_bytes: int) -> None:
    """Let this process take most of the memory that is free now, so that a file that asks for more fails here and hurts nobody else.

    Not where llama.cpp uses a GPU, whose driver reserves more addresses than there is memory.
    """
    import resource

    import llama_cpp
    import psutil

    if llama_cpp.llama_supports_gpu_offload():
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + file_bytes + int(free_bytes() * FREE_SHARE)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def free_bytes() -> int:
    import psutil

    return psutil.virtual_memory().available


def resident_bytes() -> int:
    """The memory that this process holds now, the pages of mapped files included."""
    import psutil

    return psutil.Process().memory_info().rss


def trimmed_bytes() -> int:
    """`resident_bytes` after what was freed has gone back to the system, where its C library knows how."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    return resident_bytes()


def default_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def log_lines(watch: Callable[[str, bool], None]) -> Generator[None]:
    """Call ``watch(line, is_error)`` for every line that llama.cpp logs inside the block; the lines still go to stderr."""
    import llama_cpp

    buffer = ""
    level_now = 0

    def receive(level: int, text: bytes, _data: Any) -> None:
        nonlocal buffer, level_now
        if level != CONTINUE_LEVEL:
            level_now = level
        buffer += text.decode("utf-8", errors="replace")
        while "\n" in buffer:
            line, buffer = buffer.split("\n", 1)
            print(line, file=sys.stderr)
            watch(line, level_now == ERROR_LEVEL)

    callback = llama_cpp.llama_log_callback(receive)
    nothing = ctypes.c_void_p(0)
    llama_cpp.llama_log_set(callback, nothing)
    try:
        yield
    finally:
        silence()


def silence() -> None:
    """Let llama.cpp log its errors to stderr and nothing else."""
    import llama_cpp

    if not _KEPT_CALLBACKS:
        _KEPT_CALLBACKS.append(llama_cpp.llama_log_callback(_print_errors))
    llama_cpp.llama_log_set(_KEPT_CALLBACKS[0], ctypes.c_void_p(0))


_KEPT_CALLBACKS: list[Any] = []  # native code holds the address, so Python must hold the object


def _print_errors(level: int, text: bytes, _data: Any) -> None:
    if level == ERROR_LEVEL:
        print(text.decode("utf-8", errors="replace"), end="", file=sys.stderr)

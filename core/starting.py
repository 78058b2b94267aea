"""What lets a process start sooner."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def many_imports() -> Generator[None]:
    """For the imports at a process's start. The garbage collector, which would look at all that they make again and again for up to a
    quarter of their time, waits until they are through, and leaves what they made alone from then on."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def read_metadata_once() -> None:
    """transformers and trl each read the file lists of every installed package for this mapping."""
    importlib.metadata.packages_distributions = functools.cache(importlib.metadata.packages_distributions)

"""What each level of a model takes on the disk, to the byte, before it is made; worked out once for each float file and kept."""

from __future__ import annotations

from pathlib import Path

from core import paths
from core.export.artifacts import Artifact
from core.export.converter import VERSION
from core.export.levels import OFFERED
from core.export.quantise import exact_sizes


def known_sizes(source: Artifact) -> dict[str, int]:
    """Bytes by level name as they were found for this float file before; empty when they were not."""
    try:
        return paths.read_json(_kept(source))
    except (OSError, ValueError):
        return {}


def find_sizes(source: Artifact, *, log: Path | None = None) -> dict[str, int]:
    """Bytes of every level that this float file can become, by level name, from a dry run of the quantisation in a child process.

    Raises:
        UserError: the file is quantised already, or llama.cpp can make nothing of it.
    """
    if known := known_sizes(source):
        return known
    sizes = exact_sizes(source.gguf_path, [level.name for level in OFFERED], log=log)
    paths.write_json(_kept(source), sizes)
    return sizes


def _kept(source: Artifact) -> Path:
    return paths.cache_dir() / "sizes" / f"{source.gguf_sha256}-{VERSION}.json"

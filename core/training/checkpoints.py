"""Checkpoints that can be trusted: a hashed manifest is written last, and only what it vouches for is resumed from."""

from __future__ import annotations

import shutil
from pathlib import Path

from core import paths

MANIFEST = "transmute-checkpoint.json"


def seal(folder: Path) -> None:
    """Force every file of a checkpoint to the disk, then vouch for them by size and sha256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries: dict[str, dict[str, int | str]] = {}
    for path in files:
        paths.fsync(path)
        entries[path.relative_to(folder).as_posix()] = {"size_bytes": path.stat().st_size, "sha256": paths.sha256_file(path)}
    paths.write_json(folder / MANIFEST, {"checkpoint": folder.name, "files": entries})
    paths.fsync(folder)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None when every file is as it was sealed."""
    try:
        manifest = paths.read_json(folder / MANIFEST)
        files = manifest["files"]
        if manifest["checkpoint"] != folder.name:
            return f"its manifest belongs to {manifest['checkpoint']}"
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, KeyError, TypeError):
        return "its manifest is damaged"
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["size_bytes"] or paths.sha256_file(path) != entry["sha256"]:
            return f"{name} is damaged"
    return None


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("checkpoint-"))


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that does not."""
    refused: list[str] = []
    folders = [path for path in root.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for folder in sorted(folders, key=step_of, reverse=True):
        problem = damage(folder)
        if problem is None:
            return folder, refused
        refused.append(f"{folder.name} is not used: {problem}.")
    return None, refused


def rotate(root: Path, keep: int) -> None:
    """Delete all but the `keep` newest sealed checkpoints. Called only after a newer one is sealed."""
    sealed = sorted((path.parent for path in root.glob(f"checkpoint-*/{MANIFEST}")), key=step_of)
    for folder in sealed[:-keep]:
        shutil.rmtree(folder)

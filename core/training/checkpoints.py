"""Checkpoints that can be trusted: a hashed manifest is written last, and only what it vouches for is resumed from."""

from __future__ import annotations

import shutil
from pathlib import Path

from core import paths

MANIFEST = "transmute-checkpoint.json"
PREFIX = "checkpoint-"
ASIDE = "set-aside-"  # begins the folder of a checkpoint that did not verify


def seal(folder: Path) -> None:
    """Force every file of a checkpoint to the disk, then vouch for them by size and sha256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries: dict[str, dict[str, int | str]] = {}
    for path in files:
        paths.fsync(path)
        entries[path.relative_to(folder).as_posix()] = {"size_bytes": path.stat().st_size, "sha256": paths.sha256_file(path)}
    paths.write_json(folder / MANIFEST, {"checkpoint": folder.name, "files": entries})
    for path in (*folder.rglob("*"), folder, folder.parent):  # the names, before an older checkpoint goes
        if path.is_dir():
            paths.fsync(path)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None when every file is as it was sealed."""
    try:
        manifest = paths.read_json(folder / MANIFEST)
        files = {str(name): (int(entry["size_bytes"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
        if manifest["checkpoint"] != folder.name:
            return f"its manifest belongs to {manifest['checkpoint']}"
    except FileNotFoundError:
        return "it was never finished"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is damaged"
    if not files:
        return "its manifest names no files"
    for name, (size_bytes, sha256) in files.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size_bytes or paths.sha256_file(path) != sha256:
                return f"{name} is damaged"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def all_of(root: Path) -> list[Path]:
    """Every checkpoint folder, sealed or not, newest first by step; clocks are not asked."""
    folders = [path for path in root.glob(f"{PREFIX}*") if path.name.removeprefix(PREFIX).isdigit()]
    return sorted(folders, key=step_of, reverse=True)


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, and a sentence for each newer one that does not."""
    refused: list[str] = []
    for folder in all_of(root):
        problem = damage(folder)
        if problem is None:
            return folder, refused
        refused.append(f"{folder.name} is not used: {problem}.")
    return None, refused


def sweep(root: Path) -> list[str]:
    """Remove what a crash inside a save left, which nothing vouches for; a sentence for each. Called when no worker is alive."""
    unsealed = [folder for folder in all_of(root) if not (folder / MANIFEST).exists()]
    for folder in unsealed:
        _remove(folder)
    return [f"{folder.name} is not used: it was never finished." for folder in unsealed]


def set_aside_after(root: Path, step: int) -> None:
    """Take what lies behind `step`, where training goes on, out of the way: it did not verify, and must neither be believed nor counted."""
    for folder in all_of(root):
        if step_of(folder) > step:
            aside = root / f"{ASIDE}{step_of(folder)}"
            if aside.exists():
                _remove(aside)
            folder.rename(aside)


def rotate(root: Path, keep: int) -> None:
    """Delete all but the `keep` newest sealed checkpoints, and what was set aside. Called only after a newer one is sealed."""
    sealed = [folder for folder in all_of(root) if (folder / MANIFEST).exists()]
    for folder in sealed[keep:]:
        (folder / MANIFEST).unlink()  # first, so that what a crash leaves of the others is plainly unfinished
        _remove(folder)
    for aside in root.glob(f"{ASIDE}*"):
        _remove(aside)


def _remove(folder: Path) -> None:
    """The folder; of one that somebody has moved to another disk the link to it, for what lies outside the run is not ours to delete."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)

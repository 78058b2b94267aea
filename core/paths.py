"""Where things lie on disk, and how files are written so that a crash never leaves half of one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
EXAMPLES = PROJECT / "examples"
STARTER = EXAMPLES / "starter"
SPACES = PROJECT / "spaces"
ID_PATTERN = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


def home() -> Path:
    """The workspace: ``TRANSMUTE_HOME``, else a mounted ``/data/transmute`` on a Space, else ``~/transmute``."""
    if configured := os.environ.get("TRANSMUTE_HOME"):
        return Path(configured).expanduser().absolute()
    if os.environ.get("SPACE_ID") and os.path.ismount("/data"):
        return Path("/data/transmute")
    return Path.home() / "transmute"


def runs_dir() -> Path:
    return home() / "runs"


def datasets_dir() -> Path:
    return home() / "datasets"


def cache_dir() -> Path:
    return home() / "cache"


def by_id(root: Path, identifier: str, what: str) -> Path:
    """The folder `identifier` under `root`. A person names things by id only; an id can never leave its root.

    One look decides whether it is a folder and no link, so nobody can change the one into the other in between.

    Raises:
        UserError: the id has characters other than ``a-z 0-9 -``, is a link, or does not exist.
    """
    folder = root / identifier
    try:
        if not ID_PATTERN.fullmatch(identifier):
            raise OSError
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
    except OSError:
        raise UserError(
            f"There is no {what} {identifier!r}.", f"the {what}s in this workspace", f"List the {what}s and take an id from there."
        ) from None
    return folder


def model_name(folder: Path) -> str:
    """What a person calls the model in `folder`: its Hub id where it lies in the Hub's cache under a commit, else the folder's name."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.name


def new_run_id() -> str:
    """Sortable by start, unique, and short enough to type: ``261123-191203-4f2a``."""
    return time.strftime("%y%m%d-%H%M%S") + "-" + secrets.token_hex(2)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) so that readers see the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Write the file yielded, which lies beside `path`; it takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        fsync(Path(name))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def link_or_copy(source: Path, to: Path) -> None:
    """Give the file another name; where the disk has no such links, or it is another one, a copy of it."""
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def building(folder: Path) -> Generator[Path]:
    """Build `folder` beside itself as ``NAME.partial`` and rename it into place when the block ends without an error.

    A leftover from an earlier crash is removed first; an existing finished `folder` is replaced.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                fsync(file)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
        fsync(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def fsync(path: Path) -> None:
    """Force a file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_disk(folder: Path, needed_bytes: int, step: str) -> None:
    """Raise UserError (code DISK) unless `folder`'s disk has `needed_bytes` free and 256 MB besides."""
    folder.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes + 256 * 2**20:
        raise UserError(
            f"{step} needs {needed_bytes / 1e9:.1f} GB and only {free_bytes / 1e9:.1f} GB are free.",
            step,
            "Delete runs that you no longer need, or set TRANSMUTE_HOME to a larger disk.",
            code="DISK",
        )

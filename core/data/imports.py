"""Imports as jobs: a process of its own reads and checks the data, and everything about it is on disk, so that any page may look or cancel.

A job is a folder ``imports/JOB_ID``: ``job.json`` (what is imported), ``events.jsonl`` (append-only, the truth), ``process.json``,
``import.lock`` (held while the job lives) and ``import.log``.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from core import events, paths, process
from core.data.dataset import Dataset, sweep
from core.data.importjob import ImportJob, ImportSource, fold
from core.data.layouts import Layout
from core.data.mapping import ColumnMapping, require_complete
from core.data.origin import HubRef, Origin
from core.errors import UserError
from core.hubclient import Stopped
from core.locks import FileLock, is_held

LOCK, CANCEL_FILE, LOG = "import.lock", "cancel", "import.log"
CANCEL_GRACE_S = 3.0
KEPT_JOBS = 50
LOOK_S = 60.0
DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
HIDDEN_ROOTS = ("/proc", "/sys", "/dev", "/run")


class Look(BaseModel):
    """A file before it is imported: its layout, and its first rows as they would be imported."""

    layout: Layout
    rows: list[dict[str, Any]]  # see `core.data.datafile.Previewed`


def start(source: ImportSource, token: str | None = None) -> str:
    """Begin to import and return the job's id. The work outlives this process; only a download from the Hub does not.

    Args:
        token: the caller's, for the Hub. It stays in this process.

    Raises:
        UserError: there is no such file, no text, or the name of the Hub dataset cannot be one.
    """
    from core.data import hub

    if source.kind == "hub":
        hub.require_id(source.hub)
    elif source.kind == "pasted":
        if not source.text.strip():
            raise UserError("There is no text.", "the pasted text", "Paste records: JSON, JSONL, or CSV with a first line of column names.")
    elif not Path(source.path).is_file():
        raise UserError(f"There is no file {Path(source.path).name!r}.", source.path, "Check the path.")
    job_dir, lock = _new_job(source)
    if source.kind == "pasted":
        paths.write_text(job_dir / "pasted.txt", source.text)
    if source.hub:
        threading.Thread(target=_fetch_and_spawn, args=(job_dir, source.hub, token, lock), daemon=True).start()
    else:
        file = job_dir / "pasted.txt" if source.kind == "pasted" else Path(source.path).absolute()
        spawn(job_dir, (file,), Origin(kind=source.kind, file=file.name), lock)
    return job_dir.name


def again(job_id: str, mapping: ColumnMapping) -> str:
    """Import once more what a job could not because nobody knew its layout (code LAYOUT), by `mapping`; returns the new job's id.

    Raises:
        UserError: there is no such job, its file is not there any more, or no conversation can be made by the mapping.
    """
    require_complete(mapping, "the mapping")
    files, before = files_of(job_id), imports_dir() / job_id
    source = ImportSource.model_validate(paths.read_json(before / "job.json")).model_copy(update={"mapping": mapping})
    origin = Origin.model_validate(paths.read_json(before / "files.json")["origin"])
    job_dir, lock = _new_job(source)
    for own in ("hub", "pasted.txt"):
        if (before / own).exists():
            os.replace(before / own, job_dir / own)
    moved = tuple(job_dir / file.relative_to(before) if file.is_relative_to(before) else file for file in files)
    spawn(job_dir, moved, origin, lock)
    return job_dir.name


def ask(dataset: Dataset) -> str:
    """A job that waits for the columns of the dataset's source to be mapped, as one does whose layout nobody knew; returns its id."""
    job_dir, lock = _new_job(ImportSource(kind="path", name=dataset.name))
    kept = dataset.parts or (dataset.source,)
    files = [job_dir / "hub" / file.name for file in kept]
    files[0].parent.mkdir()
    for file, name in zip(kept, files, strict=True):
        paths.link_or_copy(file, name)  # the child reads it and removes this name of it
    origin = dataset.manifest.origin.model_dump(mode="json")
    paths.write_json(job_dir / "files.json", {"files": list(map(str, files)), "origin": origin})
    asked = UserError("The columns are to be mapped.", dataset.name, "Say which of them hold question and answer.", code="LAYOUT")
    events.append(job_dir, "finished", state="failed", error=asked.as_dict())
    lock.release()
    return job_dir.name


def files_of(job_id: str) -> tuple[Path, ...]:
    """The files of a job that failed for its layout; they stay until it is imported `again`.

    Raises:
        UserError: there is no such job, or its files are gone.
    """
    known = paths.by_id(imports_dir(), job_id, "import") / "files.json"
    files = tuple(map(Path, paths.read_json(known)["files"])) if known.is_file() else ()
    if not files or not all(file.is_file() for file in files):
        raise UserError("The file of this import is not there any more.", job_id, "Import it again from the beginning.")
    return files


def forget(job_id: str) -> None:
    """Remove a job that has ended, with the files it kept; nothing happens to one that goes on."""
    if load(job_id).is_terminal:
        shutil.rmtree(imports_dir() / job_id, ignore_errors=True)


def _new_job(source: ImportSource) -> tuple[Path, FileLock]:
    """The folder of a new job, and its lock, held."""
    _prune()
    # Nobody may guess the id of an import: it opens what was imported.
    job_dir = imports_dir() / f"im-{paths.new_run_id()}{secrets.token_hex(6)}"
    job_dir.mkdir(parents=True)
    lock = FileLock(job_dir / LOCK)
    assert lock.acquire(), "the folder is new"
    paths.write_json(job_dir / "job.json", source.model_dump(mode="json", exclude={"text"}))
    events.append(job_dir, "created")
    return job_dir, lock


def _fetch_and_spawn(job_dir: Path, ref: HubRef, token: str | None, lock: FileLock) -> None:
    """Download in this process, which has the token; then let the child do the rest."""
    from core.data import hub

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= 0.25 or done == total:
            told_s = time.monotonic()
            events.append(job_dir, "progress", stage="fetching", done=done, total=total, rows=0)

    told_s = 0.0
    is_handed_over = False
    try:
        events.append(job_dir, "started")
        files, origin = hub.fetch(ref, job_dir / "hub", token, tell, (job_dir / CANCEL_FILE).exists)
        if (job_dir / CANCEL_FILE).exists():
            raise Stopped
        spawn(job_dir, files, origin, lock)
        is_handed_over = True
    except Stopped:
        events.append(job_dir, "finished", state="cancelled")
    except UserError as error:
        events.append(job_dir, "finished", state="failed", error=error.as_dict())
    except Exception as error:  # noqa: BLE001 - the thread's last line of defence: the job must not seem to go on
        lost = UserError("The download ended unexpectedly.", f"{ref.repo_id}: {type(error).__name__}", "Try again.", code="NET")
        events.append(job_dir, "finished", state="failed", error=lost.as_dict())
    finally:
        if not is_handed_over:
            shutil.rmtree(job_dir / "hub", ignore_errors=True)
        lock.release()


def spawn(job_dir: Path, files: tuple[Path, ...], origin: Origin, lock: FileLock) -> None:
    """Start the child that imports `files`, the parts of one table, and hand it the lock."""
    paths.write_json(job_dir / "files.json", {"files": list(map(str, files)), "origin": origin.model_dump(mode="json")})
    with (job_dir / LOG).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "core.data.import_child", str(job_dir)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=process.child_environment(),
            cwd=paths.PROJECT,
            start_new_session=True,
            pass_fds=(lock.descriptor,),
        )
    if known := process.identity(child.pid):
        paths.write_json(job_dir / "process.json", dataclasses.asdict(known))
    # It outlives us; while we live, somebody has to collect its exit status or it stays a zombie.
    threading.Thread(target=child.wait, daemon=True).start()
    lock.release()


def load(job_id: str) -> ImportJob:
    """The job as its events tell it; ``interrupted`` when they say it goes on and nobody holds its lock.

    Raises:
        UserError: there is no such job.
    """
    job_dir = paths.by_id(imports_dir(), job_id, "import")
    is_alive = is_held(job_dir / LOCK)
    job = fold(job_dir)
    if job.is_terminal or is_alive:
        return job
    sweep()
    error = UserError(
        "The import ended without a word: its process was killed or the machine went down.",
        job.name,
        "Start it again; nothing half imported is left.",
        code="KILLED",
    )
    return job.model_copy(update={"state": "interrupted", "error": error.as_dict(), "eta_s": None})


def cancel(job_id: str) -> ImportJob:
    """End the job and remove what it has made so far; nothing happens to one that has ended."""
    job_dir = paths.by_id(imports_dir(), job_id, "import")
    (job_dir / CANCEL_FILE).touch()
    deadline = time.monotonic() + CANCEL_GRACE_S
    while is_held(job_dir / LOCK):
        if known := _child(job_dir):
            process.kill_tree(known, grace_s=max(0.0, deadline - time.monotonic()))
        elif time.monotonic() > deadline:
            break  # a download that waits for the network ends by itself
        time.sleep(0.05)
    if not fold(job_dir).is_terminal:
        events.append(job_dir, "finished", state="cancelled")
    sweep()
    return load(job_id)


def _child(job_dir: Path) -> process.Identity | None:
    path = job_dir / "process.json"
    known = process.Identity(**paths.read_json(path)) if path.exists() else None
    return known if known and process.is_alive(known) else None


def list_jobs() -> list[ImportJob]:
    """Every import that is remembered, newest first."""
    found = (path.parent.name for path in imports_dir().glob(f"*/{events.FILE_NAME}"))
    jobs = [load(job_id) for job_id in found if paths.ID_PATTERN.fullmatch(job_id)]
    return sorted(jobs, key=lambda job: job.created_s, reverse=True)


def follow(job_id: str, poll_s: float = 0.1) -> Iterator[ImportJob]:
    """The job each time it has changed, until it has ended; the last one is terminal."""
    before: ImportJob | None = None
    while True:
        job = load(job_id)
        if job != before:
            yield job
        if job.is_terminal:
            return
        before = job
        time.sleep(poll_s)


def look(path: Path, mapping: ColumnMapping | None = None, n: int = 5) -> Look:
    """The layout of a file and its first `n` rows as they would be imported. A child reads it, so that no file harms the caller.

    Raises:
        UserError: there is no such file, or it cannot be read within a minute.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name!r}.", str(path), "Check the path.")
    payload = {"path": str(path.absolute()), "mapping": mapping.model_dump() if mapping else None, "n": n}
    return Look.model_validate(process.call_child("core.data.look_child", payload, step=f"Looking at {path.name}", timeout_s=LOOK_S))


def local_file(text: str) -> Path:
    """The data file that somebody at this machine names by its path.

    Raises:
        UserError: nothing there, no ordinary file, none of the endings of data files, or not readable.
    """
    path = Path(text.strip().strip("'\"")).expanduser().absolute()
    endings = ", ".join(DATA_SUFFIXES)
    try:
        real = path.resolve()
        if any(real.is_relative_to(root) for root in HIDDEN_ROOTS) or real.suffix.lower() not in DATA_SUFFIXES:
            raise UserError(f"{path.name!r} is no data file.", str(path), f"Give a file that ends in {endings}.")
        if not real.is_file():
            raise UserError(f"There is no file {path.name!r}.", str(path), "Check the path.")
        real.open("rb").close()
    except (OSError, ValueError) as error:  # not ours to read, a name too long, or a NUL in it
        why = getattr(error, "strerror", None) or "its name cannot be one"
        raise UserError(f"{path.name!r} cannot be read: {why}.", str(path), "Check the path, and who may read it.") from None
    return real


def imports_dir() -> Path:
    return paths.home() / "imports"


def _prune() -> None:
    """Forget the oldest jobs that have ended."""
    for job in list_jobs()[KEPT_JOBS:]:
        if job.is_terminal:
            shutil.rmtree(imports_dir() / job.job_id, ignore_errors=True)

"""The process of one import: reads and checks the file that ``files.json`` names, and writes how it goes into the job's events.

Started by `core.data.imports.spawn` as ``python -m core.data.import_child JOB_DIR``; the lock it inherits says that it lives.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

from core import events, paths, process
from core.data.dataset import import_dataset
from core.data.imports import CANCEL_FILE, ImportSource
from core.data.origin import Origin
from core.data.shards import join
from core.errors import UserError

EVENT_S = 0.25  # between two messages of progress
MEMORY_BYTES = 6 << 30  # of addresses; a file that decodes to more than fits ends this process and no other


class Cancelled(BaseException):
    """Raised in the main thread by SIGTERM."""


def main(job_dir: Path) -> int:
    signal.signal(signal.SIGTERM, _on_sigterm)
    known = process.identity(os.getpid())
    assert known
    paths.write_json(job_dir / "process.json", dataclasses.asdict(known))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    source = ImportSource.model_validate(paths.read_json(job_dir / "job.json"))
    given = paths.read_json(job_dir / "files.json")
    files, origin = tuple(map(Path, given["files"])), Origin.model_validate(given["origin"])
    events.append(job_dir, "started")
    is_kept = False
    try:
        if (job_dir / CANCEL_FILE).exists():
            raise Cancelled
        dataset_id = _import(job_dir, files, source, origin)
    except Cancelled:
        events.append(job_dir, "finished", state="cancelled")
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: whatever it was, the job must not stay "running"
        known_error = explain(error, files[0].name)
        is_kept = known_error.code == "LAYOUT"  # it can be imported once its columns are mapped
        events.append(job_dir, "finished", state="failed", error=known_error.as_dict())
        return 1
    finally:
        if not is_kept:
            shutil.rmtree(job_dir / "hub", ignore_errors=True)
        if source.kind in ("upload", "pasted") and not is_kept:
            files[0].unlink(missing_ok=True)  # the dataset has its own copy
    events.append(job_dir, "finished", state="done", dataset_id=dataset_id)
    return 0


def explain(error: Exception, name: str) -> UserError:
    """What ended the import, for a person; what nobody foresaw goes to the log."""
    match error:
        case UserError():
            return error
        case MemoryError():
            return UserError("The file needs more memory than an import may take.", name, "Split it into smaller files.", code="OOM")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return UserError(
                "The disk is full.", name, "Free some space, or set TRANSMUTE_HOME to a larger disk; then try again.", code="DISK"
            )
        case OSError(filename=str(path)) if Path(path).name == name:
            return UserError(f"The file cannot be read: {error.strerror}.", name, "Check that it is still there and who may read it.")
        case _:
            traceback.print_exception(error)
            remedy = "import.log in the job's folder has the details."
            return UserError("Something went wrong that Transmute did not foresee.", name, remedy, code="BUG")


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the clean-up must not be interrupted
    raise Cancelled


def _import(job_dir: Path, files: tuple[Path, ...], source: ImportSource, origin: Origin) -> str:
    joined = join(files, job_dir / "hub") if len(files) > 1 else None
    file = joined.file if joined else next(iter(files))
    if joined:
        origin = origin.model_copy(update={"first_rows": joined.first_rows})
    told_s, rows = 0.0, 0

    def count(number: int) -> None:
        nonlocal rows
        rows = number

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= EVENT_S:
            told_s = time.monotonic()
            events.append(job_dir, "progress", stage="checking", done=done, total=total, rows=rows)

    name = source.name or _name(file, origin)
    dataset = import_dataset(file, name, tell, source.mapping, origin, count, joined)
    size_bytes, num_rows = dataset.manifest.size_bytes, dataset.manifest.num_rows
    events.append(job_dir, "progress", stage="checking", done=size_bytes, total=size_bytes, rows=num_rows)
    return dataset.id


def _name(file: Path, origin: Origin) -> str:
    if origin.hub:
        parts = (origin.hub.repo_id, origin.hub.config, origin.hub.split)
        return " ".join(part for part in parts if part and part != "default")
    return "Pasted text" if origin.kind == "pasted" else file.stem


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

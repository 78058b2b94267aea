"""Who comes next on a device: one line per device, first come first served, kept on disk and changed under a lock.

An entry counts while its run's lock is held, so whoever dies has left the line. The first entry has the device or is about to take it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.locks import FileLock, alone, is_held

RUN_LOCK = "run.lock"  # in a run's folder
MAX_PER_OWNER = 16  # runs of one person that wait or go on at the same time
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Place:
    """A run's place in the line: `number` counts from 1 for the next one; `behind` names the run before it."""

    number: int
    behind: str

    def __str__(self) -> str:
        return f"{ordinal(self.number)} in the queue, behind {self.behind}"


def ordinal(number: int) -> str:
    return ORDINALS[number] if number < len(ORDINALS) else f"number {number}"


def device_lock(device: str) -> Path:
    """Held by the one run that uses the device."""
    return paths.home() / "locks" / f"{device}.lock"


def join(device: str, run_id: str, name: str, owner: str) -> None:
    """Take the last place.

    Raises:
        UserError: `owner` has as many runs waiting and running as one person may have.
    """
    with _changing(device):
        line = [entry for entry in _line(device) if entry["run_id"] != run_id]
        if sum(entry["owner"] == owner for entry in line) >= MAX_PER_OWNER:
            raise UserError(f"{MAX_PER_OWNER} of your runs wait or go on.", "the queue", "Let one end, or stop one, then start this one.")
        _write(device, [*line, {"run_id": run_id, "name": name, "owner": owner}])


def take(device: str, run_id: str) -> FileLock | None:
    """The lock of the device when it is this run's turn and no other run and no orphaned worker uses it; None until then."""
    with _changing(device):
        line = _line(device)
        if all(entry["run_id"] != run_id for entry in line):  # the file was lost
            line.append({"run_id": run_id, "name": run_id, "owner": ""})
            _write(device, line)
        lock = FileLock(device_lock(device))
        if line[0]["run_id"] != run_id or not lock.acquire():
            return None
        if _has_workers(device):
            lock.release()
            return None
        return lock


def move(device: str, run_id: str, number: int) -> None:
    """Give a waiting run the place `number` (1 is the next one).

    Raises:
        UserError: the run does not wait.
    """
    with _changing(device):
        line = _line(device)
        at = next((index for index, entry in enumerate(line) if entry["run_id"] == run_id), 0)
        if at == 0:
            raise UserError(f"Run {run_id} does not wait in the queue.", run_id, "Only a run that waits can be moved.")
        entry = line.pop(at)
        line.insert(max(1, min(number, len(line))), entry)
        _write(device, line)


def place(device: str, run_id: str) -> Place | None:
    """Where a waiting run stands; None when it is its turn, or it does not wait."""
    line = _line(device)
    at = next((index for index, entry in enumerate(line) if entry["run_id"] == run_id), 0)
    return Place(at, line[at - 1]["name"]) if at else None


def _changing(device: str) -> Any:
    return alone(paths.home() / "locks" / f"{device}.queue.lock")


def _file(device: str) -> Path:
    return paths.home() / "locks" / f"{device}.queue.json"


def _line(device: str) -> list[dict[str, str]]:
    """Every entry whose run is alive, in order."""
    try:
        entries = paths.read_json(_file(device))
    except (FileNotFoundError, ValueError):
        return []
    return [entry for entry in entries if is_held(paths.runs_dir() / entry["run_id"] / RUN_LOCK)]


def _write(device: str, line: list[dict[str, str]]) -> None:
    paths.write_json(_file(device), line)


def _has_workers(device: str) -> bool:
    workers = FileLock(paths.home() / "locks" / f"{device}.workers.lock")
    if workers.acquire():
        workers.release()
        return False
    return True

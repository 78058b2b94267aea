"""Who comes next: one line for a machine's GPUs and one for its CPU, first come first served, kept on disk and changed under a lock.

An entry counts while its run's lock is held, so whoever dies has left the line. Those that have their devices come first; those that wait
follow in their order. A run waits for nobody who wants other GPUs than it may be given, so that runs on disjoint sets go on at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.locks import FileLock, alone, is_held
from core.training.hardware import GPU_LOCK, installed_gpus

RUN_LOCK = "run.lock"  # in a run's folder
MAX_PER_OWNER = 16  # runs of one person that wait or go on at the same time
Entry = dict[str, Any]
ORDINALS = ("", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


@dataclass(frozen=True)
class Devices:
    """What a run was given: held by this process until `release` or its end."""

    names: tuple[str, ...]
    locks: tuple[FileLock, ...]

    def release(self) -> None:
        for lock in self.locks:
            lock.release()

    @property
    def visible(self) -> str:
        """The GPUs among them, as ``CUDA_VISIBLE_DEVICES`` names them."""
        return ",".join(name.removeprefix(GPU_LOCK) for name in self.names if name.startswith(GPU_LOCK))


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
    """Held by the one run that uses the device: a GPU, or a machine without one."""
    return paths.home() / "locks" / f"{device}.lock"


def join(device: str, run_id: str, name: str, owner: str) -> None:
    """Take the last place.

    Raises:
        UserError: `owner` has as many runs waiting and running as one person may have.
    """
    mine = _entry(device, run_id, name, owner)
    with _changing(device):
        line = [entry for entry in _line(device) if entry["run_id"] != run_id]
        if sum(entry["owner"] == owner for entry in line) >= MAX_PER_OWNER:
            raise UserError(f"{MAX_PER_OWNER} of your runs wait or go on.", "the queue", "Let one end, or stop one, then start this one.")
        _write(device, [*line, mine])


def take(device: str, run_id: str) -> Devices | None:
    """As many devices as the run needs, when it is its turn and no other run and no orphaned worker uses them; None until then."""
    with _changing(device):
        line = _line(device)
        mine = next((entry for entry in line if entry["run_id"] == run_id), None)
        if mine is None:  # the file was lost
            mine = _entry(device, run_id, run_id, "")
            line.append(mine)
            _write(device, line)
        rest = [entry for entry in line if entry is not mine]
        ahead = line[: line.index(mine)]
        if any(_is_waiting(entry) and _among(entry) & _among(mine) for entry in ahead):
            return None
        taken = _take(mine)
        if taken:
            mine["has"] = list(taken.names)
            _write(device, [*(entry for entry in rest if not _is_waiting(entry)), mine, *filter(_is_waiting, rest)])
        return taken


def _take(entry: Entry) -> Devices | None:
    """The first free devices that the entry may be given, if there are enough of them."""
    locks: dict[str, FileLock] = {}
    for name in entry["among"]:
        lock = FileLock(device_lock(name))
        if len(locks) < entry["count"] and lock.acquire():
            if _has_workers(name):
                lock.release()
            else:
                locks[name] = lock
    found = Devices(tuple(locks), tuple(locks.values()))
    if len(locks) == entry["count"]:
        return found
    found.release()
    return None


def move(device: str, run_id: str, number: int) -> None:
    """Give a waiting run the place `number` (1 is the next one) among those that wait for the same devices.

    Raises:
        UserError: the run does not wait.
    """
    with _changing(device):
        line = _line(device)
        rivals, at, served = _standing(line, run_id)
        if at < served:
            raise UserError(f"Run {run_id} does not wait in the queue.", run_id, "Only a run that waits can be moved.")
        mine = rivals.pop(at)
        line.remove(mine)
        behind = rivals[max(served, min(number + served - 1, len(rivals))) - 1]
        line.insert(line.index(behind) + 1, mine)
        _write(device, line)


def place(device: str, run_id: str) -> Place | None:
    """Where a waiting run stands; None when it is its turn, or it does not wait."""
    rivals, at, served = _standing(_line(device), run_id)
    return Place(at - served + 1, rivals[at - 1]["name"]) if at >= served else None


def _standing(line: list[Entry], run_id: str) -> tuple[list[Entry], int, int]:
    """(those that want what the run may be given, itself among them; its index there; how many of them are served). One that comes first
    without having its devices yet is about to take them.
    """
    mine = next((entry for entry in line if entry["run_id"] == run_id), None)
    if mine is None:
        return [], 0, 1
    rivals = [entry for entry in line if _among(entry) & _among(mine)]
    return rivals, rivals.index(mine), max(1, sum(not _is_waiting(entry) for entry in rivals))


def _entry(device: str, run_id: str, name: str, owner: str) -> Entry:
    """What the line keeps of a run: how many devices it needs, among which, and later which it has.

    It may be given the GPUs that are visible to whoever starts it; a run that moved here, or woke up elsewhere, had others before.
    """
    path = paths.runs_dir() / run_id / "launch.json"
    launch: dict[str, Any] = paths.read_json(path) if path.is_file() else {}
    among = [f"{GPU_LOCK}{gpu.uuid or gpu.index}" for gpu in installed_gpus()] if device == "gpu" else []
    among = among or [device]
    count = min(len(among), launch.get("num_gpus") or len(among))
    return {"run_id": run_id, "name": name, "owner": owner, "among": among, "count": count, "has": []}


def _among(entry: Entry) -> set[str]:
    return set(entry["among"])


def _is_waiting(entry: Entry) -> bool:
    return not entry["has"]


def _changing(device: str) -> Any:
    return alone(paths.home() / "locks" / f"{device}.queue.lock")


def _file(device: str) -> Path:
    return paths.home() / "locks" / f"{device}.queue.json"


def _line(device: str) -> list[Entry]:
    """Every entry whose run is alive, in order."""
    try:
        entries = paths.read_json(_file(device))
    except (FileNotFoundError, ValueError):
        return []
    return [entry for entry in entries if is_held(paths.runs_dir() / entry["run_id"] / RUN_LOCK)]


def _write(device: str, line: list[Entry]) -> None:
    paths.write_json(_file(device), line)


def _has_workers(device: str) -> bool:
    workers = FileLock(paths.home() / "locks" / f"{device}.workers.lock")
    if workers.acquire():
        workers.release()
        return False
    return True

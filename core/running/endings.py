"""How a run's processes end: how long they are waited for, what the kernel killed for memory, exit statuses and last lines of a log in words."""

from __future__ import annotations

import contextlib
import shutil
import signal
from pathlib import Path
from typing import Any

from core import events, paths, process
from core.errors import UserError
from core.redact import redact
from core.training.failures import disk_full, lower
from core.training.recipe import Recipe

SUPERVISOR_LOG = "supervisor.log"
BEGIN = "== started "  # begins a line of that log, once per start
TAIL_BYTES = 8192
FULL_BYTES = 2**20  # a disk with less than this left takes no event any more
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
STOP_GRACE_S = 33.0  # what a worker that is asked to stop has, and the times beneath
SAVED_BYTES_PER_S = 50e6  # a checkpoint is written, read again for its hashes and synced; a slow network disk
STEPS_TO_END = 2.0  # the one that goes on when it is asked, and as much again for a long one
CGROUPS = Path("/sys/fs/cgroup")


def oom_kills(own: Path = Path("/proc/self/cgroup"), root: Path = CGROUPS, machine: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for memory: in our control group (version 2, then 1), else on the whole machine."""
    for line in own.read_text().splitlines() if own.exists() else ():
        _, controllers, path = line.split(":", 2)
        for folder, name in ((root, "memory.events"), (root / "memory", "memory.oom_control")):
            is_this = controllers in ("", "memory") and (name == "memory.events") == (controllers == "")
            file = next((at / name for at in (folder / path.lstrip("/"), folder) if (at / name).is_file()), None)
            if is_this and file is not None:
                return _counted(file)
    return _counted(machine) if machine.exists() else 0


def _counted(file: Path) -> int:
    words = [line.split() for line in file.read_text().splitlines()]
    return next((int(pair[1]) for pair in words if pair[:1] == ["oom_kill"] and len(pair) == 2), 0)


def stop_grace_s(run_dir: Path) -> float:
    """How long a worker has to end its step, or its evaluation, and write a checkpoint before it is killed."""
    estimate: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):  # deleted or damaged meanwhile, which must keep nobody from stopping
        estimate = paths.read_json(run_dir / "launch.json").get("estimate") or {}
    run = events.fold(events.read(run_dir))
    saving_s = float(estimate.get("checkpoint_bytes", 0)) / SAVED_BYTES_PER_S
    return STOP_GRACE_S + saving_s + STEPS_TO_END * events.step_s(run) + run.eval_s


def of_worker(run_dir: Path, recipe: Recipe, returncode: int, was_oom_killed: bool) -> UserError:
    """What the worker said before it died, else what its end tells."""
    last: events.Event = {}
    is_saving = False
    for event in events.read(run_dir):
        if event["kind"] in ("worker_error", "step_started"):
            last = event
        is_saving = event["kind"] == "saving" or (is_saving and event["kind"] != "checkpoint")
    if last.get("kind") == "worker_error":
        return UserError.from_dict(last["error"])
    ended = process.describe_exit(returncode)
    if was_oom_killed and is_saving:
        remedy = "Saving gathers the weights in main memory: take a machine with more of it, or an adapter method, which saves little."
        return UserError("Main memory ran out while a checkpoint was saved.", "train", remedy, code="OOM_SAVE")
    if was_oom_killed:
        return UserError(f"Main memory ran out ({ended}).", "train", f"{lower(recipe)} Then start again.", code="OOM")
    if shutil.disk_usage(run_dir).free < FULL_BYTES:
        return disk_full("train")
    if returncode in KILLED:
        remedy = "Resume the run. If it happens again, memory ran out: lower micro_batch_size or max_length."
        return UserError(f"The training process was killed ({ended}).", "train", remedy, code="KILLED")
    return UserError(f"The training process ended unexpectedly ({ended}).", "train", "Look at the end of `logs RUN`.", code="CRASH")


def by_the_system(run_dir: Path) -> UserError:
    """Why a run ended that nobody asked to stop: its processes were told to, as all are when a machine shuts down."""
    problem = "The system told the run to end, as it does when the machine shuts down."
    return UserError(problem, run_dir.name, "Resume it with `resume RUN`.", code="KILLED")


def without_a_word(run_dir: Path) -> UserError:
    """Why a run that nobody holds any more has not said how it ended."""
    if words := last_words(run_dir / SUPERVISOR_LOG):
        remedy = f"{SUPERVISOR_LOG} in the run's folder has the details. Mend what it names, then resume the run."
        return UserError(f"The process that looks after the run ended: {words}", run_dir.name, remedy, code="SUPERVISOR")
    if shutil.disk_usage(run_dir).free < FULL_BYTES:
        return disk_full(run_dir.name)
    problem = "The run ended without a word: its process was killed or the machine went down."
    return UserError(problem, run_dir.name, "Resume it with `resume RUN`.", code="KILLED")


def unattended(run_dir: Path) -> UserError:
    """What is the matter with a run on a rented machine whose follower is gone."""
    problem = "Nobody here listens to the job any more; it goes on by itself, and costs until it ends."
    remedy = "Resume the run (`resume RUN`) to listen again and bring its results home, or stop it (`stop RUN`) to end the job."
    return UserError(problem, run_dir.name, remedy, code="UNATTENDED")


def last_words(log: Path) -> str:
    """The last line that the newest start left in the supervisor's log, without secrets; empty when it said nothing."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        said = file.read().decode(errors="replace").rpartition(BEGIN)[2].splitlines()[1:]
    return redact(next((line.strip() for line in reversed(said) if line.strip()), ""))[:300]

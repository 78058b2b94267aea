"""The supervisor: one small process per run that holds its lock, waits for the device, and does its steps one after the other.

Started by `core.running.runs.start` as ``python -m core.running.supervisor RUN_DIR LOCK_FD``; it never imports torch.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from core import events, paths, process
from core.errors import UserError
from core.locks import FileLock
from core.running import steps
from core.running.runs import LOG, STOP_FILE, STOP_GRACE_S, plan
from core.training.recipe import load as load_recipe


class StopRequested(BaseException):
    """Raised in the main thread by SIGTERM; ends whatever step is going on."""


def main(run_dir: Path) -> int:
    signal.signal(signal.SIGTERM, _on_sigterm)
    known = process.identity(os.getpid())
    assert known
    paths.write_json(run_dir / "process.json", dataclasses.asdict(known))
    recipe = load_recipe(run_dir / "recipe.yaml")
    launch = paths.read_json(run_dir / "launch.json")
    try:
        device = _wait_for_device(run_dir, launch["device"])
        try:
            events.append(run_dir, "started", pid=known.pid)
            for step in plan(recipe, events.fold(events.read(run_dir)).more_levels):
                _do(run_dir, step, launch)
        finally:
            device.release()
    except StopRequested:
        process.kill_descendants()
        events.append(run_dir, "finished", state="cancelled")
        return 1
    except UserError as error:
        state = "interrupted" if error.code in ("KILLED", "CRASH") else "failed"
        events.append(run_dir, "finished", state=state, error=error.as_dict())
        return 1
    except Exception:  # noqa: BLE001 - the last line of defence: whatever it was, the run must not stay "running"
        traceback.print_exc()
        error = UserError(
            "Something went wrong that Transmute did not foresee.", "the run", "supervisor.log in the run's folder has the details."
        )
        events.append(run_dir, "finished", state="failed", error=error.as_dict())
        return 1
    events.append(run_dir, "finished", state="done")
    return 0


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; the clean-up must not be interrupted
    raise StopRequested


def _wait_for_device(run_dir: Path, device: str) -> FileLock:
    """The lock of the device once no other run and no orphaned worker uses it."""
    lock = FileLock(device_lock(device))
    said = False
    while True:
        if lock.acquire():
            if not _workers_alive(device):
                return lock
            lock.release()
        if not said:
            events.append(run_dir, "queued", waiting_for=f"another run on the {device}")
            said = True
        if (run_dir / STOP_FILE).exists():
            raise StopRequested
        time.sleep(0.25)


def device_lock(device: str) -> Path:
    return paths.home() / "locks" / f"{device}.lock"


def _workers_alive(device: str) -> bool:
    workers = FileLock(paths.home() / "locks" / f"{device}.workers.lock")
    if workers.acquire():
        workers.release()
        return False
    return True


def _do(run_dir: Path, step: str, launch: dict[str, Any]) -> None:
    began = time.monotonic()
    if steps.is_done(run_dir, step):
        events.append(run_dir, "step_finished", step=step, elapsed_s=0.0, skipped=True)
        return
    events.append(run_dir, "step_started", step=step)
    if step == "train":
        _train(run_dir, launch)
    else:
        steps.DO[step](run_dir)
    events.append(run_dir, "step_finished", step=step, elapsed_s=round(time.monotonic() - began, 2))


def _train(run_dir: Path, launch: dict[str, Any]) -> None:
    """Run the worker to its end. On a stop it is asked to save and leave; whoever is left after the grace period is killed."""
    with (run_dir / LOG).open("ab") as log:
        worker = subprocess.Popen(
            launch["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=process.child_environment(launch["env"]),
            cwd=paths.PROJECT,
        )
    try:
        returncode = worker.wait()
    except StopRequested:
        (run_dir / STOP_FILE).touch()
        try:
            worker.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            events.append(run_dir, "note", text=f"The worker did not end within {STOP_GRACE_S:.0f} s and was killed.")
        raise
    if returncode:
        raise _worker_error(run_dir, returncode)
    if (run_dir / STOP_FILE).exists() and not steps.is_done(run_dir, "train"):
        raise StopRequested


def _worker_error(run_dir: Path, returncode: int) -> UserError:
    """What the worker said before it died, else what its exit status tells."""
    last = [event for event in events.read(run_dir) if event["kind"] in ("worker_error", "step_started")][-1]
    if last["kind"] == "worker_error":
        return UserError.from_dict(last["error"])
    ended = process.describe_exit(returncode)
    if returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        remedy = "Resume the run. If it happens again, memory ran out: lower micro_batch_size or max_length."
        return UserError(f"The training process was killed ({ended}).", "train", remedy, code="KILLED")
    return UserError(f"The training process ended unexpectedly ({ended}).", "train", "Look at the end of `logs RUN`.", code="CRASH")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

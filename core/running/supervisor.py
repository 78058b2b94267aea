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
from core.running import endings, queue, relief, steps
from core.running.queue import Devices
from core.running.runs import LOG, STOP_FILE
from core.training import checkpoints, measured
from core.training.failures import FULL, as_user_error, unless_full
from core.training.fits import Change
from core.training.recipe import load as load_recipe

LOOK_S = 0.25
RESERVE = "reserve"  # a file that is given up for the last words of a run whose disk is full
RESERVE_BYTES = 2**16


class StopRequested(BaseException):
    """Raised in the main thread by SIGTERM; ends whatever step is going on."""


def main(run_dir: Path) -> int:
    signal.signal(signal.SIGTERM, _on_sigterm)
    process.adopt_orphans()
    known = process.identity(os.getpid())
    assert known
    try:
        paths.write_json(run_dir / "process.json", dataclasses.asdict(known))
        (run_dir / RESERVE).write_bytes(bytes(RESERVE_BYTES))
        device = _wait_for_device(run_dir, paths.read_json(run_dir / "launch.json")["device"])
        try:
            events.append(run_dir, "started", pid=known.pid)
            for step in events.fold(events.read(run_dir)).steps:
                _do(run_dir, step.name)
            _hear_no_more()
        finally:
            device.release()
    except StopRequested:
        process.kill_descendants()
        if events.fold(events.read(run_dir)).state == "stopping":
            _finish(run_dir, "cancelled")
        else:
            _finish(run_dir, "interrupted", endings.by_the_system(run_dir))
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: whatever it was, the run must not stay "running"
        _hear_no_more()
        process.kill_descendants()
        known_error = _explained(error, run_dir)
        change = relief.change_for(run_dir) if known_error.code == "OOM" else None
        state = "interrupted" if known_error.code in ("KILLED", "CRASH") else "failed"
        _finish(run_dir, state, relief.told(known_error, change) if change else known_error, change)
        return 1
    _finish(run_dir, "done")
    return 0


def _explained(error: Exception, run_dir: Path) -> UserError:
    """`error` as the person reads it; what we did not foresee goes to the supervisor's log."""
    if isinstance(error, UserError):
        return error
    if known := as_user_error(error, load_recipe(run_dir / "recipe.yaml"), "the run"):
        return known
    traceback.print_exception(error)
    return UserError(
        "Something went wrong that Transmute did not foresee.", "the run", "supervisor.log in the run's folder has the details."
    )


def _finish(run_dir: Path, state: events.State, error: UserError | None = None, change: Change | None = None) -> None:
    """Write the run's last event, also on a disk that is full."""
    fields: dict[str, Any] = {"error": error.as_dict()} if error else {}
    if change:
        fields["change"] = {"knobs": change.knobs, "said": change.said}
    try:
        events.append(run_dir, "finished", state=state, **fields)
    except OSError as refused:
        if refused.errno not in FULL:
            raise
        (run_dir / RESERVE).unlink(missing_ok=True)
        events.append(run_dir, "finished", state=state, **fields)
    (run_dir / RESERVE).unlink(missing_ok=True)


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    _hear_no_more()  # once is enough; the clean-up must not be interrupted
    raise StopRequested


def _hear_no_more() -> None:
    """A stop that comes when the run has ended must not take its last words."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _wait_for_device(run_dir: Path, device: str) -> Devices:
    """What the run needs of the device once it is its turn and nobody else uses it; of its GPUs nobody below us sees any other."""
    said = False
    while (taken := queue.take(device, run_dir.name)) is None:
        if not said:
            events.append(run_dir, "waiting", waiting_for=f"another run on the {device}", device=device)
            said = True
        _stop_if_asked(run_dir)
        time.sleep(LOOK_S)
    _stop_if_asked(run_dir)
    (run_dir / STOP_FILE).unlink(missing_ok=True)  # left by an earlier attempt, whose workers are gone now
    if taken.visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = taken.visible
    return taken


def _stop_if_asked(run_dir: Path) -> None:
    """The signal may be lost with the process that wanted to send it; its event is not."""
    if (run_dir / STOP_FILE).exists() and events.fold(events.read(run_dir)).state == "stopping":
        raise StopRequested


def _do(run_dir: Path, step: str) -> None:
    _stop_if_asked(run_dir)
    began = time.monotonic()
    if steps.is_done(run_dir, step):
        events.append(run_dir, "step_finished", step=step, elapsed_s=0.0, skipped=True)
        return
    events.append(run_dir, "step_started", step=step)
    if step == "train":
        _train(run_dir)
        measured.keep(run_dir)
    else:
        steps.DO[step](run_dir)
    events.append(run_dir, "step_finished", step=step, elapsed_s=round(time.monotonic() - began, 2))


def _train(run_dir: Path) -> None:
    """Run the worker to its end. On a stop it is asked to save and leave; whoever is left after the grace period is killed."""
    for problem in checkpoints.sweep(run_dir / "checkpoints"):
        events.append(run_dir, "note", text=problem)
    launch = paths.read_json(run_dir / "launch.json")
    kills = endings.oom_kills()
    with (run_dir / LOG).open("ab") as log:
        worker = subprocess.Popen(
            launch["argv"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=process.child_environment(launch["env"]),
            cwd=paths.PROJECT,
            preexec_fn=process.die_with_parent,  # a launcher would go on training for a run that nobody looks after
        )
    try:
        returncode = worker.wait()
    except StopRequested:
        with unless_full():
            (run_dir / STOP_FILE).touch()
        grace_s = endings.stop_grace_s(run_dir)
        try:
            worker.wait(grace_s)
        except subprocess.TimeoutExpired:
            events.append(run_dir, "note", text=f"The worker did not end within {grace_s:.0f} s and was killed.")
        raise
    process.kill_descendants()  # the ranks of a launcher that died
    if returncode:
        recipe = load_recipe(run_dir / "recipe.yaml")
        may_be_oom = returncode in endings.KILLED or launch.get("num_processes", 1) > 1  # a launcher tells nothing of its ranks
        raise endings.of_worker(run_dir, recipe, returncode, may_be_oom and endings.oom_kills() > kills)
    if (run_dir / STOP_FILE).exists() and not steps.is_done(run_dir, "train"):
        raise StopRequested


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

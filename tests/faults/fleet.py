"""Runs to hurt, and what must hold for them whatever is done to them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from core import events, paths
from core.locks import is_held
from core.running import runs
from core.running.queue import RUN_LOCK
from core.training import checkpoints
from core.training.recipe import Recipe
from tests.faults import trainer

PATIENCE_S = 60.0  # on a busy machine; what takes longer is stuck


def make_run(run_id: str, steps: int = 40) -> str:
    """A run of the small trainer that consists of training alone."""
    run_dir = paths.runs_dir() / run_id
    run_dir.mkdir(parents=True)
    paths.write_text(run_dir / "recipe.yaml", Recipe(method="sft", dataset="x").to_yaml())
    argv = [sys.executable, "-m", "tests.faults.trainer", str(run_dir)]
    paths.write_json(run_dir / "launch.json", {"argv": argv, "env": {"TRAINER_STEPS": str(steps)}, "device": trainer.DEVICE})
    events.append(run_dir, "created", run_id=run_id, name=run_id, method="sft", steps=["train"])
    return run_id


def until(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"stuck: {what}"
        time.sleep(0.01)
    return found


def ended(run_id: str, patience_s: float = PATIENCE_S) -> events.Run:
    """The run once it has ended and nothing holds it any more."""
    lock = runs.folder(run_id) / RUN_LOCK
    return until(lambda: not is_held(lock) and (run := runs.load(run_id)).is_terminal and run, f"{run_id} does not end", patience_s)


def valid_step(run_id: str) -> int:
    """The step of the newest checkpoint that verifies; 0 without one."""
    newest, _ = checkpoints.newest_whole(runs.folder(run_id) / "checkpoints")
    return checkpoints.step_of(newest) if newest else 0


def trainers(within: Path) -> list[int]:
    """The pids of the small trainer's living processes in this workspace or run folder, whoever their parent is."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and _works_in(process.info["cmdline"] or [], within)
    ]


def _works_in(command: list[str], within: Path) -> bool:
    return "tests.faults.trainer" in command and Path(command[-1]).is_relative_to(within)


def kill(run_id: str, who: str) -> bool:
    """Send SIGKILL to the run's supervisor, its worker, or both; False when there was nobody to kill."""
    living = runs.pids(run_id)
    chosen = {"supervisor": living[:1], "worker": living[1:], "both": living}[who]
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(chosen)


def kill_again_and_again(run_id: str, rng: random.Random, kills: int, told: Counter[str]) -> None:
    """Start a run, kill it at a random moment, resume; after `kills` of them let it end, and compare every loss."""
    done = 0
    while done < kills:
        if runs.load(run_id).state != "done":
            before = valid_step(run_id)
            runs.start(run_id)
            until(lambda: runs.load(run_id).state == "running" or runs.load(run_id).is_terminal, f"{run_id} does not start")
            time.sleep(rng.uniform(0.0, 0.9))
            who = rng.choice(("worker", "worker", "supervisor", "both"))
            done += kill(run_id, who)
            told[who] += 1
            after_a_kill(run_id, before)
        else:
            break
    told["kills at a random moment"] += done
    finish(run_id)


def kill_at(run_id: str, point: str, step: int) -> None:
    """Start a run that kills itself at a named moment of the save at `step`, then resume it to its end."""
    paths.write_text(runs.folder(run_id) / "kill.json", json.dumps({"point": point, "step": step}))
    runs.start(run_id)
    run = ended(run_id)
    assert run.state == "interrupted" and run.error and run.error["code"] == "KILLED"
    expected = step if point == f"after {checkpoints.MANIFEST}" else step - trainer.SAVE_STEPS
    assert valid_step(run_id) == expected
    finish(run_id)
    assert "was never finished" in str(runs.load(run_id).notes) or expected == step or point == f"before {trainer.FILES[0]}"


def after_a_kill(run_id: str, valid_before: int) -> None:
    """Nothing is left running, the run says that it can be resumed, and no good checkpoint was lost."""
    until(lambda: not trainers(runs.folder(run_id)), f"a worker of {run_id} lives on")
    assert ended(run_id).state in ("interrupted", "done", "cancelled")
    assert valid_step(run_id) >= valid_before, "a good checkpoint was lost"


def finish(run_id: str) -> None:
    """Resume the run to its end: every loss is the one of a run that was left alone."""
    if runs.load(run_id).state != "done":
        runs.start(run_id)
    run = ended(run_id)
    assert run.state == "done", f"{run_id} is lost: {run.error}"
    assert run.losses == trainer.expected_losses()


def fill(disk: Path, leave_bytes: int = 0) -> None:
    """Fill a disk up to its last `leave_bytes`."""
    for size_bytes in (2**20, 4096):
        with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as filler:
            while filler.write(bytes(size_bytes)):
                pass
    os.truncate(disk / "filler", max(0, (disk / "filler").stat().st_size - leave_bytes))

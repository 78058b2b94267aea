"""What is done with a run that is there: more levels, another place in the queue, a note, its size, its removal."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from core import events, paths
from core.errors import UserError
from core.running import queue, runs

LONGEST_REMARK = 10_000  # characters


def add_levels(run_id: str, names: Iterable[str], intermediate: str | None = None) -> None:
    """Quantise the run's merged model to more levels: the run is taken up again, and makes, measures and proves what is new.

    The importance matrix of guided levels (``Q4_K_M+imatrix``, IQ2) is made of what the run was trained on. `intermediate` is the float
    format that they are made from (f16, bf16, f32); None takes what is there, or what holds the weights.

    Raises:
        UserError: an unknown level or float format, nothing new, no merged model yet, or the run is going on.
    """
    from core.export import artifacts
    from core.export.levels import level, parse_levels

    run_dir = runs.folder(run_id)
    made = artifacts.of_run(run_dir)
    known = {artifact.level for artifact in made}
    wanted = [asked for asked in parse_levels(names) if asked.name not in known]
    if not wanted:
        raise UserError("Every level asked for is there already.", run_id, "Choose one that is not in the list yet.")
    if intermediate and level(intermediate).group != "float":
        raise UserError(f"{intermediate} is no float format.", "the format that levels are made from", "Choose f16, bf16 or f32.")
    if not any(artifact.kind == "merged" for artifact in made):
        raise UserError(f"Run {run_id} has no merged model yet.", run_id, "Let the run finish its merge first.")
    if runs.is_going_on(run_id):
        raise UserError(f"Run {run_id} is already going on.", run_id, "Wait until it ends, or stop it.")
    levels = tuple(asked.name for asked in wanted)
    run = runs.load(run_id)
    steps = runs.plan(runs.recipe_of(run_id), (*run.more_levels, *levels), is_taken=run.is_taken)
    events.append(run_dir, "extended", levels=levels, steps=steps, intermediate=intermediate)
    runs.start(run_id)


def move(run_id: str, number: int) -> None:
    """Give a run that waits the place `number` in the queue; 1 is the next one to start.

    Raises:
        UserError: the run does not wait.
    """
    queue.move(str(paths.read_json(runs.folder(run_id) / "launch.json")["device"]), run_id, number)


def remark(run_id: str, text: str) -> None:
    """Keep what the owner writes about the run; the newest text stands.

    Raises:
        UserError: the text is too long.
    """
    if len(text) > LONGEST_REMARK:
        raise UserError(f"The note has {len(text):,} characters.", run_id, f"Keep it to {LONGEST_REMARK:,}.")
    events.append(runs.folder(run_id), "remark", text=text)


def size_bytes(run_id: str) -> int:
    """What the run takes on the disk, checkpoints and models included."""
    total = 0
    for folder, _, names in os.walk(runs.folder(run_id)):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # a run that goes on deletes its older checkpoints
                total += os.lstat(Path(folder, name)).st_size
    return total


def delete(run_id: str) -> int:
    """Remove a run that is not going on, with its artifacts; returns the bytes freed."""
    run_dir = runs.folder(run_id)
    lock = runs.take_lock(run_id)
    if lock is None:
        raise UserError(f"Run {run_id} is going on.", run_id, "Stop it first.")
    try:
        if runs.is_elsewhere(run_dir) and runs.load(run_id, lock_is_ours=True).state not in ("failed", "cancelled"):
            raise UserError(f"The job of run {run_id} may still go on, and cost.", run_id, "Stop the run first, or resume it to its end.")
        freed_bytes = size_bytes(run_id)
        shutil.rmtree(run_dir)
    finally:
        lock.release()
    return freed_bytes

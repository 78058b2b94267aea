"""A trainer of a few lines that writes like the real one: the project's own events, locks, stop file, checkpoints and artifacts, no torch.

Each loss follows from the state before it, so a run that went on from a wrong or mixed checkpoint shows it in its numbers.
A file ``kill.json`` in the run's folder names a moment at which the trainer kills itself; a file ``hold`` in the workspace keeps all trainers
before their first step.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from core import events, paths, process
from core.export import artifacts
from core.training import checkpoints
from core.worker import hold_device

DEVICE = "fast"
STEPS, SAVE_STEPS, KEPT = int(os.environ.get("TRAINER_STEPS", "40")), 5, 2
STEP_S = 0.01
HOLD = "hold"
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
POINTS = tuple(f"{moment} {name}" for name in (*FILES, checkpoints.MANIFEST) for moment in ("before", "after"))
PADDING = 20_000  # bytes of each file, so that a small disk fills up


def state_after(step: int, state: str = "") -> str:
    return hashlib.sha256(f"{step} {state}".encode()).hexdigest()


def loss_of(state: str) -> float:
    return int(state[:8], 16) / 2**32


def expected_losses(steps: int = STEPS) -> dict[int, float]:
    losses, state = {}, ""
    for step in range(1, steps + 1):
        state = state_after(step, state)
        losses[step] = loss_of(state)
    return losses


def main(run_dir: Path) -> int:
    process.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: (run_dir / "stop").touch())
    lock = hold_device(DEVICE)
    root = run_dir / "checkpoints"
    root.mkdir(exist_ok=True)
    chosen, refused = checkpoints.newest_whole(root)
    for problem in refused:
        events.append(run_dir, "note", text=problem)
    begin, state = load(chosen) if chosen else (0, "")
    checkpoints.set_aside_after(root, begin)
    events.append(run_dir, "train_began", step=begin, max_steps=STEPS)
    while (paths.home() / HOLD).exists():
        time.sleep(STEP_S)
    for step in range(begin + 1, STEPS + 1):
        time.sleep(STEP_S)
        state = state_after(step, state)
        events.append(run_dir, "train_log", step=step, loss=loss_of(state))
        is_stopped = (run_dir / "stop").exists()
        if is_stopped or step % SAVE_STEPS == 0:
            save(run_dir, root, step, state)
        if is_stopped:
            return 0
    with paths.building(run_dir / "artifacts" / "merged") as folder:
        (folder / "model.safetensors").write_text(state)
        made = artifacts.write(artifacts.Artifact(id=f"{run_dir.name}-merged", kind="merged", name="m", run_id=run_dir.name), folder)
    events.append(run_dir, "artifact", id=made.id, kind_of="merged", path="artifacts/merged")
    os.close(lock)
    return 0


def load(folder: Path) -> tuple[int, str]:
    """The step and the state of a checkpoint, whose files must all be of the same save."""
    written = {(folder / name).read_text().rstrip() for name in FILES}
    assert len(written) == 1, f"{folder.name} is a mixture"
    step, state = written.pop().split()
    return int(step), state


def save(run_dir: Path, root: Path, step: int, state: str) -> None:
    folder = root / f"checkpoint-{step}"
    folder.mkdir(exist_ok=True)
    for name in FILES:
        die_at(run_dir, f"before {name}", step)
        (folder / name).write_text(f"{step} {state}".ljust(PADDING))
        die_at(run_dir, f"after {name}", step)
    die_at(run_dir, f"before {checkpoints.MANIFEST}", step)
    checkpoints.seal(folder)
    die_at(run_dir, f"after {checkpoints.MANIFEST}", step)
    checkpoints.rotate(root, KEPT)
    events.append(run_dir, "checkpoint", step=step)


def die_at(run_dir: Path, point: str, step: int) -> None:
    order = run_dir / "kill.json"
    if order.exists() and json.loads(order.read_text()) == {"point": point, "step": step}:
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

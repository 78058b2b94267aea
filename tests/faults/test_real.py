"""The real trainer on the starter: killed at random and inside its saves, resumed to exactly the losses of a run that was left alone."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from core import events
from core.running import runs
from core.training import checkpoints
from core.training.presets import demo
from tests.faults.fleet import ended, fill, until, valid_step

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]
KNOBS = {"max_steps": 30, "levels": (), "save_steps": 3, "micro_batch_size": 4, "max_length": 128, "lora_dropout": 0.1, "method": "lora"}
KILLS, KILLS_PER_RUN = 20, 5


def make(**knobs):
    """A run with one thread: two runs that each choose by a probe may take different numbers, and then round differently."""
    run_id = runs.create(demo().model_copy(update=KNOBS | knobs))
    events.append(runs.folder(run_id), "facts", facts={"threads": 1})
    return run_id


def left_alone(**knobs):
    run_id = make(**knobs)
    runs.start(run_id)
    run = ended(run_id, 600)
    assert run.state == "done", run.error
    return run


def begun(run_id):
    """The run once its training loop has begun in this attempt."""
    attempts = sum(event["kind"] == "train_began" for event in events.read(runs.folder(run_id)))
    runs.start(run_id)
    deadline = time.monotonic() + 300
    while sum(event["kind"] == "train_began" for event in events.read(runs.folder(run_id))) == attempts:
        assert time.monotonic() < deadline and not runs.load(run_id).is_terminal, runs.load(run_id).error
        time.sleep(0.05)


def kill_inside_a_save(run_id, rng):
    """Kill the worker as soon as so many files of a checkpoint that is being written are there."""
    root, wanted = runs.folder(run_id) / "checkpoints", rng.randrange(0, 12)
    known = {folder.name for folder in checkpoints.all_of(root)}
    worker = runs.pids(run_id)[1]
    while not runs.load(run_id).is_terminal:
        for folder in checkpoints.all_of(root):
            if folder.name not in known and (len(list(folder.iterdir())) >= wanted or (folder / checkpoints.MANIFEST).exists()):
                os.kill(worker, signal.SIGKILL)
                return not (folder / checkpoints.MANIFEST).exists()
        time.sleep(0.001)
    return False


def kill_at_random(run_id, rng):
    time.sleep(rng.uniform(0, 3))
    if living := runs.pids(run_id)[1:]:
        os.kill(rng.choice(living), signal.SIGKILL)


def test_kills_of_the_real_trainer_lose_nothing(workspace, told):
    whole = left_alone()
    rng = random.Random(5)
    while told["kills"] < KILLS:
        run_id, kills = make(), 0
        while kills < min(KILLS_PER_RUN, KILLS - told["kills"]) and runs.load(run_id).state != "done":
            before = valid_step(run_id)
            begun(run_id)
            if rng.random() < 0.5:
                told["kills inside a save that left a partial checkpoint"] += kill_inside_a_save(run_id, rng)
            else:
                kill_at_random(run_id, rng)
            run = ended(run_id, 120)
            assert valid_step(run_id) >= before
            kills += run.state == "interrupted"
        told["kills"] += kills
        if runs.load(run_id).state != "done":
            runs.start(run_id)
        run = ended(run_id, 600)
        assert run.state == "done", run.error
        assert run.losses == whole.losses and run.facts["eval_loss_after"] == whole.facts["eval_loss_after"]
        told["runs that ended with exactly the same losses"] += 1
    told["largest difference of a loss"] = 0


@pytest.mark.parametrize("small_disk", ["700m"], indirect=True)
@pytest.mark.parametrize("leave_bytes", [0, 2**19])
def test_a_full_disk_keeps_the_last_good_checkpoint_of_the_real_trainer(small_disk, leave_bytes, told):
    knobs = {"method": "sft", "trainable_layers": 1}
    whole = left_alone(**knobs)
    run_id = make(**knobs)
    begun(run_id)
    until(lambda: valid_step(run_id), "no checkpoint")
    fill(small_disk, leave_bytes)
    run = ended(run_id, 300)
    assert run.state == "failed" and run.error["code"] == "DISK", run.error
    assert 0 < valid_step(run_id) < KNOBS["max_steps"]
    (small_disk / "filler").unlink()
    runs.start(run_id)
    resumed = ended(run_id, 300)
    assert resumed.state == "done", resumed.error
    assert resumed.losses == whole.losses
    told["full disks of the real trainer, resumed to exactly the same losses"] += 1

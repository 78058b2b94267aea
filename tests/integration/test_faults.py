"""A short round of the fault suite (`make faults` runs the whole of it)."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections import Counter

import pytest

from core import paths
from core.process import child_environment
from core.running import runs
from core.training.hardware import detect
from core.training.presets import demo
from tests.faults import fleet as of_runs
from tests.faults import trainer
from tests.faults.conftest import fleet, small_disk  # noqa: F401 - fixtures
from tests.faults.test_machine import run_machine

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


@pytest.mark.parametrize("point", trainer.POINTS)
@pytest.mark.usefixtures("fleet")
def test_a_kill_at_each_point_of_a_save_is_survived(point):
    of_runs.kill_at(of_runs.make_run("at-a-point"), point, 10)


@pytest.mark.usefixtures("fleet")
def test_kills_at_a_random_moment_are_survived():
    of_runs.kill_again_and_again(of_runs.make_run("random"), random.Random(1), 4, Counter())


START = """
import resource, sys
from core.running import runs
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
runs.start(sys.argv[1], fit="fit" in sys.argv)
"""


def test_a_training_that_runs_out_of_memory_goes_on_with_the_change_that_fits(workspace):
    """Under a limit that is real, and below what the batch takes: with the change it ends under the same limit.

    On two CPUs, wherever it runs: each thread takes a stack and buffers of its own out of the limit.
    """
    knobs = {"method": "fft", "learning_rate": 1e-4, "micro_batch_size": 16, "gradient_accumulation_steps": 1, "max_steps": 1, "levels": ()}
    knobs |= {"packing": True, "max_length": 512, "eval_dataset": "", "eval_fraction": 0.0}
    hardware = dataclasses.replace(detect(), cpu_count=2)
    run_id = runs.create(demo().model_copy(update=knobs), hardware=hardware, steps=("train",))

    def under_the_limit(*words):
        argv = [sys.executable, "-c", START, run_id, str(19 * 10**8), *words]
        subprocess.run(argv, cwd=paths.PROJECT, env=child_environment(), check=True)
        return list(runs.follow(run_id))[-1]

    failed = under_the_limit()
    log = (runs.folder(run_id) / runs.LOG).read_text(errors="replace")[-3000:]
    assert failed.state == "failed" and failed.error["code"] == "OOM", log
    change = failed.change["knobs"]
    asked = runs.recipe_of(run_id).model_copy(update=change)
    assert change and asked.micro_batch_size * asked.gradient_accumulation_steps == 16
    done = under_the_limit("fit")
    assert done.state == "done", (change, (runs.folder(run_id) / runs.LOG).read_text(errors="replace")[-3000:])
    assert runs.recipe_of(run_id) == asked


def test_a_few_sequences_of_everything(small_disk):  # noqa: F811
    run_machine(small_disk, examples=2, steps=12)

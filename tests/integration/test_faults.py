"""A short round of the fault suite (`make faults` runs the whole of it)."""

from __future__ import annotations

import random
from collections import Counter

import pytest

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


def test_a_few_sequences_of_everything(small_disk):  # noqa: F811
    run_machine(small_disk, examples=2, steps=12)

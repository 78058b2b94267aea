"""Kills at any moment: no run is lost, no resume is stuck, and every loss is the one of a run that was left alone."""

from __future__ import annotations

import random

import pytest

from tests.faults import fleet as of_runs
from tests.faults import trainer

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
KILLS_AT_RANDOM = 152
ROUNDS = (5, 10, 15, 25)  # the saves at which each of the twelve points is tried


def test_kills_at_the_twelve_points_of_a_save(fleet, told):
    for step in ROUNDS:
        for number, point in enumerate(trainer.POINTS):
            of_runs.kill_at(of_runs.make_run(f"at-{step}-{number}"), point, step)
            told["kills at a named point"] += 1
            told["runs that ended whole"] += 1
    told["named points"] = len(trainer.POINTS)


def test_kills_at_a_random_moment(fleet, told):
    rng = random.Random(20)
    while told["kills at a random moment"] < KILLS_AT_RANDOM:
        left = KILLS_AT_RANDOM - told["kills at a random moment"]
        of_runs.kill_again_and_again(of_runs.make_run(f"run-{told['runs that ended whole']}"), rng, min(4, left), told)
        told["runs that ended whole"] += 1

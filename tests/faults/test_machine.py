"""Random sequences of everything that can happen to runs; after each step the invariants, at the end every run whole."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults import machine

DONE = ("start or resume", "kill worker", "kill supervisor", "cancel", "kill of the app", "kill of the app during a start", "full disk")
pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]


def run_machine(disk, examples, steps):
    machine.Runs.disk = disk
    chosen = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(machine.Runs, settings=chosen)


def test_any_sequence_of_starts_kills_stops_and_full_disks(small_disk, told):
    machine.COUNTS.clear()
    run_machine(small_disk, examples=20, steps=20)
    told.update(machine.COUNTS)
    assert not (missing := [what for what in DONE if not told[what]]), f"never done: {missing}"

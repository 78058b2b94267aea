"""Waiting for what real processes do."""

import time

from core.running import runs


def wait_for(condition, seconds=100.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


def is_training(run_id):
    return runs.load(run_id).optimizer_step > 2

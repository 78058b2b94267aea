"""Runs under everything that can happen to them, in any order: start, kills, a dead app, cancelling, a full disk, resuming."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core import paths
from core.errors import UserError
from core.locks import is_held
from core.process import child_environment
from core.running import care, live, runs
from core.running.queue import RUN_LOCK
from tests.faults import fleet

COUNTS: Counter[str] = Counter()
RUNS = st.integers(0, 2)
BEGUN_S = 3.0
APP = "import os, signal, sys; from core.running import runs; runs.start(sys.argv[1]); os.kill(os.getpid(), signal.SIGKILL)"


class Runs(RuleBasedStateMachine):
    """Three runs on one device of a small disk, and the page that watches them."""

    disk: Path  # set by the test; the workspace lies on it
    number = 0

    @initialize()
    def begin(self) -> None:
        Runs.number += 1
        COUNTS["sequences"] += 1
        self.ids = [fleet.make_run(f"m{Runs.number}-{index}") for index in range(3)]
        self.valid = dict.fromkeys(self.ids, 0)

    @rule(which=RUNS)
    def start_or_resume(self, which: int) -> None:
        COUNTS["start or resume"] += 1
        with contextlib.suppress(UserError):  # it is going on, it is done, or the disk is full
            runs.start(self.ids[which])

    @rule(which=RUNS)
    def start_from_an_app_that_is_killed(self, which: int) -> None:
        COUNTS["start by an app that is killed"] += 1
        subprocess.run([sys.executable, "-c", APP, self.ids[which]], env=child_environment(), capture_output=True, check=False)

    @rule(who=st.sampled_from(["worker", "worker", "supervisor", "both"]), seconds=st.sampled_from([0.0, 0.2, 0.6]))
    def kill(self, who: str, seconds: float) -> None:
        """Whatever goes on is hit, a while after its worker has begun."""
        deadline = time.monotonic() + BEGUN_S
        while time.monotonic() < deadline and any(is_held(runs.folder(run_id) / RUN_LOCK) for run_id in self.ids):
            if victims := [run_id for run_id in self.ids if len(runs.pids(run_id)) > 1]:
                time.sleep(seconds)
                COUNTS[f"kill {who}"] += fleet.kill(victims[0], who)
                return
            time.sleep(0.02)

    @rule(which=RUNS)
    def cancel(self, which: int) -> None:
        run_id = self.ids[which]
        try:
            run = runs.stop(run_id, wait_s=10)
        except UserError:
            return
        COUNTS["cancel"] += 1
        assert run.is_terminal and runs.pids(run_id) == []
        fleet.until(lambda: not fleet.trainers(runs.folder(run_id)), "an orphan after a stop")

    @rule()
    def restart_the_app(self) -> None:
        COUNTS["restart of the app"] += 1
        live.forget()

    @rule()
    @precondition(lambda self: not (self.disk / "filler").exists())
    def fill_the_disk(self) -> None:
        COUNTS["full disk"] += 1
        fleet.fill(self.disk)

    @rule()
    @precondition(lambda self: (self.disk / "filler").exists())
    def free_the_disk(self) -> None:
        (self.disk / "filler").unlink()

    @rule(seconds=st.sampled_from([0.05, 0.3, 0.8]))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @invariant()
    def at_most_one_run_uses_the_device(self) -> None:
        assert len(fleet.trainers(paths.home())) <= 1

    @invariant()
    def no_run_goes_on_without_somebody_who_looks_after_it(self) -> None:
        for run_id in self.ids if hasattr(self, "ids") else ():
            if not live.watch(run_id).run.is_terminal and not is_held(runs.folder(run_id) / RUN_LOCK):
                assert live.watch(run_id).run.is_terminal, "it says that it goes on, and nobody holds its lock"

    @invariant()
    def the_last_good_checkpoint_never_gets_older(self) -> None:
        for run_id in self.ids if hasattr(self, "ids") else ():
            found = fleet.valid_step(run_id)
            assert found >= self.valid[run_id], f"{run_id} fell back from {self.valid[run_id]} to {found}"
            self.valid[run_id] = found

    def teardown(self) -> None:
        """Whatever happened: with room on the disk every run comes to its end, with the losses of one that was left alone."""
        if not hasattr(self, "ids"):
            return
        (self.disk / "filler").unlink(missing_ok=True)
        for run_id in self.ids:
            if not runs.load(run_id).is_terminal:
                fleet.ended(run_id)
            fleet.finish(run_id)
            assert live.watch(run_id).run == runs.load(run_id), "the page sees another run than the disk has"
            care.delete(run_id)
            COUNTS["runs that ended whole"] += 1

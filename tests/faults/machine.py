"""Runs under everything that can happen to them, in any order: start, kills, a dead app, cancelling, a full disk, resuming."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core import events, paths
from core.locks import is_held
from core.process import child_environment
from core.running import care, live, runs
from core.running.queue import RUN_LOCK
from tests.faults import fleet

COUNTS: Counter[str] = Counter()
RUNS = st.integers(0, 2)
BEGUN_S = 3.0


class App:
    """The page's process, see `tests.faults.app`."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.faults.app"]
        self.process = subprocess.Popen(
            argv, cwd=paths.PROJECT, env=child_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask("states")  # it listens

    def tell(self, *words: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(" ".join(words) + "\n")
        self.process.stdin.flush()

    def ask(self, *words: str) -> Any:
        self.tell(*words)
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, f"the app died of {words}"
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


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
        self.app = App()

    @rule(which=RUNS)
    def start_or_resume(self, which: int) -> None:
        """A refusal is an answer: the run is going on, it is done, or the disk is full."""
        COUNTS["start or resume"] += 1
        self.app.ask("start", self.ids[which])

    @rule(who=st.sampled_from(["worker", "worker", "supervisor", "both"]), seconds=st.sampled_from([0.0, 0.2, 0.6]))
    def kill(self, who: str, seconds: float) -> None:
        """Whatever goes on is hit, a while after its worker has begun."""
        if run_id := self.at_work():
            time.sleep(seconds)
            COUNTS[f"kill {who}"] += fleet.kill(run_id, who)

    @rule(which=RUNS)
    def cancel(self, which: int) -> None:
        """What goes on, or else one that waits or does not."""
        run_id = self.at_work() or self.ids[which]
        said = self.app.ask("stop", run_id)
        if isinstance(said, dict):  # refused: it is not going on
            return
        COUNTS["cancel"] += 1
        assert said in events.TERMINAL_STATES and runs.pids(run_id) == []
        fleet.until(lambda: not fleet.trainers(runs.folder(run_id)), "an orphan after a stop")

    @rule(which=RUNS, doing=st.sampled_from(["start", "stop", ""]), seconds=st.sampled_from([0.0, 0.05, 0.3]))
    def kill_the_app(self, which: int, doing: str, seconds: float) -> None:
        """While it starts or stops a run, or only watches; a new one sees all runs as they are."""
        if doing:
            self.app.tell(doing, self.ids[which])
        time.sleep(seconds)
        self.app.kill()
        COUNTS[f"kill of the app{' during a ' if doing else ''}{doing}"] += 1
        self.app = App()
        COUNTS["restart of the app"] += 1
        before = [runs.load(run_id).state for run_id in self.ids]  # what has ended stays so, as the one who could start it is dead
        seen = self.app.ask("states", *self.ids)
        assert [state for state, was in zip(seen, before, strict=True) if was in events.TERMINAL_STATES] == [
            was for was in before if was in events.TERMINAL_STATES
        ]

    def at_work(self) -> str:
        """A run whose worker has begun, waited for while any run goes on; where none does one is started."""
        if not any(is_held(runs.folder(run_id) / RUN_LOCK) for run_id in self.ids):
            self.app.ask("start", min(self.ids, key=lambda run_id: runs.load(run_id).state == "done"))
        deadline = time.monotonic() + BEGUN_S
        while time.monotonic() < deadline and any(is_held(runs.folder(run_id) / RUN_LOCK) for run_id in self.ids):
            if victims := [run_id for run_id in self.ids if len(runs.pids(run_id)) > 1]:
                return victims[0]
            time.sleep(0.02)
        return ""

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
        self.app.kill()
        (self.disk / "filler").unlink(missing_ok=True)
        for run_id in self.ids:
            if not runs.load(run_id).is_terminal:
                fleet.ended(run_id)
            fleet.finish(run_id)
            assert live.watch(run_id).run == runs.load(run_id), "the page sees another run than the disk has"
            care.delete(run_id)
            COUNTS["runs that ended whole"] += 1

"""Fifty people on the page while one training of the starter runs: how long the page, the polls and the queue take, and what it costs the
training. Prints a table and, last, one JSON line.

A person here watches the Runs tab as a browser does: it asks for the tab every second and for the header every third, loads the page anew
every twenty, and every ten opens the example dataset, which goes through the queue. The same training runs first with nobody at the page, then
with everybody; its speed is taken from its own events. ``--save`` keeps the result file.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TRANSMUTE_HOME", tempfile.mkdtemp(prefix="transmute-bench-"))

import httpx

from core import events
from tests import listeners
from tests.listeners import Listener, Visitor, result
from tests.page import App, free_port, stop_runs

RESULT = Path(__file__).parent / "results" / "load.json"
POLL_S, HEADER_EVERY, QUEUE_EVERY, PAGE_EVERY = 1.0, 3, 10, 20
STEPS = 40
RECIPE = {
    "base_model": "starter", "dataset": "examples/identity.json", "method": "lora", "max_length": 256, "max_steps": STEPS,
    "logging_steps": 1, "levels": [], "save_steps": 0,
}  # fmt: skip
LOAD_BEFORE = round(os.getloadavg()[0], 2)  # processes of others that want to run, when the benchmark begins
Times = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--save", action="store_true", help="write the result file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "workspace"
        home.mkdir()
        app = App(home, free_port())
        app.start()
        found = {listener.name: listener for listener in listeners.of_page({})}
        try:
            alone_s = step_s(app, found, home)
            times: Times = {"page": [], "poll": [], "queue": []}
            crowd = Crowd(app.url, found, options.users, times)
            with crowd:
                together_s = step_s(app, found, home)
        finally:
            app.kill()
            stop_runs(home)
    measured = summary(options.users, times, crowd.failures, alone_s, together_s)
    print_table(measured)
    if options.save:
        RESULT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured))


def step_s(app: App, found: dict[str, Listener], home: Path) -> float:
    """Start the training, wait for its end, and return the median seconds of an optimizer step."""
    owner = Visitor(app.url)
    run_dir = home / "runs" / result(owner.call(found["ui.train_handlers.start_run"], data=[RECIPE]))["run_id"]
    owner.close()
    while True:
        run = events.fold(list(events.read(run_dir)))
        if run.is_terminal:
            break
        time.sleep(1)
    assert run.state == "done", run.error
    stamps = [event["t"] for event in events.read(run_dir) if event["kind"] == "train_log" and "loss" in event]
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(stamps[2:]))  # the first steps warm up
    return gaps[len(gaps) // 2]


class Crowd:
    """So many people at the page, each in a thread, for as long as the block lasts."""

    def __init__(self, url: str, found: dict[str, Listener], users: int, times: Times) -> None:
        self._url, self._found, self._users, self._times = url, found, users, times
        self._is_over, self._lock = threading.Event(), threading.Lock()
        self.failures: dict[str, int] = {}

    def __enter__(self) -> Crowd:
        self._pool = ThreadPoolExecutor(self._users)
        for number in range(self._users):
            self._pool.submit(self._live, number)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._pool.shutdown()

    def _live(self, number: int) -> None:
        draw = random.Random(number)
        time.sleep(draw.uniform(0, POLL_S))
        page = Visitor(self._url, session_hash=f"user{number:08}")
        polls = [self._found[name] for name in ("ui.runs_tab.look", "ui.header.show")]
        queued = self._found["ui.dataset_sources.example_identity"]
        for round_number in itertools.count(draw.randrange(PAGE_EVERY)):
            if self._is_over.is_set():
                break
            began = time.monotonic()
            if round_number % PAGE_EVERY == 0:
                self._timed("page", lambda: (page.get("/").status_code, ""))
            for listener in polls[: 2 if round_number % HEADER_EVERY == 0 else 1]:
                self._timed("poll", lambda listener=listener: page.call_with_status(listener))
            if round_number % QUEUE_EVERY == 0:
                self._timed("queue", lambda: page.call_with_status(queued))
            self._is_over.wait(max(0.0, POLL_S - (time.monotonic() - began)))
        page.close()

    def _timed(self, name: str, do: Callable[[], tuple[int, str]]) -> None:
        began = time.perf_counter()
        try:
            failure = failure_of(*do())
        except httpx.HTTPError as error:
            failure = type(error).__name__
        elapsed_s = time.perf_counter() - began
        with self._lock:
            if failure:
                self.failures[failure] = self.failures.get(failure, 0) + 1
            else:
                self._times[name].append(elapsed_s)


def failure_of(status: int, answer: str) -> str:
    """What kind of failure an answer is, which comes quickly and is no success; empty for one that is what was asked for."""
    if status != 200:
        return f"HTTP {status}"
    if '"success":false' in answer.replace(" ", ""):
        return "error"
    return "error card" if 'class=\\"message error\\"' in answer else ""


def summary(users: int, times: Times, failures: dict[str, int], alone_s: float, together_s: float) -> dict[str, Any]:
    def at(values: list[float], share: float) -> float:
        return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 3)

    each = {
        name: {"requests": len(values), "p50_s": at(values, 0.5), "p95_s": at(values, 0.95), "p99_s": at(values, 0.99)}
        for name, values in times.items()
    }
    return {
        "bench": "load", "machine": {"cores": os.cpu_count(), "python": platform.python_version()}, "users": users, **each, "failed_requests": failures,
        "load_of_others": LOAD_BEFORE,
        "training": {"steps": STEPS, "step_alone_s": round(alone_s, 3), "step_with_users_s": round(together_s, 3),
                     "slowdown": round(together_s / alone_s - 1, 3)},
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def print_table(measured: dict[str, Any]) -> None:
    print(f"{measured['users']} people, {measured['machine']['cores']} cores, one training")
    for name in ("page", "poll", "queue"):
        print(f"{name:6} {measured[name]['requests']:6} requests  p50 {measured[name]['p50_s']:.3f} s  p95 {measured[name]['p95_s']:.3f} s")
    training = measured["training"]
    print(f"a step takes {training['step_alone_s']:.3f} s alone and {training['step_with_users_s']:.3f} s with them")


if __name__ == "__main__":
    main()

"""On the rented machine: an ordinary run of the recipe in the bundle, every event and log line of it to stdout, its results to the repository.

Started by `core.jobs.bootstrap` as ``python -m core.jobs.remote RUN_ID`` in the unpacked bundle.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

from core import events, paths
from core.errors import UserError
from core.events import Event
from core.jobs import bundle, client, keeping, results, wire
from core.publish.ledger import remember
from core.redact import redact
from core.running import runs
from core.training.launch import DEEPSPEED
from core.training.recipe import load as load_recipe

LOOK_S = 0.2


class Telling:
    """Prints what a run's folder gained since the last look; only whole lines."""

    def __init__(self, run_dir: Path, out: TextIO) -> None:
        self._run_dir, self._out = run_dir, out
        self._offset = self._log_offset = self._number = 0

    def look(self) -> None:
        self._lines()
        for event, offset in events.read_from(self._run_dir, self._offset):
            self.say(event)
            self._offset = offset
        self._out.flush()

    def say(self, event: Event) -> None:
        for line in wire.encode(self._number, event):
            self._out.write(f"{line}\n")
        self._number += 1
        self._out.flush()

    def _lines(self) -> None:
        log = self._run_dir / runs.LOG
        if not log.is_file():
            return
        with log.open("rb") as file:
            file.seek(self._log_offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._log_offset += len(line)
                self._out.write(wire.plain(redact(_final(line))) + "\n")


def _final(line: bytes) -> str:
    """A line of a log as a terminal would leave it: a bar that was drawn over and over stands there once."""
    return line.decode(errors="replace").rstrip().rpartition("\r")[2]


def main(run_id: str) -> int:
    """Exit code 0 when the run is done and its results are sent."""
    token, repo_id = os.environ.get("HF_TOKEN"), os.environ["TRANSMUTE_JOB_REPO"]
    os.environ.setdefault("TRANSMUTE_HOME", str(Path("workspace").absolute()))
    run_dir = paths.runs_dir() / run_id
    telling = Telling(run_dir, sys.stdout)
    try:
        bundle.settle_datasets(Path())
        recipe, node = load_recipe(Path(bundle.RECIPE)), client.node(os.environ)
        runs.create(recipe, token, run_id=run_id, node=node)
        remember(repo_id, "created")  # made for this run by who started the job
        if kept := keeping.fetch(run_dir, repo_id, token):
            events.append(run_dir, "note", text=f"It goes on from {kept}, which an earlier job had kept.")
        runs.start(run_id)
    except UserError as error:
        telling.say({"t": round(time.time(), 3), "kind": "finished", "state": "failed", "error": error.as_dict()})
        return 1
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=_stop, args=(run_id,), daemon=True).start())
    if node and node.rank:
        return _attend(run_id, telling)
    # Under ZeRO every machine has a part of the checkpoint, and only the first one's would be kept.
    config = paths.read_json(run_dir / "launch.json")["accelerate_config"]
    keeper = None if node and config in DEEPSPEED else keeping.Keeper(run_dir, repo_id, token)
    while not runs.load(run_id).is_terminal:
        telling.look()
        if keeper:
            keeper.look()
        time.sleep(LOOK_S)
    run = runs.load(run_id)
    if not events.fold(events.read(run_dir)).is_terminal:  # its supervisor was killed: nobody else can say so any more
        events.append(run_dir, "finished", state="failed", error=run.error)
    telling.look()
    if keeper:
        keeper.close()
    try:
        if run.state == "done":
            keeping.forget(repo_id, token)
        sent = results.send(run_dir, repo_id, token)
    except UserError as error:
        events.append(run_dir, "not_sent", error=error.as_dict())
        telling.look()
        return 1
    events.append(run_dir, "sent", **sent)
    telling.look()
    return 0 if run.state == "done" else 1


def _attend(run_id: str, telling: Telling) -> int:
    """Another machine than the first: its part of the run to its end; there is nothing of it to be sent."""
    while not (run := runs.load(run_id)).is_terminal:
        telling.look()
        time.sleep(LOOK_S)
    telling.look()
    return 0 if run.state == "done" else 1


def _stop(run_id: str) -> Any:
    """The job is being ended: the run saves a checkpoint first."""
    return runs.stop(run_id)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

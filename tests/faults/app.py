"""What the page's process does with runs, in one that can be killed: it starts and stops them as it is told, and watches them all the while.

Each line of its standard input is a command, ``start RUN``, ``stop RUN`` or ``states RUN RUN…``; each is answered by one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time

from core.errors import UserError
from core.running import live, runs

LOOK_S = 0.05


def look() -> None:
    while True:
        for run in runs.list_runs():
            with contextlib.suppress(UserError):  # deleted meanwhile
                live.watch(run.run_id)
        time.sleep(LOOK_S)


def answer(command: str, *run_ids: str) -> object:
    try:
        match command:
            case "start":
                return runs.start(run_ids[0])
            case "stop":
                return runs.stop(run_ids[0], wait_s=10).state
            case _:
                return [live.watch(run_id).run.state for run_id in run_ids]
    except UserError as error:
        return {"error": error.problem}


if __name__ == "__main__":
    threading.Thread(target=look, daemon=True).start()
    for line in sys.stdin:
        print(json.dumps(answer(*line.split())), flush=True)

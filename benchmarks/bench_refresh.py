"""What one refresh of the Runs tab costs at 100,000 log points: the incremental tail against reading the log again. ``--save`` keeps the result file."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
os.environ["TRANSMUTE_HOME"] = tempfile.mkdtemp(prefix="transmute-bench-")

from core import events, paths  # noqa: E402
from core.running import live  # noqa: E402
from ui import run_view  # noqa: E402

RESULT = PROJECT / "benchmarks" / "results" / "refresh.json"
RUN_ID = "260101-101010-aaaa"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--save", action="store_true", help="write the result file")
    arguments = parser.parse_args()
    folder = write_log(arguments.points)

    def grown() -> str:
        step = live.watch(RUN_ID).run.optimizer_step + 1
        events.append(folder, "train_log", **point(step))
        return refresh()

    def again() -> str:
        live.forget()
        return refresh()

    def nothing_new() -> str:
        return live.watch(RUN_ID).version

    again()
    cpu_s = {name: median_cpu_s(do, arguments.repeats) for name, do in (("idle", nothing_new), ("one new point", grown))}
    cpu_s["reading the log again"] = median_cpu_s(again, 5)
    payload = {"plots": len(run_view.curves_of(live.watch(RUN_ID)).encode()), "status": len(run_view.status(live.watch(RUN_ID)).encode())}
    result = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "points": arguments.points,
        "log_bytes": (folder / events.FILE_NAME).stat().st_size,
        "cpu_ms": {name: round(1000 * value, 3) for name, value in cpu_s.items()},
        "times_cheaper": round(cpu_s["reading the log again"] / cpu_s["one new point"]),
        "payload_bytes": payload,
    }
    for name, value in result["cpu_ms"].items():
        print(f"{name:24} {value:10.3f} ms of CPU")
    print(f"{'payload':24} {sum(payload.values()) / 1000:10.1f} kB")
    if arguments.save:
        paths.write_text(RESULT, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


def refresh() -> str:
    """What the page asks for when a run has a new point."""
    watched = live.watch(RUN_ID)
    return run_view.line(watched) + run_view.status(watched) + run_view.curves_of(watched)


def point(step: int) -> dict[str, Any]:
    loss = 0.8 + 2.4 * math.exp(-step / 20_000) + 0.1 * math.sin(step * 7)
    return {
        "step": step,
        "loss": loss,
        "learning_rate": 1e-4,
        "grad_norm": 0.5 + loss / 4,
        "num_tokens": step * 900.0,
        "memory_bytes": 1.9e9,
    }


def write_log(points: int) -> Path:
    """A run that trains, with so many logged points."""
    folder = paths.runs_dir() / RUN_ID
    folder.mkdir(parents=True)
    events.append(folder, "created", run_id=RUN_ID, name="Bench", method="lora", steps=["train"])
    events.append(folder, "train_began", step=0, max_steps=2 * points)
    with (folder / events.FILE_NAME).open("a", encoding="utf-8") as file:
        for step in range(1, points + 1):
            file.write(json.dumps({"t": 1.7e9 + step / 2, "kind": "train_log", **point(step)}) + "\n")
    return folder


def median_cpu_s(do: Callable[[], str], repeats: int) -> float:
    """CPU time rather than elapsed time, so that other work on the machine does not count."""
    spent: list[float] = []
    for _ in range(repeats):
        began = time.process_time()
        do()
        spent.append(time.process_time() - began)
    return statistics.median(spent)


if __name__ == "__main__":
    main()

"""How long a Space takes to its first page without any network, with a login and without one; and what DeepSpeed, which is installed, costs the
start of a training that does not use it. File caches are warm. Prints a table and, last, one JSON line; ``--save`` keeps the result file.

A worker whose recipe has no ZeRO hides the package before it imports anything (`core.worker.leave_out_unused`); "absent" is the same
import where Python finds no such package, "imported" what every training would take if nothing hid it. They alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ.setdefault("TRANSMUTE_HOME", tempfile.mkdtemp(prefix="transmute-bench-"))

from core.paths import PROJECT
from core.process import child_environment
from tests import space
from tests.offline import offline
from tests.page import App, free_port

RESULT = PROJECT / "benchmarks" / "results" / "start.json"
WORKER = "import core.training.train"
HIDDEN = "import sys; sys.modules['deepspeed'] = None\n"
ABSENT = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] == "deepspeed" else super().find_spec(name, path, target)
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
"""
WAYS = {"absent": ABSENT + WORKER, "hidden": HIDDEN + WORKER, "imported": "import deepspeed\n" + WORKER}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write the result file")
    options = parser.parse_args()
    load_before = round(os.getloadavg()[0], 2)
    everything = space.environment("https://huggingface.co")
    variants = {
        "with a login": everything,
        "without a login": {name: value for name, value in everything.items() if not name.startswith(("OAUTH", "OPENID"))},
    }
    page_s: dict[str, list[float]] = {name: [] for name in variants}
    first_page(next(iter(variants.values())))  # fills the caches
    for _ in range(options.runs):
        for name, variables in variants.items():
            page_s[name].append(first_page(variables))
    worker_s: dict[str, list[float]] = {name: [] for name in WAYS}
    for program in WAYS.values():
        seconds(program)
    for _ in range(options.runs):
        for name, program in WAYS.items():
            worker_s[name].append(seconds(program))
    # Pairs of one round, because a machine's speed changes by more from one round to the next than this package costs.
    costs_s = statistics.median(hidden - absent for hidden, absent in zip(worker_s["hidden"], worker_s["absent"], strict=True))
    imports = {name: round(statistics.median(found), 2) for name, found in worker_s.items()}
    measured: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "load_before": load_before},
        "runs": options.runs,
        "first_page_s": {name: round(statistics.median(found), 2) for name, found in page_s.items()},
        "worker_imports_s": imports,
        "deepspeed_costs_s": round(costs_s, 2),
    }
    for name, found_s in measured["first_page_s"].items():
        print(f"Space, no network, {name}: first page after {found_s:.2f} s")
    for name, found_s in imports.items():
        print(f"worker's imports, DeepSpeed {name}: {found_s:.2f} s")
    if options.save:
        RESULT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured))


def first_page(variables: dict[str, str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "workspace").mkdir()
        app = App(Path(folder) / "workspace", free_port(), more=offline(Path(folder)) | variables)
        app.start()
        app.kill()
        return app.started_s


def seconds(program: str) -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=child_environment(), cwd=PROJECT, check=True, capture_output=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()

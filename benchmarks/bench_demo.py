"""The demo, several times on an otherwise idle machine: how long it takes and what comes out. ``--save`` keeps the result file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "demo.json"
QUALITY = ("recall_before", "recall_after", "false_name_rate", "old_accuracy_before", "old_accuracy_after", "train_tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(PROJECT)}")
    arguments = parser.parse_args()
    runs = [demo() for _ in range(arguments.runs)]
    totals = [run["elapsed_s"]["total"] for run in runs]
    result = {"machine": machine(), "median_total_s": statistics.median(totals), "runs": runs}
    print(f"total {min(totals):.0f} to {max(totals):.0f} s, median {result['median_total_s']:.0f} s")
    for name in QUALITY:
        print(f"{name:22}", *(f"{run[name]:.4g}" for run in runs))
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        json.dumps({name: result[name] for name in ("machine", "median_total_s")} | {name: [run[name] for run in runs] for name in QUALITY})
    )


def demo() -> dict[str, Any]:
    """One run in a workspace of its own; file paths are given from there on."""
    with tempfile.TemporaryDirectory() as home:
        env = os.environ | {"TRANSMUTE_HOME": home}
        done = subprocess.run([sys.executable, "-m", "core", "demo", "--json"], cwd=PROJECT, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return json.loads(done.stdout.splitlines()[-1].replace(home + "/", ""))


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


if __name__ == "__main__":
    main()

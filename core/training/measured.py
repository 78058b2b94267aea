"""What runs on this machine really took beside what was predicted: one JSON line a run, by which later estimates are corrected."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core import events, paths
from core.training.hardware import Hardware

FILE_NAME = "measured.jsonl"
KEPT = 20  # the newest pairs count
ALIKE = 4.0  # a pair speaks for estimates up to so many times its size, and down to as small a part of it
SAME = 1.02  # within this an estimate is of the same recipe on the same model, as that of a probe is, and such pairs speak alone
BOUNDS = (0.5, 2.0)  # a correction beyond these would be hiding a mistake


@dataclass(frozen=True)
class Pair:
    """One run: predicted (before any correction) and measured."""

    run_id: str
    machine: str
    method: str
    predicted_bytes: float
    measured_bytes: float
    predicted_s: float
    measured_s: float  # training with its evaluations


@dataclass(frozen=True)
class Correction:
    """By what estimates for this machine and method are multiplied, from `runs` runs; `error` is by how much they were off without it."""

    memory: float = 1.0
    time: float = 1.0
    runs: int = 0
    error: float | None = None


def machine(hardware: Hardware) -> str:
    """How pairs name a machine: ``2 CPUs``, ``1x NVIDIA A10G``."""
    if not hardware.gpus:
        return f"{hardware.cpu_count} CPUs"
    return f"{len(hardware.gpus)}x {hardware.gpus[0].name}"


def correction(name: str, method: str, predicted_bytes: float) -> Correction:
    """The correction from the newest runs of this machine and method that took about as much memory; none where there are none."""
    own = [pair for pair in read() if (pair.machine, pair.method) == (name, method)]
    pairs = (_within(SAME, own, predicted_bytes) or _within(ALIKE, own, predicted_bytes))[-KEPT:]
    if not pairs:
        return Correction()
    memory = _bounded(statistics.median(pair.measured_bytes / pair.predicted_bytes for pair in pairs))
    time = statistics.median(pair.measured_s / pair.predicted_s for pair in pairs)
    error = statistics.median(abs(pair.predicted_bytes / pair.measured_bytes - 1) for pair in pairs)
    return Correction(memory, time, len(pairs), error)


def _within(factor: float, pairs: list[Pair], predicted_bytes: float) -> list[Pair]:
    return [pair for pair in pairs if 1 / factor <= pair.predicted_bytes / max(1.0, predicted_bytes) <= factor]


def _bounded(ratio: float) -> float:
    return max(BOUNDS[0], min(BOUNDS[1], ratio))


def path() -> Path:
    return paths.home() / FILE_NAME


def read() -> list[Pair]:
    """Every pair, oldest first. A line that is cut off or makes no sense is passed over."""
    try:
        lines = path().read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return list(_pairs(lines))


def _pairs(lines: Iterable[str]) -> Iterable[Pair]:
    for line in lines:
        try:
            pair = Pair(**json.loads(line))
            numbers = (pair.predicted_bytes, pair.measured_bytes, pair.predicted_s, pair.measured_s)
            if all(float(number) > 0 for number in numbers):
                yield pair
        except (ValueError, TypeError):
            continue


def keep(run_dir: Path) -> Pair | None:
    """Append the pair of a run whose training is over; None where it recorded no peak, was not predicted, or did not train in one go."""
    launch: dict[str, Any] = paths.read_json(run_dir / "launch.json")
    predicted: dict[str, Any] = launch.get("estimate") or {}
    known = list(events.read(run_dir))
    facts = events.fold(known).facts
    attempts = [event for event in known if event["kind"] == "train_began"]
    if not predicted or "memory_bytes" not in facts or "train_s" not in facts or len(attempts) != 1:
        return None
    pair = Pair(
        run_id=run_dir.name,
        machine=str(predicted["machine"]),
        method=str(predicted["method"]),
        predicted_bytes=float(predicted["peak_bytes"]),
        measured_bytes=float(max(facts["memory_bytes"].values())),
        predicted_s=float(predicted["train_s"]),
        measured_s=float(facts["train_s"]),
    )
    path().parent.mkdir(parents=True, exist_ok=True)
    with path().open("a", encoding="utf-8") as file:  # one write: runs that end at once do not mix, and a torn line before it ends here
        file.write("\n" + json.dumps(asdict(pair), ensure_ascii=False) + "\n")
    return pair

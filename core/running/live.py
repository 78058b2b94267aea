"""A run as a page watches it: read from disk once, and after that only what was added."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from core import events
from core.errors import UserError
from core.events import Event, Run
from core.redact import redact
from core.running import runs
from core.running.thin import Thinned

KEPT_RUNS = 500  # in memory, the ones looked at last
KEPT_LOGS = 32
KEPT_LINES = 400  # of a log on the page
LONGEST_LINE = 4000  # bytes of a line on the page
LONGEST_TAIL = KEPT_LINES * LONGEST_LINE  # bytes of a log that are looked into when more was added
SMOOTHING = 0.9  # of the exponential mean of the loss, without bias towards the first points (Adam, arXiv:1412.6980, section 3)
SHOWN = ("loss", "smooth", "learning_rate", "grad_norm", "tokens_per_s", "memory_bytes")  # columns that are drawn
RECENT_POINTS = 20  # that the rate is taken over


@dataclass
class Curves:
    """What training logged, one entry per logged optimizer step, oldest first; absent values are None."""

    steps: list[int] = field(default_factory=list[int])
    times: list[float] = field(default_factory=list[float])
    loss: list[float | None] = field(default_factory=list[float | None])
    smooth: list[float | None] = field(default_factory=list[float | None])
    learning_rate: list[float | None] = field(default_factory=list[float | None])
    grad_norm: list[float | None] = field(default_factory=list[float | None])
    tokens: list[float | None] = field(default_factory=list[float | None])
    tokens_per_s: list[float | None] = field(default_factory=list[float | None])
    memory_bytes: list[float | None] = field(default_factory=list[float | None])
    attempt: int = 0  # index of the first entry of this attempt
    thin: dict[str, Thinned] = field(default_factory=lambda: {name: Thinned() for name in SHOWN})  # what plots draw, by column

    def add(self, event: Event) -> None:
        if self.steps and event["step"] <= self.steps[-1]:
            self.cut(event["step"] - 1)
        loss = event.get("loss")
        before = self.smooth[-1] if self.smooth else None
        share = (1 - SMOOTHING) / (1 - SMOOTHING ** (len(self.smooth) + 1))
        smooth = loss if before is None or loss is None or loss != loss else before + share * (loss - before)
        tokens, at = event.get("num_tokens"), float(event["t"])
        self.tokens_per_s.append(self._speed(tokens, at))
        self.steps.append(event["step"])
        self.times.append(at)
        self.loss.append(loss)
        self.smooth.append(before if smooth is None else smooth)
        self.learning_rate.append(event.get("learning_rate"))
        self.grad_norm.append(event.get("grad_norm"))
        self.tokens.append(tokens)
        self.memory_bytes.append(event.get("memory_bytes"))
        for name in SHOWN:
            self.thin[name].add(event["step"], getattr(self, name)[-1])

    def _speed(self, tokens: float | None, at: float) -> float | None:
        if tokens is None or len(self.steps) <= self.attempt or (last := self.tokens[-1]) is None:
            return None
        elapsed_s = at - self.times[-1]
        return (tokens - last) / elapsed_s if elapsed_s > 0 and tokens > last else None

    def cut(self, step: int) -> None:
        """Forget what lies behind `step`: training goes on from an earlier checkpoint."""
        keep = bisect_right(self.steps, step)
        if keep < len(self.steps):
            for column in dataclasses.fields(self):
                if column.name not in ("attempt", "thin"):
                    del getattr(self, column.name)[keep:]
            for name in SHOWN:
                self.thin[name] = Thinned()
                for at, value in zip(self.steps, getattr(self, name), strict=True):
                    self.thin[name].add(at, value)
        self.attempt = keep

    def seconds_per_step(self) -> float | None:
        """Over the newest points of this attempt; None before there are two."""
        first = max(self.attempt, len(self.steps) - RECENT_POINTS)
        if len(self.steps) - first < 2:
            return None
        pace = (self.times[-1] - self.times[first]) / max(1, self.steps[-1] - self.steps[first])
        return pace if pace >= 0 else None  # a clock that was set back


@dataclass
class Live:
    """One watched run. `version` changes whenever there is something new to show."""

    run: Run = field(default_factory=Run)
    curves: Curves = field(default_factory=Curves)
    offset: int = 0
    is_held: bool = False
    part: tuple[Any, float, float] | None = None  # (what, done, at) where the part of a step that is going on began
    latest_s: float = 0.0

    def stalled_s(self) -> float | None:
        """How long a training that should have said something has said nothing; None while all is well."""
        return events.stalled_s(self.run, time.time())

    @property
    def version(self) -> str:
        return f"{self.run.run_id}:{self.offset}:{self.run.state}:{self.run.progress.get('place', '')}"

    def add(self, event: Event) -> None:
        self.run = events.fold([event], self.run)
        with contextlib.suppress(*events.DAMAGED):
            self._take(event)

    def _take(self, event: Event) -> None:
        self.latest_s = float(event.get("t", 0.0))
        match event.get("kind"):
            case "train_log":
                self.curves.add(event)
            case "train_began":
                self.curves.cut(event["step"])
            case "progress":
                what = (event.get("step"), event.get("id"), event.get("total"))
                if self.part is None or self.part[0] != what:
                    self.part = (what, float(event.get("done", 0)), self.latest_s)
            case "step_started" | "step_finished" | "finished":
                self.part = None
            case _:
                return

    def remaining_s(self) -> float | None:
        """How long the part that is going on still takes at its rate so far; None while nobody can say."""
        if self.run.state != "running":
            return None
        if self.run.stage == "train":
            per_step = self.curves.seconds_per_step()
            left = self.run.max_steps - self.run.optimizer_step
            return per_step * left if per_step is not None and left > 0 else None
        if self.part is None:
            return None
        _, began_at, began_s = self.part
        done, total = float(self.run.progress.get("done", 0)), float(self.run.progress.get("total", 0))
        moved = done - began_at
        return (total - done) * (self.latest_s - began_s) / moved if moved > 0 and self.latest_s >= began_s else None


@dataclass
class LogTail:
    """The end of a run's log, without secrets. Lines are read once; `total` counts them all."""

    lines: deque[str] = field(default_factory=lambda: deque[str](maxlen=KEPT_LINES))
    total: int = 0
    offset: int = 0

    @property
    def text(self) -> str:
        return "".join(self.lines)

    @property
    def version(self) -> str:
        return str(self.offset)

    def read(self, path: Path) -> None:
        with path.open("rb") as file:
            self._pass_over(file)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                self.total += 1
                # A bar that is drawn again and again: its last state, as a terminal shows it.
                shown = line.rstrip(b"\r\n").rpartition(b"\r")[2]
                self.lines.append(redact(shown[:LONGEST_LINE].decode(errors="replace")) + "\n")

    def _pass_over(self, file: BinaryIO) -> None:
        """Go to where the new lines begin; of a log that has grown by more than is shown, the lines before its end are counted only."""
        behind = file.seek(0, os.SEEK_END) - LONGEST_TAIL
        file.seek(self.offset)
        if self.offset >= behind:
            return
        while self.offset < behind:
            part = file.read(min(2**20, behind - self.offset))
            self.total += part.count(b"\n")
            self.offset += len(part)
        rest = file.readline()  # of the line that the end begins in
        self.total += rest.endswith(b"\n")
        self.offset += len(rest)


_known: OrderedDict[str, Live] = OrderedDict()
_logs: OrderedDict[str, LogTail] = OrderedDict()
_lock = threading.RLock()


def watch(run_id: str) -> Live:
    """The run as it stands now. Cheap to call every second: only new events are read.

    Raises:
        UserError: there is no such run.
    """
    run_dir = runs.folder(run_id)
    path = run_dir / events.FILE_NAME
    with _lock:
        live = _known.get(str(run_dir))
        if live is None or (path.stat().st_size if path.exists() else 0) < live.offset:
            live = Live(events.nobody_yet(run_id))
        for event, offset in events.read_from(run_dir, live.offset):
            live.add(event)
            live.offset = offset
        _known[str(run_dir)] = live
        _known.move_to_end(str(run_dir))
        while len(_known) > KEPT_RUNS:
            _known.popitem(last=False)
        return dataclasses.replace(live, run=runs.as_found(run_id, live.run))


def log_tail(run_id: str) -> LogTail:
    """The newest lines that the run's processes wrote."""
    path = runs.folder(run_id) / runs.LOG
    with _lock:
        tail = _logs.get(str(path))
        size_bytes = path.stat().st_size if path.exists() else 0
        if tail is None or size_bytes < tail.offset:
            tail = LogTail()
        if size_bytes > tail.offset:
            tail.read(path)
        _logs[str(path)] = tail
        _logs.move_to_end(str(path))
        while len(_logs) > KEPT_LOGS:
            _logs.popitem(last=False)
        return dataclasses.replace(tail, lines=tail.lines.copy())


def all_live() -> list[Live]:
    """Every run of the workspace, newest first, each as `watch` sees it."""
    found: list[Live] = []
    for run_id in runs.all_ids():
        with contextlib.suppress(UserError):  # deleted a moment ago
            found.append(watch(run_id))
    return found


def all_runs() -> list[Run]:
    return [live.run for live in all_live()]


def forget() -> None:
    """Drop what is remembered, as a restart of the app does."""
    with _lock:
        _known.clear()
        _logs.clear()

"""Events: the append-only log that is the whole truth about a run, and the pure fold that turns it into a `Run`."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

State = Literal["queued", "running", "stopping", "done", "failed", "cancelled", "interrupted"]
TERMINAL_STATES: tuple[State, ...] = ("done", "failed", "cancelled", "interrupted")
Event = dict[str, Any]

FILE_NAME = "events.jsonl"
TAKEN = "taken"  # the method of a run whose model comes from elsewhere and is not trained
ENVELOPE = ("t", "kind", "n")  # fields of every event; `n` is its number in the log of the machine it came from
SILENT_S = 300.0  # a training that says nothing for this long, and for this many of its steps, is stalled
SILENT_STEPS = 20
BEATS = 21  # logged points that the pace is taken from
DAMAGED = (AttributeError, KeyError, TypeError, ValueError)  # what a line raises that the disk or a hand has changed and that is JSON still


def append(run_dir: Path, kind: str, **fields: Any) -> None:
    """Add one event. One write of one line to a file opened for appending, so several processes may write."""
    line = json.dumps({"t": round(time.time(), 3), "kind": kind, **fields}, ensure_ascii=False, allow_nan=True) + "\n"
    descriptor = os.open(run_dir / FILE_NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if _ends_mid_line(run_dir / FILE_NAME):
            line = "\n" + line
        rest = line.encode()
        while rest:  # a disk that fills up takes a part, and refuses the next
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _ends_mid_line(path: Path) -> bool:
    """Whether the last writer died inside a line; its torn rest must not swallow the next event."""
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read(run_dir: Path) -> Iterator[Event]:
    """Every whole event of the run, oldest first. A line torn by a crash is passed over."""
    for event, _ in read_from(run_dir, 0):
        yield event


def read_from(run_dir: Path, offset: int) -> Iterator[tuple[Event, int]]:
    """Every whole event from byte `offset` on, each with the offset behind it, from which the next look goes on."""
    path = run_dir / FILE_NAME
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "kind" in event:
                yield event, offset


@dataclass(frozen=True)
class Step:
    """One stage of a run: train or take, merge, gguf, measure or prove."""

    name: str
    state: Literal["waiting", "running", "done", "skipped", "failed"] = "waiting"
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Run:
    """What the events of a run add up to. `optimizer_step` counts optimizer steps; losses map such a step to a mean over labelled tokens."""

    run_id: str = ""
    name: str = ""
    method: str = ""
    state: State = "queued"
    steps: tuple[Step, ...] = ()
    optimizer_step: int = 0
    max_steps: int = 0
    losses: dict[int, float] = field(default_factory=dict[int, float])
    evals: dict[int, float] = field(default_factory=dict[int, float])
    metrics: dict[int, dict[str, float]] = field(default_factory=dict[int, dict[str, float]])
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    artifacts: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    notes: tuple[str, ...] = ()
    more_levels: tuple[str, ...] = ()  # GGUF levels asked for after the recipe was written
    intermediates: dict[str, str] = field(
        default_factory=dict[str, str]
    )  # the float format that a level is made from, where one was chosen
    owner: str = ""  # who started it, where that is known
    publish_to: str = ""  # the repository that its result is meant for
    remark: str = ""  # what its owner wrote about it
    kept: dict[str, Any] = field(default_factory=dict[str, Any])  # where its checkpoints are kept, which was the last, and what was refused
    samples: dict[int, tuple[dict[str, str], ...]] = field(default_factory=dict[int, tuple[dict[str, str], ...]])  # answers by step
    beats: tuple[tuple[int, float], ...] = ()  # (step, when) of the newest logged points of this attempt
    trained_s: float = 0.0  # when training last said something of itself, which is when an evaluation begins
    eval_s: float = 0.0  # how long the newest evaluation took
    error: dict[str, str] | None = None
    change: dict[str, Any] = field(default_factory=dict[str, Any])  # what would make it fit where memory ran out: knobs, and what they mean
    heard_s: float = 0.0  # when the last event was written
    created_s: float = 0.0
    started_s: float = 0.0
    ended_s: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether its model was taken in as it is."""
        return self.method == TAKEN

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL_STATES

    @property
    def stage(self) -> str:
        """The step that runs now, or the last one that ran."""
        begun = [step.name for step in self.steps if step.state != "waiting"]
        return begun[-1] if begun else (self.steps[0].name if self.steps else "")

    @property
    def loss(self) -> float | None:
        """The newest one; steps are logged in order, so it is the last entry of the table."""
        return self.losses[next(reversed(self.losses))] if self.losses else None


def fold(events: Iterable[Event], run: Run | None = None) -> Run:
    """The run that these events describe. The same events always give the same run; one that is damaged changes nothing.

    With `run`, the fold goes on from there and takes it over: its tables grow in place, so that a long log is read in linear time.
    """
    run = run or Run()
    for event in events:
        with contextlib.suppress(*DAMAGED):
            run = _apply(run, event)
    return run


def nobody_yet(run_id: str) -> Run:
    """The run of this folder before its first event. The folder's name is its id: a copy of it is another run, also in what its log says."""
    return Run(run_id=run_id, name=run_id)


def described(run: Run) -> dict[str, Any]:
    """Where a run stands, in JSON's types; the command line and the page's endpoint add to it what each of them may show."""
    return {
        "run_id": run.run_id,
        "name": run.name,
        "method": run.method,
        "state": run.state,
        "stage": run.stage,
        "step": run.optimizer_step,
        "max_steps": run.max_steps,
        "evals": [[step, loss] for step, loss in sorted(run.evals.items())],
        "steps": {step.name: {"state": step.state, "elapsed_s": step.elapsed_s} for step in run.steps},
        "facts": run.facts,
        "queue_place": run.progress.get("place"),
        "change": run.change,
    }


def stalled_s(run: Run, now: float) -> float | None:
    """How long a training has said nothing, once that is at least 5 minutes and 20 of its steps; None while all is well."""
    if run.state not in ("running", "stopping") or run.stage != "train":
        return None
    silent_s = now - run.heard_s
    return silent_s if silent_s > max(SILENT_S, SILENT_STEPS * step_s(run)) else None


def step_s(run: Run) -> float:
    """Seconds of one of its newest steps; 0 before there are two."""
    pairs = zip(run.beats, run.beats[1:], strict=False)
    paces = [(later[1] - earlier[1]) / max(1, later[0] - earlier[0]) for earlier, later in pairs]
    return max(0.0, statistics.median(paces or [0.0]))  # a clock that was set back between two of them


def _apply(run: Run, event: Event) -> Run:
    at = float(event.get("t", 0.0))
    run = _heard(run, event, at)
    return replace(run, heard_s=at) if run.heard_s != at else run


def _heard(run: Run, event: Event, at: float) -> Run:
    match event.get("kind"):
        case "created":
            steps = tuple(Step(name) for name in event["steps"])
            named = {"run_id": run.run_id or event["run_id"], "name": event["name"], "method": event["method"]}
            also = {"owner": event.get("owner", ""), "publish_to": event.get("publish_to", "")}
            return replace(run, steps=steps, created_s=at, **named, **also)
        case "queued":
            return replace(run, state="queued", error=None, change={}, progress=_waits(event))
        case "waiting":  # a word of the supervisor, which changes nothing else: somebody may have asked it to stop meanwhile
            return replace(run, progress=_waits(event))
        case "started":
            return replace(run, state="running", error=None, started_s=run.started_s or at, ended_s=0.0, progress={}, beats=())
        case "step_started":
            return _with_step(replace(run, progress={}), Step(event["step"], "running"))
        case "step_finished":
            state = "skipped" if event.get("skipped") else "done"
            elapsed_s = float(event["elapsed_s"])
            if state == "skipped":  # done by an earlier attempt: its time stays
                elapsed_s = next((step.elapsed_s for step in run.steps if step.name == event["step"]), 0.0)
            return _with_step(replace(run, progress={}), Step(event["step"], state, elapsed_s))
        case "progress":
            return replace(run, progress={key: value for key, value in event.items() if key not in ENVELOPE})
        case "train_began":
            kept = {step: loss for step, loss in run.losses.items() if step <= event["step"]}
            metrics = {step: values for step, values in run.metrics.items() if step <= event["step"]}
            began = {"optimizer_step": event["step"], "max_steps": event["max_steps"], "beats": (), "trained_s": at}
            return replace(run, losses=kept, metrics=metrics, **began)
        case "train_log":
            step = event["step"]
            values = {key: value for key, value in event.items() if key not in (*ENVELOPE, "step")}
            if "loss" in values:
                run.losses[step] = values["loss"]
            run.metrics[step] = values
            return replace(run, optimizer_step=step, beats=(*run.beats[1 - BEATS :], (step, at)), trained_s=at, heard_s=at)
        case "alive":
            return replace(run, optimizer_step=event["step"])
        case "samples":
            run.samples[event["step"]] = tuple(event["samples"])
            return run
        case "remark":
            return replace(run, remark=event["text"])
        case "evaluated":
            run.evals[event["step"]] = event["eval_loss"]
            return replace(run, eval_s=max(0.0, at - (run.trained_s or at)))
        case "facts":
            return replace(run, facts=run.facts | event["facts"])
        case "artifact":
            others = tuple(artifact for artifact in run.artifacts if artifact["id"] != event["id"])
            return replace(run, artifacts=(*others, {key: event[key] for key in ("id", "kind_of", "path")}))
        case "keeping":
            return replace(run, kept={"repo_id": event["repo_id"]})
        case "checkpoint_kept":
            return replace(
                run, kept={key: value for key, value in run.kept.items() if key != "error"} | {"checkpoint": event["checkpoint"]}
            )
        case "checkpoint_not_kept":
            return replace(run, kept=run.kept | {"error": event["error"]})
        case "note":
            return replace(run, notes=(*run.notes, event["text"]))
        case "extended":
            chosen = dict.fromkeys(event["levels"], event["intermediate"]) if event.get("intermediate") else {}
            return replace(
                run,
                state="queued",
                steps=_again(run.steps, event["steps"]),
                more_levels=(*run.more_levels, *event["levels"]),
                intermediates=run.intermediates | chosen,
            )
        case "stop_requested":
            return run if run.is_terminal else replace(run, state="stopping")
        case "finished":
            steps = run.steps
            if event["state"] != "done":
                steps = tuple(replace(step, state="failed") if step.state == "running" else step for step in steps)
            ended = {"error": event.get("error"), "change": event.get("change") or {}, "ended_s": at}
            return replace(run, state=event["state"], steps=steps, progress={}, **ended)
        case _:
            return run  # written by a newer version


def _waits(event: Event) -> dict[str, Any]:
    return {key: event.get(key, "") for key in ("waiting_for", "device")}


def _with_step(run: Run, step: Step) -> Run:
    return replace(run, steps=tuple(step if known.name == step.name else known for known in run.steps))


def _again(steps: tuple[Step, ...], names: list[str]) -> tuple[Step, ...]:
    """The steps of a run that is taken up again: what exports and measures waits anew, the rest stays as it was."""
    known = {step.name: step for step in steps}
    return tuple(known[name] if name in known and name in ("train", "merge") else Step(name) for name in names)

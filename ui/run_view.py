"""How a run looks: its line in the list, its steps, its bar, its plots. Pure functions from what is on disk to HTML."""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.errors import UserError
from core.events import Run, Step
from core.publish.waiting import waiting
from core.running import queue
from core.running.compare import Difference
from core.running.live import Live, LogTail
from core.running.thin import Thinned
from ui import feedback, plots
from ui.view import chip, count, duration, facts, meter, percent, sentence, size, table, text

TONES = {"running": "accent", "stopping": "accent", "done": "good", "failed": "error", "interrupted": "warning", "cancelled": "warning"}
STEP_TITLES = {"take": "Take in", "train": "Train", "merge": "Merge", "gguf": "Quantise", "measure": "Measure", "prove": "Prove"}
STEP_WORDS = {
    "take": "taking in",
    "train": "training",
    "merge": "merging",
    "gguf": "quantising",
    "measure": "measuring",
    "prove": "proving",
}
STATE_WORDS = {"cancelled": "stopped", "queued": "waiting"}


def overview(found: Sequence[Run]) -> str:
    """``1 run is going on, 3 are done.``"""
    states = [run.state for run in found]
    counted = (
        (states.count("running") + states.count("stopping"), "is going on", "are going on"),
        (states.count("queued"), "is waiting", "are waiting"),
        (states.count("done"), "is done", "are done"),
        (states.count("failed"), "failed", "failed"),
        (states.count("interrupted") + states.count("cancelled"), "can be resumed", "can be resumed"),
    )
    parts = [(number, one if number == 1 else many) for number, one, many in counted if number]
    first, *others = parts
    lead = ", ".join([f"{count(first[0], 'run')} {first[1]}", *(f"{number} {words}" for number, words in others)])
    return sentence(f"{lead}.", "Runs go on by themselves, also when this page is closed.")


def line(live: Live) -> str:
    """The run in the list, as plain text of two lines."""
    return f"{live.run.name}\n{' · '.join(_line_parts(live))}"


def _line_parts(live: Live) -> list[str]:
    run = live.run
    parts = ["no word for a while" if live.stalled_s() else STATE_WORDS.get(run.state, run.state)]
    if run.state == "queued" and (place := run.progress.get("place")):
        parts.append(f"{queue.ordinal(place)} in the queue")
    if run.state in ("running", "stopping"):
        parts.append(STEP_WORDS.get(run.stage, run.stage))
    if run.max_steps and run.state != "done":
        parts.append(f"step {run.optimizer_step:,} of {run.max_steps:,}")
    if (remaining_s := live.remaining_s()) is not None:
        parts.append(f"about {_rough(remaining_s)} left")
    if run.loss is not None:
        parts.append(f"loss {run.loss:.3f}")
    return [*parts, time.strftime("%d %b %H:%M", time.localtime(run.created_s))]


def _rough(seconds: float) -> str:
    """A remaining time as exactly as anybody can know it, so that it does not flicker."""
    grain = 1 if seconds < 60 else 5 if seconds < 600 else 60
    return duration(round(seconds / grain) * grain)


def method(run: Run) -> str:
    """How its model was trained: ``qlora``."""
    return "not trained here" if run.is_taken else run.method


def status(live: Live) -> str:
    """Everything about the chosen run but its plots."""
    run = live.run
    head = f"<h3>{text(run.name)}</h3>{chip(STATE_WORDS.get(run.state, run.state), TONES.get(run.state, 'plain'))}"
    under = " · ".join([method(run), run.run_id, f"started {time.strftime('%d %B %H:%M', time.localtime(run.created_s))}"])
    return (
        f'<section class="run" aria-label="Run {text(run.name)}"><header>{head}<p class="rest">{text(under)}</p></header>'
        f"{_steps(run.steps)}{progress(live)}{stalled(live)}{_figures(run)}{error_of(run)}{_waits(run)}{_notes(run)}</section>"
    )


def _steps(steps: Sequence[Step]) -> str:
    cells = "".join(
        f'<li class="{step.state}"{" aria-current=step" if step.state == "running" else ""}>'
        f"<b>{text(STEP_TITLES.get(step.name, step.name))}</b><span>{text(_step_says(step))}</span></li>"
        for step in steps
    )
    return f'<ol class="steps" aria-label="Steps">{cells}</ol>'


def _step_says(step: Step) -> str:
    if step.state in ("done", "skipped"):
        return duration(step.elapsed_s) if step.elapsed_s else "done"
    return {"waiting": "to do", "running": "now", "failed": "not finished"}[step.state]


def progress(live: Live) -> str:
    """The bar of what goes on now, with its figures; nothing when the run has ended."""
    run = live.run
    if run.is_terminal:
        return ""
    if run.state == "queued":
        return f'<p class="going" role="status">Waiting for {text(_waiting_for(run))}.</p>'
    share, words = _share(live)
    remaining_s = live.remaining_s()
    if remaining_s is not None:
        words.append(f"about {_rough(remaining_s)} left")
    if run.state == "stopping":
        words = ["Saving a checkpoint and stopping"]
    title = STEP_WORDS.get(run.stage, run.stage).capitalize()
    return (
        f'<div class="going" role="status" aria-live="off">{meter(share, f"{title} {percent(share)}")}'
        f'<p><b>{text(title)}</b> <span class="num">{text(" · ".join(words))}</span></p></div>'
    )


def stalled(live: Live) -> str:
    """A card for a training that has said nothing for too long."""
    silent_s = live.stalled_s()
    if silent_s is None:
        return ""
    problem = f"The training has said nothing for {duration(silent_s // 60 * 60)}, much longer than its steps take."
    remedy = "Look at the end of the log and at the hardware. If nothing moves, stop the run: it resumes from its last checkpoint."
    return feedback.said(problem, "", remedy, "warning")


def _waiting_for(run: Run) -> str:
    known = {"": "its turn", "supervisor": "its process to start"}
    waiting_for = str(run.progress.get("waiting_for", ""))
    return known.get(waiting_for, waiting_for)


def _share(live: Live) -> tuple[float, list[str]]:
    """(how far, in words) the step that goes on is."""
    run, curves = live.run, live.curves
    if run.stage == "train":
        if not run.max_steps:
            return 0.0, ["loading the model"]
        words = [f"step {run.optimizer_step:,} of {run.max_steps:,}"]
        if run.loss is not None:
            words.append(f"loss {run.loss:.3f}")
        speed = next((value for value in reversed(curves.tokens_per_s[-5:]) if value), None)
        per_step = curves.seconds_per_step()
        words += [f"{speed:,.0f} tokens/s"] if speed else [f"{per_step:.1f} s per step"] if per_step else []
        return run.optimizer_step / run.max_steps, words
    done, total = float(run.progress.get("done", 0)), float(run.progress.get("total", 0))
    words = [str(run.progress[key]) for key in ("id", "text") if run.progress.get(key)]
    if total:
        words.append(f"{done:,.0f} of {total:,.0f}")
    return (done / total if total else 0.0), words or ["loading"]


def _figures(run: Run) -> str:
    known = run.facts
    pairs: list[tuple[str, str]] = []
    if known.get("trainable_params") and known.get("total_params"):
        pairs.append(("Weights that learn", percent(known["trainable_params"] / known["total_params"])))
    if known.get("num_rows"):
        pairs.append(("Conversations", f"{known['num_rows']:,}"))
    if known.get("row_loss_tokens"):
        pairs.append(("Tokens with loss", f"{known['row_loss_tokens']:,}"))
    if known.get("eval_loss_before") is not None:
        after = known.get("eval_loss_after", run.evals[max(run.evals)] if max(run.evals, default=0) else None)
        pairs.append(("Evaluation loss", f"{known['eval_loss_before']:.3f}" + (f" → {after:.3f}" if after is not None else "")))
    elapsed_s = sum(step.elapsed_s for step in run.steps)
    if run.is_terminal and elapsed_s:
        pairs.append(("Time computing", duration(elapsed_s)))
    return facts(pairs) if pairs else ""


def error_of(run: Run) -> str:
    """The card of what ended the run, if anything did."""
    if not run.error:
        return ""
    return feedback.card(UserError.from_dict(run.error))


def _waits(run: Run) -> str:
    """That the result of a run is not published yet, although it shall be."""
    if waiting(run) is None:
        return ""
    return feedback.said(
        f"Done, and waits to be published to {run.publish_to}.", remedy="Sign in, then send it on the Publish tab.", tone="warning"
    )


def _notes(run: Run) -> str:
    if not run.notes:
        return ""
    items = "".join(f"<li>{text(feedback.for_page(note))}</li>" for note in run.notes)
    return f'<ul class="notes" aria-label="Notes">{items}</ul>'


LOG_KEPT_BACK = ("", '<p class="quiet">The log is shown to the owner.</p>')


def log(tail: LogTail) -> tuple[str, str]:
    """(title, text) of the end of the log, without secrets and without the server's folders."""
    if not tail.total:
        return "", ""
    which = f"the last {len(tail.lines):,} of {tail.total:,} lines" if tail.total > len(tail.lines) else count(tail.total, "line")
    shown = f'<div role="log" aria-live="off" tabindex="0" aria-label="Log"><pre>{text(feedback.for_page(tail.text))}</pre></div>'
    return f'<h2 class="part">Log <span class="quiet">{text(which)}</span></h2>', shown


def curves_of(live: Live) -> str:
    """Loss, learning rate, gradient norm, speed and memory over the optimizer steps."""
    run, thin = live.run, live.curves.thin
    if not live.curves.steps:
        return ""
    charts = [
        plots.chart("Loss", [_line("each step", thin["loss"], "faint"), _line("smoothed", thin["smooth"]), _evals(run)], _three),
        plots.chart("Learning rate", [_line("learning rate", thin["learning_rate"])], _rate),
        plots.chart("Gradient norm", [_line("gradient norm", thin["grad_norm"])], _three),
        plots.chart("Speed", [_line("tokens per second", thin["tokens_per_s"])], lambda value: f"{value:,.0f}", " tokens/s"),
        plots.chart("Memory", [_line("memory", thin["memory_bytes"])], size),
    ]
    return f'<div class="plots">{"".join(charts)}</div>'


def _evals(run: Run) -> plots.Line:
    evals = sorted(run.evals.items())
    return plots.Line("evaluation", [step for step, _ in evals], [value for _, value in evals], "points")


def _line(name: str, curve: Thinned, tone: str = "main") -> plots.Line:
    points = curve.points()
    return plots.Line(name, [x for x, _ in points], [y for _, y in points], tone)


def overlay(watched: Sequence[Live]) -> str:
    """The smoothed losses of several runs in one plot, each with its own colour and stroke."""
    tones = [f"run-{number}" for number in range(len(watched))]
    lines = [
        _line(f"{live.run.name} {live.run.run_id}", live.curves.thin["smooth"], tone) for live, tone in zip(watched, tones, strict=True)
    ]
    drawn = plots.chart("Smoothed loss", lines, _three)
    return f'<div class="plots overlay">{drawn}</div>' if drawn else ""


def differences(watched: Sequence[Live], found: Sequence[Difference]) -> str:
    """The table of knobs in which runs differ."""
    if not found:
        return '<p class="quiet">Their recipes are the same.</p>'
    rows = [[text(one.title), *(text(feedback.for_page(f"{value}")) for value in one.values)] for one in found]
    return table(["Recipe", *(live.run.run_id for live in watched)], rows, "Differences of the recipes")


SHOWN_SAMPLES = 8  # steps


def samples(run: Run) -> str:
    """What the model answered to the fixed prompts as it learnt, newest first: one table per prompt."""
    steps = sorted(run.samples, reverse=True)
    steps = steps if len(steps) <= SHOWN_SAMPLES else [*steps[: SHOWN_SAMPLES - 1], steps[-1]]
    answers: dict[str, list[tuple[int, str]]] = {}
    for step in steps:
        for sample in run.samples[step]:
            answers.setdefault(sample["prompt"], []).append((step, sample["answer"]))
    return "".join(
        f'<h3 class="asked">{text(feedback.for_page(prompt))}</h3>'
        + table(["Step", "Answer"], [[f"{step:,}", text(feedback.for_page(said))] for step, said in given], f"Answers to {prompt}", [0])
        for prompt, given in answers.items()
    )


def _three(value: float) -> str:
    return f"{value:.3g}"


def _rate(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")

"""How a run looks: its line in the list, its steps, its bar, its plots. Pure functions from what is on disk to HTML."""

from __future__ import annotations

import time
from collections.abc import Sequence

from core.errors import UserError
from core.events import Run, Step
from core.running.live import Curves, Live, LogTail
from ui import feedback, plots
from ui.view import chip, count, duration, facts, meter, percent, sentence, size, text

TONES = {"running": "accent", "stopping": "accent", "done": "good", "failed": "error", "interrupted": "warning", "cancelled": "warning"}
STEP_TITLES = {"train": "Train", "merge": "Merge", "gguf": "Quantise", "measure": "Measure", "prove": "Prove"}
STEP_WORDS = {"train": "training", "merge": "merging", "gguf": "quantising", "measure": "measuring", "prove": "proving"}
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


def line(run: Run) -> str:
    """The run in the list, as plain text of two lines."""
    return f"{run.name}\n{' · '.join(_line_parts(run))}"


def _line_parts(run: Run) -> list[str]:
    parts = [STATE_WORDS.get(run.state, run.state)]
    if run.state in ("running", "stopping"):
        parts.append(STEP_WORDS.get(run.stage, run.stage))
    if run.max_steps and run.state != "done":
        parts.append(f"step {run.optimizer_step:,} of {run.max_steps:,}")
    if run.losses:
        parts.append(f"loss {run.losses[max(run.losses)]:.3f}")
    return [*parts, time.strftime("%d %b %H:%M", time.localtime(run.created_s))]


def status(live: Live) -> str:
    """Everything about the chosen run but its plots."""
    run = live.run
    head = f"<h3>{text(run.name)}</h3>{chip(STATE_WORDS.get(run.state, run.state), TONES.get(run.state, 'plain'))}"
    under = " · ".join([run.method, run.run_id, f"started {time.strftime('%d %B %H:%M', time.localtime(run.created_s))}"])
    return (
        f'<section class="run" aria-label="Run {text(run.name)}"><header>{head}<p class="rest">{text(under)}</p></header>'
        f"{_steps(run.steps)}{progress(live)}{_figures(run)}{error_of(run)}{_notes(run)}</section>"
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
        words.append(f"about {duration(remaining_s) if remaining_s < 60 else duration(round(remaining_s / 5) * 5)} left")
    if run.state == "stopping":
        words = ["Saving a checkpoint and stopping"]
    title = STEP_WORDS.get(run.stage, run.stage).capitalize()
    return (
        f'<div class="going" role="status" aria-live="off">{meter(share, f"{title} {percent(share)}")}'
        f'<p><b>{text(title)}</b> <span class="num">{text(" · ".join(words))}</span></p></div>'
    )


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
        if run.losses:
            words.append(f"loss {run.losses[max(run.losses)]:.3f}")
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
        after = known.get("eval_loss_after")
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


def _notes(run: Run) -> str:
    if not run.notes:
        return ""
    items = "".join(f"<li>{text(feedback.for_page(note))}</li>" for note in run.notes)
    return f'<ul class="notes" aria-label="Notes">{items}</ul>'


def log(tail: LogTail) -> tuple[str, str]:
    """(title, text) of the end of the log, without secrets and without the server's folders."""
    if not tail.total:
        return "", ""
    which = f"the last {len(tail.lines):,} of {tail.total:,} lines" if tail.total > len(tail.lines) else count(tail.total, "line")
    shown = f'<div role="log" aria-live="off" tabindex="0" aria-label="Log"><pre>{text(feedback.for_page(tail.text))}</pre></div>'
    return f'<h2 class="part">Log <span class="quiet">{text(which)}</span></h2>', shown


def curves_of(live: Live) -> str:
    """Loss, learning rate, speed and memory over the optimizer steps."""
    curves, run = live.curves, live.run
    if not curves.steps:
        return ""
    evals = sorted(run.evals.items())
    loss = [plots.Line("each step", curves.steps, _real(curves.loss), "faint"), plots.Line("smoothed", curves.steps, _real(curves.smooth))]
    loss.append(plots.Line("evaluation", [step for step, _ in evals], [value for _, value in evals], "points"))
    charts = [
        plots.chart("Loss", loss, lambda value: f"{value:.3g}"),
        plots.chart("Learning rate", [plots.Line("learning rate", curves.steps, _real(curves.learning_rate))], _rate),
        plots.chart("Speed", [_speed(curves)], lambda value: f"{value:,.0f}", " tokens/s"),
        plots.chart("Memory", [plots.Line("memory", curves.steps, _real(curves.memory_bytes))], size),
    ]
    return f'<div class="plots">{"".join(charts)}</div>'


def _speed(curves: Curves) -> plots.Line:
    return plots.Line("tokens per second", curves.steps, _real(curves.tokens_per_s))


def _real(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _rate(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}".replace("e-0", "e-")

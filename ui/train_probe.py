"""Twenty real steps of the form's recipe from the Train tab: a run of its own that the page starts, and then only looks at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import UserError
from core.running import probe, runs
from ui import background, train_estimate
from ui import train_data as data
from ui.access import Caller, allowed
from ui.shell import NO_ID, TRAIN, Shell
from ui.view import duration, meter, size, text

VERB = f"Measure {probe.STEPS} real steps"
ENDS: dict[str, Any] = {"probe_id": NO_ID, "ticking": gr.Timer(active=False)}
Shown = dict[str, Any]


def add(shell: Shell, slot: gr.HTML, estimate: dict[str, Any]) -> None:
    """Put the button and what it finds onto the page, beneath the `estimate` that it corrects."""
    button = gr.Button(VERB, size="sm", elem_id="train-probe")
    said = gr.HTML("", container=False, padding=False, elem_id="train-probed")
    at = {"said": said, "probe_id": shell.probe_id, "ticking": shell.probe_timer}
    shell.listen(button.click, begin, inputs=shell.form, outputs=at, slot=slot, concurrency_limit=2)
    looks = [shell.probe_timer.tick, shell.demo.load, shell.tab[TRAIN].select]
    shell.listen(looks, look, inputs=[shell.probe_id, shell.form], outputs=at | estimate)


@allowed("owner")
def begin(kept: dict[str, Any] | None, caller: Caller) -> Iterator[Shown]:
    """Create and start the probe's run; it waits its turn like any other."""
    values, place = (kept or {}).get("values") or {}, data.known_place(kept)
    if place:
        raise UserError("Only this machine can be measured from here.", "Where it runs", "Choose this machine first.")
    if reason := data.why_not(values, caller):
        raise reason
    recipe = data.recipe_of(values, caller)
    for work in background.watch(lambda _: probe.begin(recipe, caller.token), patience_s=1.0):
        if work.is_finished:
            yield {"said": _going(0, probe.STEPS, "Starting"), "probe_id": work.result, "ticking": gr.Timer(active=True)}
        else:
            yield {"said": _going(0, probe.STEPS, f"Preparing, {duration(work.elapsed_s)} so far")}


@allowed("public")
def look(probe_id: str, kept: dict[str, Any] | None, caller: Caller) -> Shown:
    """How far the probe is; once it is through, what it took, and the estimate corrected by it."""
    if probe_id in ("", NO_ID) or not caller.may("owner"):
        return {"ticking": gr.Timer(active=False)}
    try:
        run = runs.load(probe_id)
        if not run.is_terminal:
            waits = f"Waiting for {run.progress.get('waiting_for', 'its turn')}" if run.state == "queued" else "Measuring"
            return {"said": _going(run.optimizer_step, run.max_steps, waits), "ticking": gr.Timer(active=True)}
        found = probe.result(probe_id)
    except UserError as error:
        return {"said": f'<p class="quiet" role="status">{text(f"Not measured. {error.problem} {error.remedy}")}</p>'} | ENDS
    measured = f"Measured: peak {size(found.peak_bytes)}, {duration(found.step_s)} a step. The estimate above is corrected by it."
    return {"said": f'<p class="quiet" role="status">{text(measured)}</p>'} | ENDS | train_estimate.shown(kept, caller)


def _going(done: int, steps: int, doing: str) -> str:
    label = f"{doing}: step {done} of {steps}" if done else doing
    return f'{meter(done / steps if steps else 0.0, label)}<p class="quiet" role="status">{text(label)}</p>'

"""The Runs tab: every run, live. All of it is read from disk, so a reload, a second window or a restart of the app shows the same."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core import usage
from core.errors import UserError
from core.events import Run
from core.running import live, runs
from ui import feedback, gpu_panel, run_view
from ui.access import allowed
from ui.shell import MODELS, RUNS, TRAIN, Shell, listen_api
from ui.view import empty

NO_RUNS = empty("No run yet.", "Choose a dataset and a model under Train; the run appears here the moment it starts, and stays.")


def build(shell: Shell) -> None:
    with gr.Row(equal_height=False, elem_classes=["opening"]):
        with gr.Column(scale=4, min_width=260):
            lead = gr.HTML(NO_RUNS, container=False, padding=False, elem_id="runs-sentence")
        with gr.Column(scale=1, min_width=230, elem_classes=["opening-action"]):
            to_train = gr.Button("Set up a run", variant="primary", visible=False)
            stop = gr.Button("Stop run", variant="stop", visible=False, elem_id="runs-stop")
            resume = gr.Button("Resume run", variant="primary", visible=False, elem_id="runs-resume")
            to_models = gr.Button("See its models", variant="primary", visible=False, elem_id="runs-models")
    slot = feedback.slot()
    with gr.Row(visible=False, elem_classes=["split", "watch"]) as body:
        with gr.Column(scale=1, min_width=280, elem_classes=["side"]):
            chosen = gr.Radio([], label="Runs", elem_classes=["pick"])
            hardware = gr.HTML("", container=False, padding=False, elem_classes=["last"])
        with gr.Column(scale=3, min_width=320):
            status = gr.HTML("", container=False, padding=False)
            plots = gr.HTML("", container=False, padding=False)
            log_title = gr.HTML("", container=False, padding=False)
            log = gr.HTML("", container=False, padding=False, elem_classes=["logbox"])
    seen = gr.State("")  # what this page shows already: ids and offsets only
    shown = [lead, to_train, body, chosen, status, stop, resume, to_models, plots, log_title, log, hardware, seen]

    live_slot = feedback.slot()
    shell.listen(
        [shell.timers[RUNS].tick, shell.demo.load, shell.tab[RUNS].select, shell.run_id.change],
        look,
        inputs=[shell.run_id, seen],
        outputs=shown,
        slot=live_slot,
        queue=False,
    )
    shell.listen(chosen.input, choose, inputs=chosen, outputs=shell.run_id, slot=slot, queue=False)
    shell.listen(stop.click, stop_chosen, inputs=shell.run_id, slot=slot, concurrency_limit=4)
    shell.listen(resume.click, resume_chosen, inputs=shell.run_id, slot=slot)
    shell.listen(to_train.click, open_train, outputs=shell.tabs, slot=slot, queue=False)
    shell.listen(to_models.click, open_models, outputs=shell.tabs, slot=slot, queue=False)
    listen_api(run_status, "run_status")
    listen_api(stop_run, "stop_run")


@allowed("public")
def look(run_id: str, seen: str) -> tuple[Any, ...]:
    """What changed since `seen`, and the hardware now; everything else is left as it is."""
    found = live.all_runs()
    if not found:
        return (NO_RUNS, gr.Button(visible=True), gr.Row(visible=False), *_skip(9), "")
    run_id = known_or_newest(run_id, found)
    watched, tail = live.watch(run_id), live.log_tail(run_id)
    now = [str(hash(tuple(run_view.line(run) for run in found))), watched.version, str(watched.curves.steps[-1:]), tail.version]
    before = seen.split("|") if seen else []
    same = [old == new for old, new in zip(before, now, strict=False)] if len(before) == len(now) else [False] * 4
    return (
        gr.skip() if same[0] else run_view.overview(found),
        gr.skip() if same[0] else gr.Button(visible=False),
        gr.skip() if same[0] else gr.Row(visible=True),
        gr.skip() if same[0] and same[1] else gr.Radio([(run_view.line(run), run.run_id) for run in found], value=run_id),
        gr.skip() if same[1] else run_view.status(watched),
        *(_skip(3) if same[1] else _buttons(watched.run)),
        gr.skip() if same[1] and same[2] else run_view.curves_of(watched),
        *(_skip(2) if same[1] and same[3] else run_view.log(tail)),
        gpu_panel.panel(usage.usage()),
        "|".join(now),
    )


def known_or_newest(run_id: str, found: list[Run]) -> str:
    return run_id if any(run.run_id == run_id for run in found) else found[0].run_id


def _skip(number: int) -> tuple[Any, ...]:
    return (gr.skip(),) * number


def _buttons(run: Run) -> tuple[gr.Button, gr.Button, gr.Button]:
    can_stop = run.state in ("running", "queued")
    can_resume = run.state in ("failed", "cancelled", "interrupted")
    from_step = f" from step {run.optimizer_step:,}" if run.stage == "train" and run.optimizer_step else ""
    return (
        gr.Button("Stopping" if run.state == "stopping" else "Stop run", visible=can_stop or run.state == "stopping", interactive=can_stop),
        gr.Button(f"Resume{from_step}", visible=can_resume),
        gr.Button(visible=bool(run.artifacts) and run.is_terminal, variant="primary" if run.state == "done" else "secondary"),
    )


@allowed("public")
def choose(run_id: str) -> str:
    return run_id


@allowed("owner")
def stop_chosen(run_id: str) -> tuple[()]:
    runs.stop(known_or_newest(run_id, live.all_runs()))
    return ()


@allowed("owner")
def resume_chosen(run_id: str) -> tuple[()]:
    runs.start(known_or_newest(run_id, live.all_runs()))
    return ()


@allowed("public")
def open_train() -> gr.Tabs:
    return gr.Tabs(selected=TRAIN)


@allowed("public")
def open_models() -> gr.Tabs:
    return gr.Tabs(selected=MODELS)


@allowed("public")
def run_status(run_id: str) -> dict[str, Any]:
    """Where a run stands: its state, stage, step, losses, notes and error."""
    watched = live.watch(run_id)
    run = watched.run
    losses = sorted(run.losses.items())
    return {
        "run_id": run.run_id,
        "name": run.name,
        "method": run.method,
        "state": run.state,
        "stage": run.stage,
        "step": run.optimizer_step,
        "max_steps": run.max_steps,
        "loss": losses[-1][1] if losses else None,
        "evals": [[step, loss] for step, loss in sorted(run.evals.items())],
        "remaining_s": watched.remaining_s(),
        "steps": {step.name: {"state": step.state, "elapsed_s": step.elapsed_s} for step in run.steps},
        "artifacts": [{"id": entry["id"], "kind": entry["kind_of"]} for entry in run.artifacts],
        "facts": run.facts,
        "notes": [feedback.for_page(note) for note in run.notes],
        "error": feedback.as_user_error(UserError.from_dict(run.error)).as_dict() if run.error else None,
    }


@allowed("owner")
def stop_run(run_id: str) -> dict[str, Any]:
    """Ask a run to save a checkpoint and end; answers when nothing of it is left running."""
    run = runs.stop(run_id)
    return {"run_id": run.run_id, "state": run.state, "step": run.optimizer_step}

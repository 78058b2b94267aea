"""The Runs tab: every run, live. All of it is read from disk, so a reload, a second window or a restart of the app shows the same."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import gradio as gr

from core import usage
from core.errors import UserError
from core.events import Run, described
from core.jobs import dispatch
from core.running import care, live, relief, runs
from ui import feedback, first_run, gpu_panel, picks, run_details, run_kept, run_view
from ui.access import Caller, allowed
from ui.shell import MODELS, RUNS, Shell, listen_api
from ui.train_estimate import knobs_said
from ui.view import empty

NO_RUNS = empty("No run yet.", "Choose a dataset and a model under Train; the run appears here the moment it starts, and stays.")


def build(shell: Shell) -> None:
    with gr.Row(equal_height=False, elem_classes=["opening"]):
        with gr.Column(scale=4, min_width=260):
            lead = gr.HTML(NO_RUNS, container=False, padding=False, elem_id="runs-sentence")
        with gr.Column(scale=1, min_width=230, elem_classes=["opening-action"]):
            to_train = gr.Button(first_run.VERB, variant="primary", visible=False)
            move = gr.Button("Move up in the queue", visible=False, elem_id="runs-move")
            stop = gr.Button("Stop run", variant="stop", visible=False, elem_id="runs-stop")
            fit = gr.Button("Resume with what fits", variant="primary", visible=False, elem_id="runs-fit")
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
            details = run_details.build(shell, slot)
    back = run_kept.build_back(shell, slot)
    seen = gr.State("")  # what this page shows already: ids and offsets only
    buttons = {"to_train": to_train, "move": move, "stop": stop, "fit": fit, "resume": resume, "to_models": to_models}
    views = {"lead": lead, "body": body, "chosen": chosen, "status": status, "plots": plots, "log_title": log_title, "log": log}
    views["back"] = back
    live_slot = feedback.slot()
    shell.listen(
        [shell.timers[RUNS].tick, shell.demo.load, shell.tab[RUNS].select, shell.run_id.change],
        look,
        inputs=[shell.run_id, seen],
        outputs=buttons | views | details | {"hardware": hardware, "seen": seen},
        slot=live_slot,
        queue=False,
    )
    shell.listen(chosen.input, choose, inputs=chosen, outputs=shell.run_id, slot=slot, queue=False)
    shell.listen(move.click, move_up, inputs=shell.run_id, slot=slot)
    shell.listen(stop.click, stop_chosen, inputs=shell.run_id, slot=slot, concurrency_limit=4)
    shell.listen(resume.click, resume_chosen, inputs=shell.run_id, slot=slot)
    shell.listen(fit.click, resume_fitting, inputs=[shell.run_id, shell.dataset_id], outputs=[shell.form, shell.tabs], slot=slot)
    shell.listen(to_train.click, first_run.open_train, outputs=shell.tabs, slot=slot, queue=False)
    shell.listen(to_models.click, open_models, outputs=shell.tabs, slot=slot, queue=False)
    listen_api(run_status, "run_status")
    listen_api(stop_run, "stop_run")


@allowed("public")
def look(run_id: str, seen: str, caller: Caller) -> dict[str, Any]:
    """What changed since `seen`, and the hardware now; everything else is left as it is."""
    found = live.all_live()
    back = {"back": gr.Accordion(visible=caller.may("owner"))}
    if not found:
        return back | {"lead": NO_RUNS, "to_train": gr.Button(visible=True), "body": gr.Row(visible=False), "seen": ""} | _no_buttons()
    run_id = picks.shown_run(run_id)
    watched, tail = next(one for one in found if one.run.run_id == run_id), live.log_tail(run_id)
    stalled_s = watched.stalled_s()
    lines = [run_view.line(one) for one in found]
    version = f"{watched.version}:{'' if stalled_s is None else stalled_s // 60}"
    points, buttons = str(watched.curves.steps[-1:]), _buttons_of(watched.run)
    now = [run_id, str(hash(tuple(lines))), version, points, tail.version, buttons, run_details.version(watched.run)]
    changed = [old != new for old, new in zip_longest(seen.split("|")[: len(now)], now)]
    is_other, is_listed_anew, is_new, has_points, has_lines, has_buttons, has_details = changed
    shown: dict[str, Any] = {"hardware": gpu_panel.panel(usage.usage()), "seen": "|".join(now)}
    if is_listed_anew or is_other:
        shown |= back | {
            "lead": run_view.overview([one.run for one in found]),
            "to_train": gr.Button(visible=False),
            "body": gr.Row(visible=True),
        }
        shown["chosen"] = gr.Radio([(line, one.run.run_id) for line, one in zip(lines, found, strict=True)], value=run_id)
    if is_new or is_other:
        shown["status"] = run_view.status(watched)
    if has_buttons or is_other:
        shown |= _buttons(watched.run)
    if has_details or is_other:
        shown |= run_details.of_run(watched, found, caller, is_other=is_other)
    if is_other or has_points or is_new:
        shown["plots"] = run_view.curves_of(watched)
    if is_other or has_lines:
        shown["log_title"], shown["log"] = run_view.log(tail) if caller.may("owner") else run_view.LOG_KEPT_BACK
    return shown


def _no_buttons() -> dict[str, gr.Button]:
    return {name: gr.Button(visible=False) for name in ("move", "stop", "fit", "resume", "to_models")}


def _buttons_of(run: Run) -> str:
    """Changes when the buttons do. They are left alone otherwise: one that is drawn anew under the pointer loses its click."""
    step = run.optimizer_step if run.is_terminal else ""
    return f"{run.state}:{step}:{run.progress.get('place', '')}:{len(run.artifacts)}"


def _buttons(run: Run) -> dict[str, gr.Button]:
    can_stop = run.state in ("running", "queued") or dispatch.may_go_on(run)
    can_resume = run.state in ("failed", "cancelled", "interrupted")
    from_step = f" from step {run.optimizer_step:,}" if run.stage == "train" and run.optimizer_step else ""
    stop = "Stopping" if run.state == "stopping" else "Leave the queue" if run.state == "queued" else "Stop run"
    return {
        "move": gr.Button(visible=run.state == "queued" and int(run.progress.get("place") or 0) > 1),
        "stop": gr.Button(stop, visible=can_stop or run.state == "stopping", interactive=can_stop),
        "fit": gr.Button(_fitting(run), visible=bool(run.change)),
        "resume": gr.Button(f"Resume{from_step}", visible=can_resume, variant="secondary" if run.change else "primary"),
        "to_models": gr.Button(visible=bool(run.artifacts) and run.is_terminal, variant="primary" if run.state == "done" else "secondary"),
    }


def _fitting(run: Run) -> str:
    """The button that takes the change with which a run would fit."""
    knobs: dict[str, Any] = run.change.get("knobs") or {}
    return f"{'Resume' if relief.is_in_place(knobs) else 'Set up a run'} with {knobs_said(knobs)}"


@allowed("public")
def choose(run_id: str) -> str:
    return run_id


@allowed("owner")
def move_up(run_id: str) -> tuple[()]:
    """One place nearer to the front of the queue."""
    run_id = picks.shown_run(run_id)
    run = live.watch(run_id).run
    care.move(run_id, int(run.progress.get("place") or 1) - 1)
    return ()


@allowed("owner")
def stop_chosen(run_id: str, caller: Caller) -> tuple[()]:
    dispatch.stop(picks.shown_run(run_id), caller.token)
    return ()


@allowed("owner")
def resume_chosen(run_id: str, caller: Caller) -> tuple[()]:
    runs.start(picks.shown_run(run_id), caller.token)
    return ()


@allowed("owner")
def resume_fitting(run_id: str, dataset_id: str, caller: Caller) -> tuple[Any, Any]:
    """Go on with the change that fits; where a run cannot go on with it, its recipe with the change is in the Train tab's form."""
    run_id = picks.shown_run(run_id)
    knobs: dict[str, Any] = live.watch(run_id).run.change.get("knobs") or {}
    if not relief.is_in_place(knobs) or runs.is_elsewhere(runs.folder(run_id)):
        return run_details.in_form(run_id, dataset_id, knobs)
    runs.start(run_id, caller.token, fit=True)
    return gr.skip(), gr.skip()


@allowed("public")
def open_models() -> gr.Tabs:
    return gr.Tabs(selected=MODELS)


@allowed("public")
def run_status(run_id: str) -> dict[str, Any]:
    """Where a run stands: its state, stage, step, losses, notes and error."""
    watched = live.watch(run_id)
    run = watched.run
    return described(run) | {
        "loss": run.loss,
        "remaining_s": watched.remaining_s(),
        "stalled_s": watched.stalled_s(),
        "artifacts": [{"id": entry["id"], "kind": entry["kind_of"]} for entry in run.artifacts],
        "notes": [feedback.for_page(note) for note in run.notes],
        "error": feedback.as_user_error(UserError.from_dict(run.error)).as_dict() if run.error else None,
    }


@allowed("owner")
def stop_run(run_id: str, caller: Caller) -> dict[str, Any]:
    """Ask a run to save a checkpoint and end; answers when nothing of it is left running."""
    run = dispatch.stop(run_id, caller.token)
    return {"run_id": run.run_id, "state": run.state, "step": run.optimizer_step}

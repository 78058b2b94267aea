"""What else there is to a run, in closed sections: answers by step, other runs beside it, a note, its files, its end."""

from __future__ import annotations

import shlex
from typing import Any

import gradio as gr

from core.events import Run
from core.running import bundle, care, compare, live, runs, sync
from core.running.live import Live
from core.training.launch import PROJECT
from ui import downloads, form, picks, run_kept, run_sync, run_view
from ui.access import Caller, allowed
from ui.shell import TRAIN, Shell
from ui.train_handlers import DEFAULT, HANDED_OVER
from ui.view import count, size, text

MOST_COMPARED = 4  # runs in one plot
OF_THE_DATA = ("dataset", "eval_dataset", "sample_prompts")  # knobs
Shown = dict[str, Any]


def build(shell: Shell, slot: gr.HTML) -> Shown:
    """Lay the sections out and attach their handlers; returns what `of_run` fills, by name."""
    with gr.Column(elem_classes=["sections", "part-of-tab"]):
        with gr.Accordion("Answers as it learnt", open=False, visible=False, elem_classes=["group"], elem_id="runs-answers") as answers:
            samples = gr.HTML("", container=False, padding=False)
        with gr.Accordion("Compare with other runs", open=False, visible=False, elem_classes=["group"], elem_id="runs-compare") as beside:
            others = gr.CheckboxGroup([], label=f"Up to {MOST_COMPARED - 1} other runs")
            compared = gr.HTML("", container=False, padding=False)
        with gr.Accordion("Note", open=False, elem_classes=["group"], elem_id="runs-note") as note:
            help_text = "What you want to remember about this run. It stays with the run and is not published."
            remark = gr.Textbox("", label="Your note", info=help_text, lines=3, max_lines=12, max_length=care.LONGEST_REMARK)
            with gr.Row(elem_classes=["actions"]):
                save = gr.Button("Save the note", scale=0, min_width=160)
        more = run_kept.build(shell, slot) | run_sync.build(shell, slot)
        with gr.Accordion("Recipe, logs and deletion", open=False, elem_classes=["group"], elem_id="runs-files") as files:
            facts = gr.HTML("", container=False, padding=False)
            with gr.Row(elem_classes=["actions"]):
                again = gr.Button("Set up a run like this", scale=0, min_width=200)
                download = gr.Button("Download the logs", scale=0, min_width=180)
                delete = gr.Button("Delete this run", scale=0, min_width=160, elem_id="runs-delete")
            with gr.Column(visible=False, elem_id="runs-confirm") as confirm:
                question = gr.HTML("", container=False, padding=False)
                with gr.Row(elem_classes=["actions"]):
                    really = gr.Button("Delete for good", variant="stop", scale=0, min_width=160)
                    keep = gr.Button("Keep it", scale=0, min_width=120)
    file = downloads.link("runs-file")
    asked = gr.State("")  # the run that the question is about
    shell.listen(others.input, compare_with, inputs=[shell.run_id, others], outputs=compared, slot=slot)
    shell.listen(save.click, save_remark, inputs=[shell.run_id, remark], outputs=note, slot=slot)
    shell.listen(again.click, clone, inputs=[shell.run_id, shell.dataset_id], outputs=[shell.form, shell.tabs], slot=slot)
    shell.listen(download.click, pack_logs, inputs=shell.run_id, outputs=file, slot=slot, concurrency_limit=2)
    shell.listen(delete.click, ask_to_delete, inputs=shell.run_id, outputs=[asked, question, confirm], slot=slot)
    shell.listen(keep.click, keep_run, outputs=[asked, confirm], slot=slot)
    shell.listen(really.click, delete_run, inputs=asked, outputs=[asked, confirm, shell.run_id], slot=slot)
    return {
        "answers": answers,
        "samples": samples,
        "beside": beside,
        "others": others,
        "compared": compared,
        "note": note,
        "remark": remark,
        "files": files,
        "facts": facts,
        "asked": asked,
        "confirm": confirm,
        **more,
    }


def version(run: Run) -> str:
    """Changes when `of_run` has something new to show."""
    trackers = f"{sync.has_offline(run.run_id)}{bundle.has_trackio(run.run_id)}"
    return f"{len(run.samples)}:{hash(run.remark)}:{run.state}:{len(run.artifacts)}:{hash(str(run.kept))}:{trackers}"


def of_run(watched: Live, found: list[Live], caller: Caller, *, is_other: bool) -> Shown:
    """The sections of a run that has changed. What the person is typing or choosing is left alone unless the run is another."""
    run = watched.run
    is_owner = caller.may("owner")
    shown: Shown = {"answers": gr.Accordion(visible=is_owner and bool(run.samples)), "samples": run_view.samples(run) if is_owner else ""}
    shown |= {"note": gr.Accordion(label=note_title(run.remark if is_owner else ""), visible=is_owner), "facts": _facts(run, caller)}
    shown |= run_kept.of_run(run, caller) | run_sync.of_run(run, caller, is_other=is_other)
    if is_other:
        choices = [
            (f"{one.run.name} · {one.run.run_id}", one.run.run_id) for one in found if one.run.run_id != run.run_id and one.curves.steps
        ]
        shown |= {"others": gr.CheckboxGroup(choices, value=[]), "beside": gr.Accordion(visible=bool(choices)), "compared": ""}
        shown |= {"remark": run.remark if is_owner else "", "asked": "", "confirm": gr.Column(visible=False)}
    return shown


def note_title(remark: str) -> str:
    first = remark.strip().partition("\n")[0]
    return f"Note: {first[:60]}{'…' if len(first) > 60 else ''}" if first else "Note"


def _facts(run: Run, caller: Caller) -> str:
    """What the run takes on the disk, and how to look at it in TensorBoard or trackio."""
    models = f", {count(len(run.artifacts), 'model')} among it" if run.artifacts else ""
    takes = f"{size(care.size_bytes(run.run_id))} on the disk{models}."
    home = shlex.quote(str(runs.folder(run.run_id)) if caller.is_local else run.run_id)
    whence = "" if caller.is_local else ", in the folder that the download of the logs unpacks to"
    shown = f'<p class="sum">{text(takes)} Its curves in TensorBoard{whence}:</p>{_command(f"tensorboard --logdir {home}/tensorboard")}'
    if bundle.has_trackio(run.run_id):
        shown += f'<p class="sum">In trackio:</p>{_command(f"TRACKIO_DIR={home}/trackio trackio show --project {PROJECT}")}'
    return shown


def _command(words: str) -> str:
    return f'<pre class="command">{text(words)}</pre>'


@allowed("public")
def compare_with(run_id: str, others: list[str], caller: Caller) -> str:
    """The losses of several runs in one plot, and in what their recipes differ; what they say of the owner's data is the owner's to see."""
    if not others:
        return ""
    chosen = [picks.shown_run(run_id), *others[: MOST_COMPARED - 1]]
    watched = [live.watch(one) for one in chosen]
    more = f'<p class="quiet">Only the first {MOST_COMPARED - 1} are shown.</p>' if len(others) >= MOST_COMPARED else ""
    found = [one for one in compare.differences(chosen) if caller.may("owner") or one.name not in OF_THE_DATA]
    return more + run_view.overlay(watched) + run_view.differences(watched, found)


@allowed("owner")
def save_remark(run_id: str, remark: str) -> gr.Accordion:
    """Keep the note with its run."""
    care.remark(picks.shown_run(run_id), remark)
    return gr.Accordion(label=note_title(remark))


@allowed("owner")
def clone(run_id: str, dataset_id: str) -> tuple[dict[str, Any], gr.Tabs]:
    """The run's recipe in the Train tab's form."""
    return in_form(picks.shown_run(run_id), dataset_id)


def in_form(run_id: str, dataset_id: str, knobs: dict[str, Any] | None = None) -> tuple[dict[str, Any], gr.Tabs]:
    """The recipe of a run with `knobs` changed, handed over to the Train tab's form, and that tab."""
    values = form.to_values(runs.recipe_of(run_id).model_copy(update=knobs or {}))
    return {"preset": DEFAULT, "values": values, "carried": dataset_id, HANDED_OVER: True}, gr.Tabs(selected=TRAIN)


@allowed("owner")
def pack_logs(run_id: str) -> str:
    """Events, logs, recipe, TensorBoard and trackio files of the run in one file, without secrets."""
    run_id = picks.shown_run(run_id)
    path = downloads.place(f"{run_id}-logs", ".zip")
    bundle.write_logs(run_id, path)
    return str(path)


@allowed("owner")
def ask_to_delete(run_id: str) -> tuple[str, str, gr.Column]:
    """What would be lost; nothing is deleted yet."""
    run_id = picks.shown_run(run_id)
    run = live.watch(run_id).run
    models = f", with {count(len(run.artifacts), 'model')}" if run.artifacts else ""
    lost = f"{run.name} ({run_id}){models} and its checkpoints: {size(care.size_bytes(run_id))}. There is no way back."
    return run_id, f'<p class="sum">Delete {text(lost)}</p>', gr.Column(visible=True)


@allowed("public")
def keep_run() -> tuple[str, gr.Column]:
    return "", gr.Column(visible=False)


@allowed("owner")
def delete_run(asked: str) -> tuple[str, gr.Column, str]:
    """Delete the run that the question was about, and show another."""
    care.delete(asked)
    return "", gr.Column(visible=False), ""

"""The ladder's questions: which level for so many GB, for so good a model, for this machine; and the levels measured on one's own text."""

from __future__ import annotations

import threading
from typing import Any

import gradio as gr

from core.errors import UserError
from core.export import ladder
from core.export.artifacts import Artifact
from core.export.gguf import reference_in
from core.export.native_support import free_bytes
from core.running import runs
from ui import background, feedback, models_adapter, models_view, picks
from ui.access import allowed
from ui.shell import Shell
from ui.view import meter, text

LONGEST_TEXT = 400_000  # characters
PATIENCE_S = 0.4  # so long a click waits for an end; what takes longer is looked at with the tab
_measured: dict[str, background.Going] = {}  # the last measuring of each run since the app was started
_starting, _alone = threading.Lock(), threading.Lock()  # one takes the whole machine, the others wait
BY_SIZE, BY_QUALITY, BY_MACHINE = "At most so many GB", "At least this quality", "For this machine"


def build(shell: Shell, run: Any) -> tuple[Any, ...]:
    """Lay it out; returns what `measuring` fills, which follows the tab's own looks: so a reload finds a measuring that goes on."""
    with gr.Column(elem_classes=["sections", "part-of-tab"]):
        with gr.Accordion("Which level should I take?", open=False, elem_classes=["group"], elem_id="models-pick"):
            with gr.Row():
                how = gr.Radio([BY_SIZE, BY_QUALITY, BY_MACHINE], value=BY_MACHINE, label="Pick the best one", elem_classes=["chips"])
            with gr.Row():
                gigabytes = gr.Number(4, minimum=0, label="Size at most (GB)", elem_id="pick-size", visible=False)
                share = gr.Slider(
                    50, 100, value=95, step=0.5, label="Same top token as f16 at least (%)", elem_id="pick-quality", visible=False
                )
            answer = gr.HTML("", container=False, padding=False, elem_id="models-advice")
        with gr.Accordion("Measure on a text of your own", open=False, elem_classes=["group"], elem_id="models-measure"):
            passage = gr.Textbox(label="Text", lines=4, max_lines=12, max_length=LONGEST_TEXT, elem_id="measure-text",
                                 info="Empty: the conversations that were not trained on. The figures above are then those of the run itself.")  # fmt: skip
            with gr.Row(elem_classes=["actions"]):
                go = gr.Button("Measure the levels", scale=0, min_width=200, elem_id="measure-go")
                halt = gr.Button("Cancel", interactive=False, scale=0, min_width=120, elem_id="measure-cancel")
            state = gr.HTML("", container=False, padding=False, elem_id="measure-state")
        models_adapter.build(shell, run)
    slot = feedback.slot()
    knobs = [run, how, gigabytes, share]
    changes = [how.input, gigabytes.change, share.release, run.change]
    shell.listen(how.input, ask, inputs=how, outputs=[gigabytes, share], slot=slot, queue=False, trigger_mode="multiple")
    shell.listen(changes, advise, inputs=knobs, outputs=answer, slot=slot, queue=False)
    shown = (state, go, halt)
    shell.listen(go.click, measure_run, inputs=[run, passage], outputs=shown, slot=slot, concurrency_limit=1)
    shell.listen(halt.click, cancelled, inputs=run, outputs=shown, slot=slot, queue=False)
    return shown


@allowed("public")
def ask(how: str) -> tuple[gr.Number, gr.Slider]:
    """What has to be known for this way to pick."""
    return gr.Number(visible=how == BY_SIZE), gr.Slider(visible=how == BY_QUALITY)


@allowed("public")
def advise(run_id: str | None, how: str, gigabytes: float | None, share: float) -> str:
    """The level to take, in a sentence, or why there is none."""
    if not run_id:
        return ""
    levels = [artifact for artifact in picks.of_run(run_id) if artifact.kind == "gguf"]
    if not any(map(ladder.is_measured, levels)):
        return '<p class="quiet">No level has been measured yet; measure them below.</p>'
    if how == BY_SIZE:
        found = ladder.best_within(levels, (gigabytes or 0) * 1e9)
    elif how == BY_QUALITY:
        found = ladder.smallest_with(levels, share / 100)
    else:
        found = ladder.best_in_memory(levels, free_bytes())
    return models_view.advice(found)


def levels_of(run_id: str) -> tuple[list[Artifact], Artifact]:
    """The run's levels, and the one among them that the others are measured against, as in the run's own step.

    Raises:
        UserError: no such run, or it has no f16 level.
    """
    levels = [artifact for artifact in picks.of_run(run_id) if artifact.kind == "gguf"]
    reference = reference_in(runs.folder(run_id) / "artifacts")
    if reference is None:
        raise UserError("KL is measured against the model's own f16, which is not there.", "measuring", "Quantise the level f16 first.")
    return levels, reference


@allowed("owner")
def measure_run(run_id: str, passage: str) -> tuple[Any, ...]:
    """Measure every level of the run, whoever watches; what was measured on the same text before is not measured again."""
    from core.export.measure import measure as measure_levels
    from core.training.samples import conversations_of

    levels, reference = levels_of(run_id)
    is_text = bool((passage or "").strip())
    conversations = [] if is_text else conversations_of(runs.folder(run_id))[1]
    max_length = None if is_text else runs.recipe_of(run_id).max_length  # as the run measured, so that its own figures are found again

    def work(on_progress: Any) -> None:
        finished: set[str] = set()

        def watch(event: dict[str, Any]) -> None:
            if event["event"] == "measured":
                finished.add(event["id"])
            part = event["done"] / max(1, event["total"]) if event["event"] == "progress" else 0
            on_progress(int(1000 * (len(finished) + part)), 1000 * len(levels))

        with _alone:
            on_progress(0, 1000 * len(levels))
            measure_levels(levels, reference, conversations, text=passage if is_text else None, max_length=max_length, on_event=watch)

    with _starting:
        going = _measured.get(run_id)
        if going is None or going.is_over or going.is_stopped:
            going = _measured[run_id] = background.Going(work)
    going.wait(PATIENCE_S)
    return measuring(run_id)


@allowed("owner")
def cancelled(run_id: str) -> tuple[Any, ...]:
    if (going := _measured.get(run_id)) and not going.is_over:
        going.stop()
    return measuring(run_id)


def measuring(run_id: str) -> tuple[str, gr.Button, gr.Button]:
    """How far the measuring of a run is, or how the last one ended since the app was started; and its two buttons."""
    going = _measured.get(run_id)
    is_going = going is not None and not going.is_over and not going.is_stopped
    return _said(going), gr.Button(interactive=not is_going), gr.Button(interactive=is_going)


def measuring_version(run_id: str) -> str:
    """Changes whenever `measuring` does."""
    going = _measured.get(run_id)
    return f"{going.began_s} {going.work.done} {going.is_over} {going.is_stopped}" if going else ""


def _said(going: background.Going | None) -> str:
    if going is None:
        return ""
    if going.is_stopped:
        return '<p class="quiet" role="status">Cancelled; the levels that were finished keep their new figures.</p>'
    if not going.is_over:
        done = going.work.done / going.work.total if going.work.total else 0.0
        said = f"{min(1.0, done):.0%} of the measuring is done".replace("%", " %")
        return f"{meter(min(1.0, done), said)}<p class='quiet' role='status'>{text(said)}</p>"
    if isinstance(going.failure, Exception):
        going.failure = feedback.as_user_error(going.failure)  # once, as what was not foreseen goes to the log
        return feedback.card(going.failure)
    return '<p class="quiet" role="status">Measured.</p>'

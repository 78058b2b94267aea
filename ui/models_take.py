"""A model that was not trained here, taken in from the Hub or a folder: converted, quantised, measured and proved as a run of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.running import runs, taking
from ui import background, feedback, form, train_hub
from ui import train_data as data
from ui.access import Caller, allowed
from ui.shell import MODELS, RUNS, Shell
from ui.view import duration, meter, text

TITLE = "Quantise a model that was not trained here"
MODEL_HELP = (
    "A Hub id such as lmsys/vicuna-7b-v1.5, or at this machine the folder of a model: safetensors, of an architecture in transformers."
)
DATA_HELP = "What the levels are measured on, and an importance matrix is made of. Conversations like those it will have say most."
LEVELS_HELP = "f16 is what the others are compared with. More can be made later."
FIRST = ["f16", "q8_0", "Q4_K_M", "q4_0"]
QUESTIONS = form.EXAMPLES + "identity_eval.json"


def build(shell: Shell) -> None:
    """The section; it is the owner's."""
    with gr.Accordion(TITLE, open=False, visible=False, elem_classes=["group"], elem_id="models-take") as section:
        with gr.Row(elem_classes=["fields"]):
            with gr.Column(elem_classes=["knob"]):
                model = gr.Dropdown([], value=None, label="Model", info=MODEL_HELP, allow_custom_value=True, elem_id="take-model")
                searched = gr.HTML("", container=False, padding=False)
            with gr.Column(elem_classes=["knob"]):
                questions = gr.Dropdown([], value=None, label="Conversations", info=DATA_HELP, elem_id="take-data")
            with gr.Column(elem_classes=["knob", "wide"]):
                levels = gr.Dropdown(
                    form.choices("levels"), value=FIRST, multiselect=True, label="Levels", info=LEVELS_HELP, elem_id="take-levels"
                )
        with gr.Row(elem_classes=["actions"]):
            go = gr.Button("Take it in and quantise", scale=0, min_width=220, elem_id="take-go")
        progress = gr.HTML("", container=False, padding=False, elem_classes=["working"])
    slot = feedback.slot()
    train_hub.add(shell, model, searched)
    opening = [shell.demo.load, shell.tab[MODELS].select]
    shell.listen(opening, offer, inputs=[model, questions], outputs=[section, model, questions], slot=slot, queue=False)
    shell.listen(
        go.click, take, inputs=[model, questions, levels], outputs=[progress, shell.run_id, shell.tabs], slot=slot, concurrency_limit=2
    )


@allowed("public")
def offer(model: str | None, questions: str | None, caller: Caller) -> tuple[gr.Accordion, Any, Any]:
    """What can be chosen now; what was chosen or typed stays."""
    if not caller.may("owner"):
        return gr.Accordion(visible=False), gr.skip(), gr.skip()
    return (
        gr.Accordion(visible=True),
        gr.Dropdown(form.choices("base_model"), value=model),
        gr.Dropdown(form.choices("dataset", caller), value=questions or QUESTIONS),
    )


@allowed("owner")
def take(model: str | None, questions: str | None, levels: list[str], caller: Caller) -> Iterator[tuple[Any, ...]]:
    """Fetch the model, with a word while that lasts, and start the run; then on to Runs."""
    values = form.to_values(taking.recipe_of(model or "", levels, questions or QUESTIONS))
    recipe = data.recipe_of(values, caller)

    def start() -> str:
        run_id = taking.create(recipe, caller.token, caller.name)
        runs.start(run_id)
        return run_id

    for work in background.watch(lambda _: start(), patience_s=1.0):
        if work.is_finished:
            yield "", work.result, gr.Tabs(selected=RUNS)
        else:
            label = f"Fetching {recipe.base_model}, {duration(work.elapsed_s)} so far"
            yield f'{meter(1.0, label)}<p class="quiet" role="status">{text(label)}</p>', gr.skip(), gr.skip()

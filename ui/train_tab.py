"""The Train tab: choose a method, adjust the recipe, see the exact command, start. The form is generated from `Recipe`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.training.presets import PRESETS
from ui import (
    feedback,
    form,
    methods,
    train_estimate,
    train_export,
    train_hub,
    train_machines,
    train_origin,
    train_probe,
    train_publish,
    train_rented,
)
from ui import train_handlers as on
from ui.opening import opening
from ui.shell import TRAIN, Shell, listen_api
from ui.train_data import places
from ui.view import sentence, text

VERB = "Start training"
PRESET_HELP = "A whole recipe to begin with. The published ones equal their sources value by value; change what you like afterwards."
PLACE_HELP = (
    "A rented machine runs as your own job on the Hub: data and recipe go to a private repository of yours, results come back here. "
    "It has a time limit of three times what the recipe is expected to take."
)
FILES = "Distribution files"
FILES_SAID = (
    "What the launcher is given for this recipe where it has more than one process. To change it, take it into the fields beneath; "
    "it is then checked by accelerate before a start, kept with the run, and part of every export."
)
TITLES = {
    "demo": "Demo: QLoRA on the starter, two minutes",
    "fastchat-fft": "FastChat: full fine-tune of Llama 2 7B, four GPUs",
    "article-fft": "The article's full fine-tune: Vicuna 7B 16k, one epoch",
    "autotrain-sft": "AutoTrain: SFT with a 4-bit adapter, 2023 defaults",
    "last-layers-sft": "SFT of the last two layers: Vicuna 7B",
    "mlabonne-qlora": "mlabonne's QLoRA notebook: Llama 2 7B chat",
    "fastchat-qlora-zero2": "FastChat: QLoRA with DeepSpeed ZeRO-2",
    "fastchat-lora-zero3": "FastChat: LoRA with DeepSpeed ZeRO-3",
}


def build(shell: Shell) -> None:
    """Lay the tab out and attach its handlers."""
    begin = on.fresh()
    values = begin["values"]
    top = opening(TRAIN, VERB, sentence("Choose a dataset to train on."))
    slot = feedback.slot()
    progress = gr.HTML("", container=False, padding=False, elem_classes=["working"])
    adapt = gr.Button("Adapt the recipe to this machine", visible=False, size="sm", elem_id="train-adapt")
    estimate = train_estimate.add(shell)
    train_probe.add(shell, slot, estimate)
    made = form.Form()
    with gr.Row(elem_classes=["fields"], equal_height=False):
        with gr.Column(min_width=320):
            presets = [(TITLES.get(name, name), name) for name in PRESETS]
            preset = gr.Dropdown(presets, value=begin["preset"], label="Preset", info=PRESET_HELP, elem_id="train-preset")
            suggest = gr.Button("Suggest settings for this model and machine", size="sm", elem_id="train-suggest")
        with gr.Column(min_width=320):
            place = gr.Dropdown(places(), value=begin["place"], label="Where it runs", info=PLACE_HELP, elem_id="train-place")
    where = train_rented.fields() | train_machines.fields()
    with gr.Accordion("Where this preset comes from", open=False, elem_classes=["group"], elem_id="train-origin-group"):
        origin = gr.HTML(train_origin.origin(begin["preset"]), container=False, padding=False, elem_id="train-origin")
    gr.HTML('<h2 class="part">Method</h2>', container=False, padding=False)
    made.fields["method"] = gr.Radio(
        methods.CHOICES,
        value=values["method"],
        label="Method",
        show_label=False,
        container=False,
        elem_classes=["chips"],
        elem_id="knob-method",
    )
    comparison = gr.HTML(methods.comparison(values), container=False, padding=False, elem_id="train-methods")
    gr.HTML('<h2 class="part">The recipe</h2>', container=False, padding=False)
    form.add(made, form.short_names(), values)
    for group in form.group_names():
        with gr.Accordion(group, open=False, elem_classes=["group"]) as made.groups[group]:
            if group == FILES:
                gr.HTML(f'<p class="quiet">{text(FILES_SAID)}</p>', container=False, padding=False)
                launch_file = gr.Code("", language="yaml", label="accelerate's file as it stands", interactive=False, elem_id="train-file")
                launch_settings = gr.Code("", language="json", label="DeepSpeed's file as it stands", interactive=False, visible=False)
                edit = gr.Button("Edit these files", size="sm", elem_id="train-edit-files")
            form.add(made, form.in_group(group), values)
            if group == "After training":
                train_publish.add(shell, made)
    with gr.Accordion("The exact command and recipe file", open=False, elem_classes=["group"]):
        command = gr.Code("", language="shell", label="Command", interactive=False, elem_id="train-command")
        yaml = gr.Code("", language="yaml", label="recipe.yaml", interactive=False, elem_id="train-yaml")
    train_export.add(shell, slot)
    shared = {
        "kept": shell.form,
        "preset": preset,
        "place": place,
        **where,
        "comparison": comparison,
        "adapt": adapt,
        "make_fit": estimate["fit"],
        "origin": origin,
        "launch_file": launch_file,
        "launch_settings": launch_settings,
        "edit": edit,
        "suggest": suggest,
        "command": command,
        "yaml": yaml,
    }
    travelling = {"progress": progress, "run_id": shell.run_id, "tabs": shell.tabs}
    train_hub.add(shell, made.fields["base_model"], made.errors["base_model"])
    _attach(shell, made, shared | travelling | top.named | made.named, slot)
    shell.listen(
        top.action.click, on.start, inputs=shell.form, inputs_kwargs=made.fields, outputs=travelling, slot=slot, concurrency_limit=2
    )
    listen_api(on.start_run, "start_run")
    listen_api(train_estimate.estimate, "estimate")


def _attach(shell: Shell, made: form.Form, at: dict[str, Any], slot: gr.HTML) -> None:
    state, fields = at["kept"], made.fields
    typed = [component.input for name, component in fields.items() if name != "method"]
    judged: dict[str, Any] = {"inputs": state, "inputs_kwargs": fields, "outputs": at, "slot": slot}
    shell.listen(typed, on.check, **judged)
    shell.listen(fields["method"].input, on.choose_method, **judged)
    shell.listen(at["adapt"].click, on.adapt, **judged)
    shell.listen(at["make_fit"].click, on.fit, **judged)
    shell.listen(at["edit"].click, on.edit_files, **judged)
    shell.listen(at["suggest"].click, on.suggest, **judged)
    shell.listen(at["preset"].input, on.take_preset, **judged | {"inputs": [at["preset"], state]})
    asked = [at[f"rented {name}"] for name in train_rented.FRESH]
    shell.listen([each.input for each in asked], on.choose_rented, **judged | {"inputs": [*asked, state]})
    machines = [at[f"machines {name}"] for name in train_machines.FRESH]
    shell.listen([each.input for each in machines], on.choose_machines, **judged | {"inputs": [*machines, state]})
    shell.listen(at["place"].input, on.choose_place, **judged | {"inputs": [at["place"], state]})
    shell.listen(shell.demo.load, on.restore, inputs=[shell.dataset_id, state], outputs=at, slot=slot)
    shell.listen(shell.tab[TRAIN].select, on.arrive, **judged | {"inputs": [shell.dataset_id, state]})

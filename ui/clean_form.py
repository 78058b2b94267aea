"""The choice of repairs, generated from `core.data.repairs`: a checkbox for each, and fields for what can be set about it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from core.data.account import Effect
from core.data.dataset import Dataset
from core.data.repairs import REPAIRS, Chosen, Parameter

# What mends or drops what cannot be trained as it stands, and asks for no judgement; rows that say the same twice go too.
SAFE = (
    "fix-encoding", "strip-control", "strip-special", "merge-same-role", "drop-empty", "drop-leading-answer", "drop-trailing-question",
    "drop-rejected", "dedupe-exact",
)  # fmt: skip
MOST_ROLES = 12


def name_of(code: str, parameter: Parameter) -> str:
    """The name of a field among the values of the form."""
    return f"{code}.{parameter.name}"


def choices(effects: list[Effect] | None = None) -> list[tuple[str, str]]:
    """Every repair, with what it would do where that was counted."""
    known = {effect.code: effect for effect in effects or ()}
    return [(f"{repair.title}: {_done(known[code])}" if code in known else repair.title, code) for code, repair in REPAIRS.items()]


def _done(effect: Effect) -> str:
    parts = [
        f"changes {effect.num_changed:,}" if effect.num_changed else "",
        f"makes {effect.num_made:,} more" if effect.num_made else "",
        f"drops {effect.num_dropped:,}" if effect.num_dropped else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing to do"


def fields(codes: Iterable[str]) -> dict[str, Any]:
    """Lay out the fields of these repairs, those of one together; returns them by name, and the columns as ``CODE:``."""
    made: dict[str, Any] = {}
    for code in codes:
        repair = REPAIRS[code]
        if repair.parameters:
            with gr.Column(visible=code in SAFE, elem_classes=["options"], elem_id=f"options-{code}") as made[f"{code}:"]:
                gr.HTML(f'<h3 class="part">{repair.title}</h3>', container=False, padding=False)
                with gr.Row(elem_classes=["fields"], equal_height=False):
                    for parameter in repair.parameters:
                        made[name_of(code, parameter)] = _field(code, parameter)
    return made


def _field(code: str, parameter: Parameter) -> Any:
    label = f"{parameter.title} ({parameter.unit})" if parameter.unit else parameter.title
    said: dict[str, Any] = {"label": label, "info": parameter.help, "elem_id": f"option-{code}-{parameter.name}"}
    if isinstance(parameter.default, tuple):
        if parameter.choices:
            return gr.Dropdown(list(parameter.choices), value=list(parameter.default), multiselect=True, **said)
        said["info"] += " One a line."
        return gr.Textbox("\n".join(parameter.default), lines=2, max_lines=6, max_length=4000, **said)
    if isinstance(parameter.default, str):
        return gr.Dropdown(list(parameter.choices), value=parameter.default, **said)
    if isinstance(parameter.default, float):
        return gr.Number(parameter.default, minimum=0.05, maximum=1, step=0.05, **said)
    return gr.Number(parameter.default, precision=0, minimum=0, **said)


def shown_columns(codes: list[str]) -> dict[str, gr.Column]:
    """The fields of the repairs that are chosen; those of `SAFE` repairs have a place of their own."""
    return {f"{code}:": gr.Column(visible=code in codes) for code, repair in REPAIRS.items() if repair.parameters and code not in SAFE}


def chosen(codes: list[str] | None, values: dict[str, Any]) -> Chosen:
    """The repairs with their settings as `core.data.clean` takes them; an empty field takes the default."""
    return {
        code: {parameter.name: values.get(name_of(code, parameter)) for parameter in REPAIRS[code].parameters}
        for code in codes or ()
        if code in REPAIRS
    }


def counts_tokens(repairs: Chosen) -> bool:
    """Whether one of the repairs needs a tokenizer."""
    return any(
        parameter.unit == "tokens" and options.get(parameter.name) != 0
        for code, options in repairs.items()
        for parameter in REPAIRS[code].parameters
    )


def unknown_roles(dataset: Dataset) -> str:
    """Help for renaming roles: those of this dataset that nobody knows."""
    found = dict.fromkeys(issue.problem.partition('"')[2].rpartition('"')[0] for issue in dataset.findings("unknown-role")[:1000])
    names = ", ".join(list(found)[:MOST_ROLES])
    return f" In this dataset: {names}." if names else ""


def reset() -> dict[str, Any]:
    """The section as it begins with a dataset that was just opened: closed, with the repairs that ask for no judgement."""
    codes = list(SAFE)
    return {
        "clean": gr.Accordion(open=False),
        "repairs": gr.CheckboxGroup(choices(), value=codes),
        "total": "",
        "effects": "",
        "clean_progress": "",
        "make": gr.Button(interactive=False),
        **shown_columns(codes),
    }

"""What is typed into the model's field is looked for on the Hub; without a network the field takes an id all the same."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import UserError
from core.training import models
from ui import form
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import text

FEWEST = 3  # letters that are worth a search


def add(shell: Shell, field: gr.Dropdown, said: gr.HTML) -> None:
    """Let the model's `field` offer what the Hub has; `said` is the place beneath it. Gradio's always_last sends the first key again, not the last."""
    shell.listen(field.key_up, offer, outputs={"field": field, "said": said}, trigger_mode="multiple")


@allowed("public")
def offer(event: gr.EventData, caller: Caller) -> dict[str, Any]:
    """The choices of the field with those of the Hub that hold what was typed so far; nothing for who may not train here."""
    typed = str(getattr(event, "input_value", "")).strip()
    known = form.choices("base_model", caller)
    is_path = typed[:1] in ("/", "~", ".")
    if not caller.may("owner") or len(typed) < FEWEST or is_path or any(typed in choice for choice in known):
        return {}
    try:
        found = models.search(typed, caller.token)
    except UserError as error:
        return {"said": f'<p class="quiet" role="status">{text(f"{error.problem} {error.remedy}")}</p>'}
    listed = {value for _, value in known}
    return {"field": gr.Dropdown(choices=known + [(id, id) for id in found if id not in listed]), "said": ""}

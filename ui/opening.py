"""How every tab begins: one sentence a person would say, and beside it, always in the same place, the tab's one primary action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.view import text


@dataclass(frozen=True)
class Opening:
    """The top of a tab. `outputs` are what `said` gives values for, in that order."""

    sentence: gr.HTML
    action: gr.Button
    reason: gr.HTML

    @property
    def outputs(self) -> list[Any]:
        return [self.sentence, self.action, self.reason]

    @property
    def named(self) -> dict[str, Any]:
        """For a handler that returns a dict: `said_by_name` gives values for these."""
        return {"sentence": self.sentence, "action": self.action, "reason": self.reason}


def opening(tab_id: str, verb: str, lead: str) -> Opening:
    """The sentence `lead` (HTML of `ui.view`), the button `verb`, disabled until there is something to do, and room for the reason."""
    with gr.Row(equal_height=False, elem_classes=["opening"]):
        with gr.Column(scale=4, min_width=260):
            sentence = gr.HTML(lead, container=False, padding=False, elem_id=f"{tab_id}-sentence")
        with gr.Column(scale=1, min_width=230, elem_classes=["opening-action"]):
            action = gr.Button(verb, variant="primary", interactive=False, elem_id=f"{tab_id}-action")
            reason = gr.HTML("", container=False, padding=False, elem_id=f"{tab_id}-reason", elem_classes=["reason"])
    return Opening(sentence, action, reason)


def said(lead: str, why_not: str = "", verb: str | None = None, note: str = "") -> tuple[str, dict[str, Any], str]:
    """Values for `Opening.outputs`. With `why_not` the action is disabled and this reason stands beneath it, else the `note`."""
    update: dict[str, Any] = {"interactive": not why_not} | ({"value": verb} if verb else {})
    line = why_not or note
    return lead, gr.update(**update), f'<p role="status">{text(line)}</p>' if line else ""


def said_by_name(lead: str, why_not: str = "", verb: str | None = None, note: str = "") -> dict[str, Any]:
    """Values for `Opening.named`, as `said`."""
    return dict(zip(("sentence", "action", "reason"), said(lead, why_not, verb, note), strict=True))

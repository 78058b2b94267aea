"""Whether a result could be published where the recipe says, asked before training starts and by the same question as before a publication."""

from __future__ import annotations

import gradio as gr

from core.publish.facts import hub_id
from core.publish.standing import standing
from ui import feedback, form
from ui.access import Caller, allowed
from ui.shell import Shell


def add(shell: Shell, made: form.Form) -> None:
    """A button beside the knob, and room for the answer."""
    ask = gr.Button("Can I publish there?", size="sm", elem_id="train-can-publish")
    slot = feedback.slot()
    answer = gr.HTML("", container=False, padding=False, elem_id="train-publish-answer")
    inputs = [made.fields["publish_to"], made.fields["base_model"]]
    shell.listen(ask.click, can_publish, inputs=inputs, outputs=answer, slot=slot, concurrency_limit=4)


@allowed("owner")
def can_publish(publish_to: str, base_model: str, caller: Caller) -> str:
    """What the Hub says of the login and the repository, and what the base model's licence asks."""
    repo_id, base = str(publish_to or "").strip(), hub_id(str(base_model or ""))
    if not repo_id:
        return feedback.said("Name a repository first, as USER/NAME.", tone="warning")
    found = standing(repo_id, caller.token, base_model=base, scope=caller.scope)
    if found.problems:
        return "".join(feedback.said(problem) for problem in found.problems)
    how = "exists and was made here" if found.exists and found.is_ours else "does not exist yet and will be made, private"
    lead = [] if found.exists and not found.is_ours else [feedback.said(f"Yes: {repo_id} {how}.", tone="good")]
    return "".join([*lead, *(feedback.said(note, tone="warning") for note in found.notes)])

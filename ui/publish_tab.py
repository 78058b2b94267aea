"""The Publish tab: what a publication would hold, and sending it. Preparing sends nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.publish.preflight import dry_run
from ui import feedback, picks, publish_send, publish_view
from ui.access import Caller, allowed
from ui.opening import opening, said
from ui.shell import PUBLISH, Shell

VERB = "Prepare (nothing is sent)"


def build(shell: Shell) -> None:
    top = opening(PUBLISH, VERB, publish_view.NO_MODELS)
    slot = feedback.slot()
    with gr.Row(elem_classes=["split"]):
        with gr.Column(scale=1, min_width=280, elem_classes=["side"]):
            models = gr.Dropdown([], multiselect=True, label="What to publish", elem_id="publish-models",
                                 info="GGUF levels of one model go together; a merged model or an adapter goes alone.")  # fmt: skip
            ladder = gr.Dropdown([], value=None, label="Or every level of one model", elem_id="publish-set")
            repo_id = gr.Textbox(label="Repository on the Hub", placeholder="you/Starter-Identity-GGUF", max_length=120, elem_id="publish-repo",
                                 info="Your user or organisation, a slash, a name.")  # fmt: skip
            sending = _sending_part()
            before = gr.HTML("", container=False, padding=False, elem_id="publish-before")
        with gr.Column(scale=3, min_width=320):
            send_slot = feedback.slot()
            outcome = gr.HTML("", container=False, padding=False, elem_id="publish-outcome")
            evidence = gr.HTML("", container=False, padding=False)
            with gr.Tabs(visible=False) as card, gr.Tab("Card as the Hub shows it"):
                shown = gr.Markdown("", sanitize_html=True, elem_classes=["card"], elem_id="publish-card")
            with card, gr.Tab("Card as text, to be edited"):
                source = gr.Code("", language="markdown", label="README.md", interactive=True, elem_id="publish-source")
    prepared = gr.State("")  # what was prepared last: ids and repository
    live_slot = feedback.slot()
    chosen, plan = [models, repo_id], [top.sentence, evidence, card, sending.group]
    shell.listen(
        [shell.demo.load, shell.tab[PUBLISH].select],
        offer,
        inputs=[*chosen, prepared, shell.artifact_id, shell.publish_choice],
        outputs=[models, ladder, *plan, *top.outputs[1:]],
        slot=live_slot,
        queue=False,
    )
    shell.listen([shell.demo.load, shell.tab[PUBLISH].select], published, outputs=before, slot=live_slot, queue=False)
    options = [sending.private, sending.as_pull_request, sending.despite_proofs, sending.pasted]
    shell.listen(
        sending.action.click,
        publish_send.send,
        inputs=[*chosen, source, *options],
        outputs=[outcome, before, sending.pasted],
        slot=send_slot,
        concurrency_limit=4,
    )
    shell.listen(
        sending.compare.click,
        publish_send.look,
        inputs=[*chosen, sending.pasted],
        outputs=outcome,
        slot=send_slot,
        concurrency_limit=4,
    )
    shell.listen(shell.demo.load, restore_name, inputs=shell.repo_id, outputs=repo_id, slot=live_slot, queue=False)
    handed = [shell.artifact_id, shell.publish_choice]
    each: dict[str, Any] = {"queue": False, "trigger_mode": "multiple"}
    shell.listen(shell.artifact_id.change, carry, inputs=handed, outputs=models, slot=live_slot, **each)
    shell.listen(models.change, picks.keep, inputs=[models, shell.artifact_id], outputs=shell.publish_choice, slot=live_slot, **each)
    shell.listen(ladder.input, take_set, inputs=ladder, outputs=models, slot=slot, queue=False)
    shell.listen(
        [models.change, repo_id.change],
        name_action,
        inputs=[*chosen, prepared],
        outputs=[*plan, *top.outputs[1:]],
        slot=slot,
        **each,
    )
    shell.listen(
        [top.action.click, repo_id.submit],
        prepare,
        inputs=chosen,
        outputs=[*plan, shown, source, shell.repo_id, prepared],
        slot=slot,
        concurrency_limit=4,
    )


@dataclass(frozen=True)
class Sending:
    """The part that sends; hidden until something is prepared."""

    group: gr.Column
    private: gr.Checkbox
    as_pull_request: gr.Checkbox
    despite_proofs: gr.Checkbox
    pasted: gr.Textbox
    compare: gr.Button
    action: gr.Button


def _sending_part() -> Sending:
    with gr.Column(visible=False, elem_id="publish-send") as group:
        gr.HTML('<h2 class="part">Send it</h2>', container=False, padding=False)
        private = gr.Checkbox(True, label="Private", info="Only you see a repository made now.")
        as_pull_request = gr.Checkbox(False, label="As a pull request", info="The owner decides.")
        despite_proofs = gr.Checkbox(False, label="Although a proof does not hold", info="Other problems always stop it.")
        pasted = gr.Textbox(
            label="Hub token",
            info="Used for this request only and kept nowhere. Leave it empty after `hf auth login`.",
            type="password",
            max_length=200,
            visible=publish_send.may_paste(),
            elem_id="publish-token",
        )
        compare = gr.Button("Compare with the Hub")
        action = gr.Button("Send to the Hub", elem_id="publish-send-action")
    return Sending(group, private, as_pull_request, despite_proofs, pasted, compare, action)


@allowed("public")
def published(caller: Caller) -> str:
    """What was published from this workspace, which is its owner's to see."""
    return publish_send.before() if caller.may("owner") else ""


@allowed("public")
def restore_name(name: str) -> str:
    """The repository that was named before the page was reloaded."""
    return name


@allowed("public")
def offer(picked: list[str], repo_id: str, prepared: str, carried: str, kept: dict[str, Any]) -> tuple[Any, ...]:
    """What can be published now; what was chosen stays."""
    choices = picks.everything()
    keep = picks.known(picked or picks.chosen_before(kept, carried), choices)
    sets = [(f"{run.name} · {run.run_id}", run.run_id) for run in picks.runs_with_models()]
    models = gr.skip() if keep == picked and picked else gr.Dropdown(choices, value=keep)
    return models, gr.Dropdown(sets), *_plan_still(keep, repo_id, prepared, bool(choices)), *_action(keep, repo_id)


@allowed("public")
def carry(carried: str, kept: dict[str, Any]) -> gr.Dropdown:
    """The models that another tab has handed over."""
    choices = picks.everything()
    return gr.Dropdown(choices, value=picks.known(picks.chosen_before(kept, carried), choices))


@allowed("public")
def take_set(run_id: str) -> gr.Dropdown:
    levels = [artifact.id for artifact in picks.of_run(run_id) if artifact.kind == "gguf"]
    return gr.Dropdown(picks.everything(), value=levels or picks.first_choice(picks.of_run(run_id)))


@allowed("public")
def name_action(picked: list[str], repo_id: str, prepared: str) -> tuple[Any, ...]:
    return *_plan_still(picked or [], repo_id, prepared, True), *_action(picked or [], repo_id)


def _plan_still(picked: list[str], repo_id: str, prepared: str, is_any: bool) -> tuple[Any, ...]:
    """Sentence, evidence and card: as they are while they speak of what is chosen, else empty."""
    if prepared and prepared == _key(picked, repo_id):
        return (gr.skip(),) * 4
    return publish_view.NOTHING_YET if is_any else publish_view.NO_MODELS, "", gr.Tabs(visible=False), gr.Column(visible=False)


def _key(picked: list[str], repo_id: str) -> str:
    return f"{picks.join(picked)} {repo_id.strip()}"


def _action(picked: list[str], repo_id: str) -> tuple[Any, ...]:
    why_not = "Choose what to publish." if not picked else "" if repo_id.strip() else "Name the repository."
    return said("", why_not, VERB)[1:]


@allowed("signed_in")
def prepare(picked: list[str], repo_id: str) -> tuple[Any, ...]:
    """What would be sent, from a dry run of the publication."""
    plan = dry_run(publish_send.chosen(picked), repo_id.strip())
    card = plan["card"]
    return (
        publish_view.overview(plan), publish_view.evidence(plan), gr.Tabs(visible=True), gr.Column(visible=True), publish_view.rendered(card), card,
        repo_id.strip(), _key(picked, repo_id),
    )  # fmt: skip

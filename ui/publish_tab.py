"""The Publish tab: what a publication would hold. Preparing sends nothing."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import UserError
from core.export import artifacts
from core.publish.preflight import dry_run
from ui import feedback, picks, publish_view
from ui.access import allowed
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
        with gr.Column(scale=3, min_width=320):
            evidence = gr.HTML("", container=False, padding=False)
            with gr.Tabs(visible=False) as card, gr.Tab("Card as the Hub shows it"):
                shown = gr.Markdown("", sanitize_html=True, elem_classes=["card"], elem_id="publish-card")
            with card, gr.Tab("Card as text"):
                source = gr.Code("", language="markdown", label="README.md", interactive=False)
    prepared = gr.State("")  # what was prepared last: ids and repository
    live_slot = feedback.slot()
    chosen, plan = [models, repo_id], [top.sentence, evidence, card]
    shell.listen(
        [shell.demo.load, shell.tab[PUBLISH].select],
        offer,
        inputs=[*chosen, prepared, shell.artifact_id],
        outputs=[models, ladder, *plan, *top.outputs[1:]],
        slot=live_slot,
        queue=False,
    )
    shell.listen(shell.demo.load, restore_name, inputs=shell.repo_id, outputs=repo_id, slot=live_slot, queue=False)
    shell.listen(shell.artifact_id.change, carry, inputs=shell.artifact_id, outputs=models, slot=live_slot, queue=False)
    shell.listen(ladder.input, take_set, inputs=ladder, outputs=models, slot=slot, queue=False)
    shell.listen(
        [models.change, repo_id.change],
        name_action,
        inputs=[*chosen, prepared],
        outputs=[*plan, *top.outputs[1:]],
        slot=slot,
        queue=False,
    )
    shell.listen(
        [top.action.click, repo_id.submit],
        prepare,
        inputs=chosen,
        outputs=[*plan, shown, source, shell.repo_id, prepared],
        slot=slot,
        concurrency_limit=4,
    )


@allowed("public")
def restore_name(name: str) -> str:
    """The repository that was named before the page was reloaded."""
    return name


@allowed("public")
def offer(picked: list[str], repo_id: str, prepared: str, carried: str) -> tuple[Any, ...]:
    """What can be published now; what was chosen stays."""
    choices = picks.everything()
    keep = picks.known(picked or picks.split(carried), choices)
    sets = [(f"{run.name} · {run.run_id}", run.run_id) for run in picks.runs_with_models()]
    models = gr.skip() if keep == picked and picked else gr.Dropdown(choices, value=keep)
    return models, gr.Dropdown(sets), *_plan_still(keep, repo_id, prepared, bool(choices)), *_action(keep, repo_id)


@allowed("public")
def carry(carried: str) -> gr.Dropdown:
    """The models that another tab has handed over."""
    choices = picks.everything()
    return gr.Dropdown(choices, value=picks.known(picks.split(carried), choices))


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
        return (gr.skip(),) * 3
    return publish_view.NOTHING_YET if is_any else publish_view.NO_MODELS, "", gr.Tabs(visible=False)


def _key(picked: list[str], repo_id: str) -> str:
    return f"{picks.join(picked)} {repo_id.strip()}"


def _action(picked: list[str], repo_id: str) -> tuple[Any, ...]:
    why_not = "Choose what to publish." if not picked else "" if repo_id.strip() else "Name the repository."
    return said("", why_not, VERB, note="Sending itself is not offered yet.")[1:]


@allowed("signed_in")
def prepare(picked: list[str], repo_id: str) -> tuple[Any, ...]:
    """What would be sent, from a dry run of the publication."""
    there = {artifact.id: artifact for artifact in artifacts.everywhere()}
    if missing := [identifier for identifier in picked if identifier not in there]:
        raise UserError(f"{missing[0]} is not there any more.", "what to publish", "Choose from the list again.")
    plan = dry_run([there[identifier] for identifier in picked], repo_id.strip())
    card = plan["card"]
    return (
        publish_view.overview(plan), publish_view.evidence(plan), gr.Tabs(visible=True), publish_view.rendered(card), card,
        repo_id.strip(), _key(picked, repo_id),
    )  # fmt: skip

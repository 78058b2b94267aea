"""The Publish tab: what a publication would hold, and sending it. Preparing sends nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.data.dataset import list_datasets
from core.errors import UserError
from core.publish import preflight
from core.publish.push import with_card
from core.redact import tokens
from ui import feedback, first_run, picks, publish_name, publish_send, publish_view
from ui.access import Caller, allowed
from ui.opening import Opening, opening, said
from ui.shell import PUBLISH, Shell
from ui.view import count

VERB = "Prepare (nothing is sent)"
# What was prepared for another choice goes at once: in the browser, so that it cannot overtake what is prepared next.
NO_LONGER = f"() => [{json.dumps(publish_view.NOTHING_YET)}, '', ...Array(2).fill({{__type__: 'update', visible: false}})]"


@dataclass(frozen=True)
class Choice:
    """What to publish, and under which name."""

    models: gr.Dropdown
    ladder: gr.Dropdown
    owner: gr.Dropdown
    repo_id: gr.Textbox
    proposed: gr.Textbox  # a name for `publish_name.TAKE`; never shown
    languages: gr.Textbox
    of_data: gr.Column  # holds the two that only a dataset has
    license: gr.Textbox
    form: gr.Dropdown
    waits: gr.Dropdown
    send_waiting: gr.Button

    @property
    def chosen(self) -> list[Any]:
        return [self.models, self.repo_id]

    @property
    def about(self) -> list[Any]:
        return [self.form, self.license, self.languages]


@dataclass(frozen=True)
class Plan:
    """What a publication would hold, and what became of one."""

    outcome: gr.HTML
    stop: gr.Button
    evidence: gr.HTML
    card: gr.Tabs
    shown: gr.Markdown
    source: gr.Code
    anew: gr.Button
    prepared: gr.State  # what was prepared last: ids and repository


@dataclass(frozen=True)
class Slots:
    """Where an error appears: beside what was chosen, above what is sent, and where nobody clicked."""

    chosen: gr.HTML
    sent: gr.HTML
    live: gr.HTML


@dataclass(frozen=True)
class Sending:
    """The part that sends; hidden until something is prepared."""

    group: gr.Column
    private: gr.Checkbox
    as_pull_request: gr.Checkbox
    despite_proofs: gr.Checkbox
    despite_tokens: gr.Checkbox
    pasted: gr.Textbox
    compare: gr.Button
    action: gr.Button


def build(shell: Shell) -> None:
    top = opening(PUBLISH, VERB, publish_view.NO_MODELS)
    first_run.offer(shell, PUBLISH)
    slot = feedback.slot()
    with gr.Row(elem_classes=["split"]):
        with gr.Column(scale=1, min_width=280, elem_classes=["side"]):
            choice, sending = _choice_part(), _sending_part()
            before = gr.HTML("", container=False, padding=False, elem_id="publish-before")
        with gr.Column(scale=3, min_width=320):
            send_slot = feedback.slot()
            plan = _plan_part()
    slots = Slots(slot, send_slot, feedback.slot())
    _listen_to_choices(shell, top, choice, plan, sending, slots)
    _listen_to_preparing(shell, top, choice, plan, sending, slots)
    _listen_to_sending(shell, choice, plan, sending, before, slots)


def _choice_part() -> Choice:
    models = gr.Dropdown([], multiselect=True, label="What to publish", elem_id="publish-models",
                         info="GGUF levels of one model go together; a merged model, an adapter or a dataset goes alone.")  # fmt: skip
    ladder = gr.Dropdown([], value=None, label="Or every level of one model", elem_id="publish-set")
    owner = gr.Dropdown([], label="Whose it will be", visible=False, elem_id="publish-owner")
    repo_id = gr.Textbox(label="Repository on the Hub", placeholder="you/Starter-Identity-GGUF", max_length=120, elem_id="publish-repo",
                         info="Your user or organisation, a slash, a name.")  # fmt: skip
    proposed = gr.Textbox("", label="Proposed name", elem_classes=["unseen"])
    languages = gr.Textbox(label="Languages", placeholder="en, de", max_length=80, elem_id="publish-languages",
                           info="For the card, as codes. Left empty, only languages with a script of their own are named.")  # fmt: skip
    with gr.Column(visible=False) as of_data:
        license = gr.Textbox(label="Licence of the conversations", placeholder="cc-by-4.0", max_length=80, elem_id="publish-license",
                             info="The Hub's identifier. Empty: the card says that it is unknown.")  # fmt: skip
        form = gr.Dropdown(["parquet", "jsonl"], value="parquet", label="Form of the file", elem_id="publish-form")
    waits = gr.Dropdown([], label="Waits to be published", visible=False, elem_id="publish-waits",
                        info="A run that was meant to be published when it is done.")  # fmt: skip
    send_waiting = gr.Button("Send it now", visible=False, elem_id="publish-waiting")
    return Choice(models, ladder, owner, repo_id, proposed, languages, of_data, license, form, waits, send_waiting)


def _sending_part() -> Sending:
    with gr.Column(visible=False, elem_id="publish-send") as group:
        gr.HTML('<h2 class="part">Send it</h2>', container=False, padding=False)
        private = gr.Checkbox(True, label="Private", info="Only you see a repository made now.")
        as_pull_request = gr.Checkbox(False, label="As a pull request", info="The owner decides.")
        despite_proofs = gr.Checkbox(False, label="Although a proof does not hold", info="Other problems still stop it.")
        despite_tokens = gr.Checkbox(False, label="Although something looks like an access token", info="When you know that it is none.")
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
    return Sending(group, private, as_pull_request, despite_proofs, despite_tokens, pasted, compare, action)


def _plan_part() -> Plan:
    outcome = gr.HTML("", container=False, padding=False, elem_id="publish-outcome")
    stop = gr.Button(publish_send.STOP, visible=False, size="sm", elem_id="publish-stop")
    evidence = gr.HTML("", container=False, padding=False)
    with gr.Tabs(visible=False) as card, gr.Tab("Card as the Hub shows it"):
        shown = gr.Markdown("", sanitize_html=True, elem_classes=["card"], elem_id="publish-card")
    with card, gr.Tab("Card as text, to be edited"):
        source = gr.Code("", language="markdown", label="README.md", interactive=True, elem_id="publish-source")
        anew = gr.Button("Write the card anew from the facts", size="sm", elem_id="publish-anew")
    return Plan(outcome, stop, evidence, card, shown, source, anew, gr.State(""))


def _shown_plan(top: Opening, plan: Plan, sending: Sending) -> list[Any]:
    """What shows a plan, or none."""
    return [top.sentence, plan.evidence, plan.card, sending.group]


def _listen_to_choices(shell: Shell, top: Opening, choice: Choice, plan: Plan, sending: Sending, slots: Slots) -> None:
    models, repo_id = choice.models, choice.repo_id
    live: dict[str, Any] = {"slot": slots.live, "queue": False}
    begins = [shell.demo.load, shell.tab[PUBLISH].select]
    shell.listen(shell.demo.load, restore_name, inputs=shell.repo_id, outputs=repo_id, **live)
    shell.listen(begins, publish_name.whose, inputs=choice.owner, outputs=choice.owner, **live)
    naming = [models, repo_id, shell.repo_id, choice.owner]
    shell.listen([models.change, choice.owner.change], publish_name.name_it, inputs=naming, outputs=choice.proposed, **live)
    choice.proposed.change(None, js=publish_name.TAKE, inputs=[choice.proposed, repo_id], outputs=repo_id, api_visibility="private")
    handed = [shell.artifact_id, shell.publish_choice]
    each: dict[str, Any] = {"trigger_mode": "multiple"}
    shell.listen(shell.artifact_id.change, carry, inputs=handed, outputs=models, **live, **each)
    shell.listen(models.change, picks.keep, inputs=[models, shell.artifact_id], outputs=shell.publish_choice, **live, **each)
    shell.listen(choice.ladder.input, take_set, inputs=choice.ladder, outputs=models, slot=slots.chosen, queue=False)
    named: dict[str, Any] = {"inputs": choice.chosen, "outputs": [*top.outputs[1:], choice.of_data]}
    shell.listen([models.change, repo_id.change], name_action, slot=slots.chosen, queue=False, **named, **each)
    fields = (field.input for field in (repo_id, *choice.about))
    for changed in (models.input, choice.ladder.input, *fields, shell.artifact_id.change):
        changed(None, js=NO_LONGER, outputs=_shown_plan(top, plan, sending), api_visibility="private")


def _listen_to_preparing(shell: Shell, top: Opening, choice: Choice, plan: Plan, sending: Sending, slots: Slots) -> None:
    shown, handed = _shown_plan(top, plan, sending), [shell.artifact_id, shell.publish_choice]
    offered = shell.listen(
        [shell.demo.load, shell.tab[PUBLISH].select],
        offer,
        inputs=[*choice.chosen, plan.prepared, *handed, shell.repo_id, shell.publish_card],
        outputs=[choice.models, choice.ladder, *shown, *top.outputs[1:]],
        slot=slots.live,
        queue=False,
    )
    complete = [*shown, plan.shown, plan.source, shell.repo_id, plan.prepared, plan.outcome]
    asked, given = [*choice.chosen, *choice.about], [sending.pasted, shell.publish_card]
    at_once: dict[str, Any] = {"slot": slots.chosen, "concurrency_limit": 4}
    shell.listen([top.action.click, choice.repo_id.submit], prepare, inputs=[*asked, *given], outputs=complete, **at_once)
    anew: dict[str, Any] = {"inputs": [*asked, sending.pasted], "outputs": [*complete, shell.publish_card]}
    shell.listen(plan.anew.click, write_anew, **anew, **at_once)
    # A login leads away from the page and back: what was prepared is there again, with the card as it was edited.
    before = [*handed, shell.repo_id, plan.prepared, *choice.about, *given]
    shell.listen(offered.then, again, inputs=before, outputs=complete, slot=slots.live)
    edited: dict[str, Any] = {"inputs": [plan.source, plan.prepared], "outputs": shell.publish_card}
    shell.listen(plan.source.input, keep_card, slot=slots.live, queue=False, **edited)


def _listen_to_sending(shell: Shell, choice: Choice, plan: Plan, sending: Sending, before: gr.HTML, slots: Slots) -> None:
    begins = [shell.demo.load, shell.tab[PUBLISH].select]
    standing = [before, plan.stop, choice.waits, choice.send_waiting]
    at_once: dict[str, Any] = {"slot": slots.sent, "concurrency_limit": 4}
    shell.listen(begins, published, outputs=standing, slot=slots.live, queue=False)
    outputs = [plan.outcome, *standing]
    shell.listen(choice.send_waiting.click, publish_send.send_waiting, inputs=choice.waits, outputs=outputs, **at_once)
    options = [sending.private, sending.as_pull_request, sending.despite_proofs, sending.despite_tokens, sending.pasted]
    sent: dict[str, Any] = {
        "inputs": [*choice.chosen, choice.form, plan.source, *options],
        "outputs": [plan.outcome, before, plan.stop, sending.pasted],
    }
    shell.listen(sending.action.click, publish_send.send, **sent, **at_once)
    shell.listen(plan.stop.click, publish_send.stop, outputs=plan.stop, slot=slots.sent, queue=False)
    compared: dict[str, Any] = {"inputs": [*choice.chosen, choice.form, plan.source, sending.pasted], "outputs": plan.outcome}
    shell.listen(sending.compare.click, publish_send.look, **compared, **at_once)


@allowed("public")
def published(caller: Caller) -> tuple[Any, ...]:
    """What was published from this workspace and what waits for it, which is its owner's to see."""
    if not caller.may("owner"):
        return "", *(gr.skip(),) * 3
    return publish_send.before(), publish_send.stop_button(), *publish_send.waits()


@allowed("public")
def restore_name(name: str) -> str:
    """The repository that was named before the page was reloaded."""
    return name


@allowed("public")
def offer(
    picked: list[str],
    repo_id: str | None,
    prepared: str,
    carried: str,
    chosen: dict[str, Any],
    named: str | None,
    kept: dict[str, Any],
    caller: Caller,
) -> tuple[Any, ...]:
    """What can be published now. What was chosen stays, and so does a plan that is shown, or that `again` is about to show."""
    choices = _choices(caller)
    keep = picks.known(picked or picks.chosen_before(chosen, carried), choices)
    sets = [(f"{run.name} · {run.run_id}", run.run_id) for run in picks.runs_with_models()]
    models = gr.skip() if keep == picked and picked else gr.Dropdown(choices, value=keep)
    stays = {_key(keep, repo_id), _key(keep, named)} & {prepared, (kept or {}).get("key")}
    return models, gr.Dropdown(sets), *((gr.skip(),) * 4 if stays else _no_plan(bool(choices))), *_action(keep, repo_id)


@allowed("public")
def carry(carried: str, kept: dict[str, Any], caller: Caller) -> gr.Dropdown:
    """The models that another tab has handed over."""
    choices = _choices(caller)
    return gr.Dropdown(choices, value=picks.known(picks.chosen_before(kept, carried), choices))


@allowed("public")
def take_set(run_id: str, caller: Caller) -> gr.Dropdown:
    levels = [artifact.id for artifact in picks.of_run(run_id) if artifact.kind == "gguf"]
    return gr.Dropdown(_choices(caller), value=levels or picks.first_choice(picks.of_run(run_id)))


@allowed("public")
def name_action(picked: list[str], repo_id: str) -> tuple[Any, ...]:
    """What the button says, and the fields that only a dataset has."""
    is_data = any(each.startswith("ds-") for each in picked or [])
    return *_action(picked or [], repo_id), gr.Column(visible=is_data)


def _no_plan(is_any: bool) -> tuple[Any, ...]:
    """Sentence, evidence, card and the part that sends, before anything is prepared."""
    return publish_view.NOTHING_YET if is_any else publish_view.NO_MODELS, "", gr.Tabs(visible=False), gr.Column(visible=False)


def _key(picked: list[str], repo_id: str | None) -> str:
    return f"{picks.join(picked)} {(repo_id or '').strip()}"  # a browser that has kept nothing yet gives None


def _action(picked: list[str], repo_id: str | None) -> tuple[Any, ...]:
    why_not = "Choose what to publish." if not picked else "" if (repo_id or "").strip() else "Name the repository."
    return said("", why_not, VERB)[1:]


def _choices(caller: Caller) -> list[tuple[str, str]]:
    """Every model, and for the owner every dataset, as (label, id)."""
    datasets = list_datasets() if caller.may("owner") else []
    return picks.everything() + [(f"Dataset {each.name}, {count(len(each), 'conversation')}", each.id) for each in datasets]


@dataclass(frozen=True)
class Asked:
    """What is typed beside the choice, for the files of a dataset and for the card."""

    form: str | None
    license: str | None
    languages: str | None


@allowed("owner")
def prepare(
    picked: list[str],
    repo_id: str,
    form: str | None,
    license: str | None,
    languages: str | None,
    pasted: str | None,
    kept: dict[str, Any],
    caller: Caller,
) -> tuple[Any, ...]:
    """What would be sent and what that changes on the Hub; nothing is sent. A card that was edited for the same choice is kept."""
    return _prepared(picked, repo_id, Asked(form, license, languages), pasted, kept, caller)


def _prepared(picked: list[str], repo_id: str, about: Asked, pasted: str | None, kept: dict[str, Any], caller: Caller) -> tuple[Any, ...]:
    plan = publish_send.planned(picked, repo_id, about.form, about.license, about.languages)
    said, key = preflight.describe(plan), _key(picked or [], repo_id)
    card = kept["card"] if kept and kept.get("key") == key else said["card"]
    return (
        publish_view.overview(said), publish_view.evidence(said), gr.Tabs(visible=True), gr.Column(visible=True), publish_view.rendered(card), card,
        repo_id.strip(), key, publish_send.asked(_as_sent(plan, card), publish_send.token_for(pasted, caller), caller),
    )  # fmt: skip


def _as_sent(plan: preflight.Plan, card: str) -> preflight.Plan:
    """`plan` with the card as it stands there; one whose front matter is broken is told of when it is sent."""
    try:
        return with_card(plan, card)
    except UserError:
        return plan


@allowed("owner")
def write_anew(
    picked: list[str],
    repo_id: str,
    form: str | None,
    license: str | None,
    languages: str | None,
    pasted: str | None,
    caller: Caller,
) -> tuple[Any, ...]:
    """As `prepare`, without what was edited."""
    return *_prepared(picked, repo_id, Asked(form, license, languages), pasted, {}, caller), {}


@allowed("public")
def again(
    carried: str,
    chosen: dict[str, Any],
    repo_id: str,
    prepared: str,
    form: str | None,
    license: str | None,
    languages: str | None,
    pasted: str | None,
    kept: dict[str, Any],
    caller: Caller,
) -> tuple[Any, ...]:
    """After the page was left to sign in: what was prepared, once more."""
    picked = picks.known(picks.chosen_before(chosen, carried), _choices(caller))
    if not caller.may("owner") or prepared or not kept or kept.get("key") != _key(picked, repo_id):
        return (gr.skip(),) * 9
    return _prepared(picked, repo_id, Asked(form, license, languages), pasted, kept, caller)


@allowed("public")
def keep_card(card: str, prepared: str) -> Any:
    """What the browser keeps of an edited card; one with a token in it is not kept anywhere."""
    return {"key": prepared, "card": card} if prepared and not tokens(card) else gr.skip()

"""The blind vote: two models answer, nobody sees which is which until one is called better."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from core.chat import votes
from core.chat.sources import Source
from core.errors import UserError
from ui import chat_ask, chat_knobs, chat_sources, chat_view, picks
from ui.access import Caller, allowed
from ui.shell import CHAT, Shell

VERDICTS: tuple[tuple[votes.Verdict, str], ...] = (
    ("first", "A is better"),
    ("second", "B is better"),
    ("tie", "Both good"),
    ("bad", "Both bad"),
)
OFFERED = 50  # prompts of the evaluation conversations
MAX_BALLOTS = 1000


@dataclass
class Ballot:
    """What a page votes on; the names stay here until it has."""

    pair: tuple[Source, Source]
    prompt: str
    seed: int
    columns: list[chat_ask.Column]


_ballots: dict[str, Ballot] = {}  # by page


def build(shell: Shell, models: Any, knobs: dict[str, Any], slot: Any) -> None:
    with gr.Accordion("Blind vote", open=False, elem_classes=["group"], elem_id="chat-vote"):
        gr.HTML(
            '<p class="quiet">Two of the chosen models answer, in an order drawn by chance and without their names.</p>',
            container=False,
            padding=False,
        )
        offered = gr.Dropdown([], value=None, label="A prompt that was not trained on", elem_id="vote-offered")
        prompt = gr.Textbox(label="Or your own prompt for the vote", lines=1, max_lines=6, max_length=20_000, elem_id="vote-prompt")
        with gr.Row():
            duel = gr.Button("Ask two blind", elem_id="vote-ask")
        arena = gr.HTML("", container=False, padding=False, elem_id="vote-arena")
        with gr.Row(elem_classes=["chat-steps"]):
            buttons = {verdict: gr.Button(words, size="sm", interactive=False, elem_id=f"vote-{verdict}") for verdict, words in VERDICTS}
        standings = gr.HTML("", container=False, padding=False, elem_id="vote-results")
    row = list(buttons.values())
    shell.listen([shell.demo.load, shell.tab[CHAT].select], show_results, outputs=standings, slot=slot, queue=False)
    shell.listen(models.change, offer_prompts, inputs=models, outputs=offered, slot=slot, queue=False, trigger_mode="multiple")
    shell.listen(offered.input, take_prompt, inputs=offered, outputs=prompt, slot=slot, queue=False)
    shell.listen(
        duel.click, ask_blind, inputs=[models, prompt], inputs_kwargs=knobs, outputs=[arena, duel, *row], slot=slot, concurrency_limit=16
    )
    for button in row:
        shell.listen(button.click, vote, inputs=button, outputs=[arena, standings, *row], slot=slot, queue=False)


@allowed("public")
def offer_prompts(picked: list[str], caller: Caller) -> gr.Dropdown:
    """First questions of the conversations that the first model was not trained on; the owner's data is shown to the owner."""
    from core.running import runs
    from core.training.samples import held_out_of

    found = chat_sources.find(picked or [], caller)
    run_id = next((source.artifact.run_id for source in found if source.artifact and source.artifact.run_id), None)
    if not run_id or not caller.may("owner"):
        return gr.Dropdown([], value=None)
    try:
        asked = (next((turn.content for turn in one.turns if turn.role == "user"), "") for one in held_out_of(runs.folder(run_id)))
        questions: dict[str, None] = {}  # in order, each once
        while len(questions) < OFFERED and (question := next(asked, None)) is not None:
            questions |= {question: None} if question else {}
    except (UserError, OSError):
        return gr.Dropdown([], value=None)  # the dataset, or the run's folder, is gone
    return gr.Dropdown(list(questions), value=None)


@allowed("public")
def take_prompt(question: str) -> str:
    return question


@allowed("owner")
def ask_blind(request: gr.Request, ids: list[str], prompt: str, *, caller: Caller, **values: Any) -> Iterator[tuple[Any, ...]]:
    """Two answers as they grow, called A and B."""
    page = str(request.session_hash)
    found = chat_sources.find(ids or [], caller)
    if len(found) < 2:
        raise UserError("A vote needs two models.", "models", "Choose at least two of them above.")
    if not prompt.strip():
        raise UserError("There is nothing to ask.", "the prompt for the vote", "Write one, or take one of the list.")
    drawn = random.sample(found, 2)
    sampling = chat_knobs.sampling_of(caller, values)
    system = [{"role": "system", "content": values["system"].strip()}] if values["system"].strip() else []
    asked = [(source, [*system, {"role": "user", "content": prompt}]) for source in drawn]
    waiting = tuple(gr.Button(interactive=False) for _ in VERDICTS)
    columns: list[chat_ask.Column] = []
    for columns in chat_ask.ask(f"vote-{page}", asked, sampling, chat_knobs.context_of(values["context_length"], caller)):
        yield chat_view.arena(prompt, columns), gr.Button(interactive=False), *waiting
    if any(column.error for column in columns):
        yield chat_view.arena(prompt, columns), gr.Button(interactive=True), *waiting
        return
    if len(_ballots) >= MAX_BALLOTS:
        _ballots.pop(next(iter(_ballots)))
    _ballots[page] = Ballot((drawn[0], drawn[1]), prompt, sampling.seed, columns)
    yield chat_view.arena(prompt, columns), gr.Button(interactive=True), *(gr.Button(interactive=True) for _ in VERDICTS)


@allowed("owner")
def vote(request: gr.Request, words: str, *, caller: Caller) -> tuple[Any, ...]:
    """Keep the vote, and say who was who."""
    page = str(request.session_hash)
    ballot = _ballots.get(page)
    verdict = next((name for name, label in VERDICTS if label == words), None)
    if ballot is None or verdict is None:
        raise UserError("There is nothing to vote on.", "the blind vote", "Ask two models first.")
    first, second = ballot.pair
    answers = (ballot.columns[0].text, ballot.columns[1].text)
    votes.cast(votes.Vote(first=first.id, second=second.id, verdict=verdict, prompt=ballot.prompt, answers=answers, seed=ballot.seed))
    _ballots.pop(page, None)
    shown = chat_view.arena(ballot.prompt, ballot.columns, names=[f"{source.name} {source.level}" for source in ballot.pair])
    return shown, _standings(caller), *(gr.Button(interactive=False) for _ in VERDICTS)


@allowed("public")
def show_results(caller: Caller) -> str:
    return _standings(caller) if caller.may("owner") else ""


def _standings(caller: Caller) -> str:
    names = {identifier: label for label, identifier in picks.everything()} | {
        identifier: label for label, identifier in chat_sources.everything(caller)
    }
    return chat_view.standings(votes.results(votes.all_votes()), names)

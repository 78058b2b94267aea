"""The Chat tab: up to four models answer one prompt side by side, from one seed, as fast as they can."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.chat.sampling import Sampling
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from ui import chat_pool, chat_view, feedback, picks
from ui.access import Caller, allowed
from ui.chat_view import Turn
from ui.opening import opening, said
from ui.shell import CHAT, Shell, listen_api

KEPT_TURNS = 20
LONGEST_PROMPT = 20_000  # characters
VISITORS_TOKENS = 256  # per answer, for those who may not do more than look


def build(shell: Shell) -> None:
    top = opening(CHAT, "Ask", chat_view.NO_MODELS)
    slot = feedback.slot()
    with gr.Row(elem_classes=["split", "watch"]):
        with gr.Column(scale=1, min_width=280, elem_classes=["side"]):
            models = gr.Dropdown(
                [], multiselect=True, max_choices=picks.MAX_SIDE_BY_SIDE, label="Models, up to four", elem_id="chat-models"
            )
            with gr.Column(elem_classes=["last"]):
                ladder = gr.Dropdown([], value=None, label="Or four levels of one model", elem_id="chat-set")
                with gr.Accordion("How they answer", open=False):
                    knobs = _knobs()
                clear = gr.Button("New conversation", elem_id="chat-clear")
        with gr.Column(scale=3, min_width=320):
            prompt = gr.Textbox(label="Prompt", lines=1, max_lines=8, max_length=LONGEST_PROMPT, elem_id="chat-prompt",
                                placeholder="Who are you?", info="Enter asks, Shift and Enter begins a new line.", submit_btn="Ask")  # fmt: skip
            talk = gr.HTML("", container=False, padding=False, elem_id="chat-talk")
    live_slot = feedback.slot()
    asked = [models, prompt, shell.talk, *knobs.values()]
    shell.listen(
        [shell.demo.load, shell.tab[CHAT].select],
        offer,
        inputs=[models, shell.artifact_id],
        outputs=[models, ladder, *top.outputs],
        slot=live_slot,
        queue=False,
    )
    shell.listen(shell.artifact_id.change, carry, inputs=shell.artifact_id, outputs=models, slot=live_slot, queue=False)
    shell.listen(shell.demo.load, restore, inputs=shell.talk, outputs=talk, slot=live_slot, queue=False)
    shell.listen(models.change, name_action, inputs=models, outputs=top.outputs, slot=slot, queue=False)
    shell.listen(ladder.input, take_set, inputs=ladder, outputs=models, slot=slot, queue=False)
    shell.listen(
        [top.action.click, prompt.submit],
        ask,
        inputs=asked,
        outputs=[talk, shell.talk, prompt, top.action],
        slot=slot,
        concurrency_limit=16,
    )
    shell.listen(prompt.stop, stop_asking, slot=slot, queue=False)
    shell.listen(clear.click, forget, outputs=[talk, shell.talk], slot=slot, queue=False)
    listen_api(chat, "chat")


def _knobs() -> dict[str, Any]:
    """The sampling controls, in the order that `ask` takes them."""
    return {
        "temperature": gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest token."),
        "top_p": gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="Keep the likeliest tokens that make up this share."),
        "max_tokens": gr.Slider(1, 2048, value=VISITORS_TOKENS, step=1, label="Maximum length (tokens)"),
        "seed": gr.Number(0, precision=0, minimum=0, label="Seed", info="The same seed gives the same answer."),
        "system": gr.Textbox("", label="System prompt", lines=2, max_lines=6, info="Empty: the model's template has its own."),
    }


@allowed("public")
def offer(picked: list[str], carried: str) -> tuple[Any, ...]:
    """What can be chosen now; what was chosen stays."""
    choices = picks.everything()
    if not choices:
        return gr.Dropdown([]), gr.Dropdown([]), *said(chat_view.NO_MODELS, "There is no model yet.")
    keep = picks.known(picked or picks.split(carried), choices)[: picks.MAX_SIDE_BY_SIDE]
    sets = [(f"{run.name} · {run.run_id}", run.run_id) for run in picks.runs_with_models()]
    models = gr.skip() if keep == picked and picked else gr.Dropdown(choices, value=keep)
    return models, gr.Dropdown(sets), *_action(keep)


@allowed("public")
def carry(carried: str) -> gr.Dropdown:
    """The models that another tab has handed over."""
    choices = picks.everything()
    return gr.Dropdown(choices, value=picks.known(picks.split(carried), choices)[: picks.MAX_SIDE_BY_SIDE])


@allowed("public")
def take_set(run_id: str) -> gr.Dropdown:
    return gr.Dropdown(picks.everything(), value=picks.first_choice(picks.of_run(run_id)))


def _action(picked: list[str]) -> tuple[Any, ...]:
    names = [artifact.name for artifact in _found(picked)]
    verb = f"Ask {len(names)} models" if len(names) > 1 else "Ask"
    return said(chat_view.overview(names), "" if names else "Choose a model first.", verb)


def _found(ids: list[str]) -> list[Artifact]:
    there = {artifact.id: artifact for artifact in artifacts.everywhere()}
    return [there[identifier] for identifier in ids if identifier in there]


@allowed("public")
def name_action(picked: list[str]) -> tuple[Any, ...]:
    return _action(picked or [])


@allowed("public")
def restore(turns: list[Turn]) -> str:
    return chat_view.transcript(turns)


@allowed("public")
def ask(
    request: gr.Request, ids: list[str], prompt: str, turns: list[Turn], temperature: float, top_p: float,
    max_tokens: int, seed: int, system: str, *, caller: Caller,
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """The conversation as it grows; at the end it is kept in the browser."""
    sampling = sampling_of(caller, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    found = chosen(ids, prompt)
    asked = [(artifact, messages_for(artifact.id, prompt, turns, system)) for artifact in found]
    answers: list[chat_view.Answer] = []
    box, button = gr.Textbox(submit_btn=False, stop_btn="Stop"), gr.Button(interactive=False)
    for columns in chat_pool.ask(str(request.session_hash), asked, sampling):
        answers = chat_view.answers_of(columns)
        shown = chat_view.transcript([*turns, {"prompt": prompt, "answers": answers}])
        yield shown, gr.skip(), box, button
        box = button = gr.skip()
    turns = [*turns, {"prompt": prompt, "answers": answers}][-KEPT_TURNS:]
    yield chat_view.transcript(turns), turns, gr.Textbox("", submit_btn="Ask", stop_btn=False), gr.Button(interactive=True)


def sampling_of(caller: Caller, **knobs: Any) -> Sampling:
    """The knobs, checked; a visitor's answers are kept short."""
    from pydantic import ValidationError

    try:
        sampling = Sampling(**knobs)
    except ValidationError as error:
        wrong = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise UserError(f"These values cannot be used: {wrong}.", "how they answer", "Put them back into their usual range.") from None
    limit = sampling.max_tokens if caller.may("signed_in") else min(sampling.max_tokens, VISITORS_TOKENS)
    return sampling.model_copy(update={"max_tokens": limit})


def chosen(ids: list[str], prompt: str) -> list[Artifact]:
    """The artifacts to ask.

    Raises:
        UserError: nothing to ask, nobody to ask, too many, or an id of no artifact.
    """
    if not prompt.strip():
        raise UserError("There is nothing to ask.", "prompt", "Write a prompt first.")
    if len(prompt) > LONGEST_PROMPT:
        raise UserError(f"The prompt has {len(prompt):,} characters.", "prompt", f"Keep it below {LONGEST_PROMPT:,}.")
    if not 1 <= len(set(ids or ())) <= picks.MAX_SIDE_BY_SIDE:
        raise UserError(f"{len(set(ids or ()))} models are chosen.", "models", f"Choose one to {picks.MAX_SIDE_BY_SIDE}.")
    found = _found(list(dict.fromkeys(ids)))
    if len(found) < len(set(ids)):
        raise UserError("A model that was chosen is not there any more.", "models", "Choose from the list again.")
    return found


def messages_for(artifact_id: str, prompt: str, turns: list[Turn], system: str) -> list[dict[str, str]]:
    """The conversation as this model had it: only the turns that it answered."""
    messages = [{"role": "system", "content": system.strip()}] if system.strip() else []
    for turn in turns:
        own = next((answer["text"] for answer in turn["answers"] if answer["id"] == artifact_id and answer["text"]), None)
        if own is not None:
            messages += [{"role": "user", "content": turn["prompt"]}, {"role": "assistant", "content": own}]
    return [*messages, {"role": "user", "content": prompt}]


@allowed("public")
def stop_asking(request: gr.Request) -> tuple[()]:
    chat_pool.stop(str(request.session_hash))
    return ()


@allowed("public")
def forget(request: gr.Request) -> tuple[str, list[Turn]]:
    chat_pool.stop(str(request.session_hash))
    return "", []


@allowed("public")
def chat(
    artifact_ids: list[str], prompt: str, system: str = "", temperature: float = 0.0, top_p: float = 1.0,
    max_tokens: int = 256, seed: int = 0, *, caller: Caller,
) -> list[dict[str, Any]]:  # fmt: skip
    """Ask up to four models the same prompt; per model its answer, why it ended, its speed, and its error if it failed."""
    sampling = sampling_of(caller, temperature=temperature, top_p=top_p, max_tokens=max_tokens, seed=seed)
    asked = [(artifact, messages_for(artifact.id, prompt, [], system)) for artifact in chosen(artifact_ids, prompt)]
    *_, whole = chat_pool.ask(f"program-{id(asked)}", asked, sampling)
    fields = ("id", "label", "text", "stop", "stats", "notices", "error")
    return [{field: answer[field] for field in fields} for answer in chat_view.answers_of(whole)]

"""The Chat tab: up to six models answer one prompt side by side, from one seed, as fast as they can."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.chat.engine import Asked, Rendered
from core.chat.hub import SeveralFilesError
from core.chat.sampling import Sampling
from core.chat.sources import Source
from core.chat.turns import messages_for
from core.errors import UserError
from ui import chat_ask, chat_guests, chat_knobs, chat_sources, chat_talk, chat_view, chat_vote, feedback, picks
from ui.access import Caller, allowed
from ui.chat_view import Turn
from ui.opening import opening, said
from ui.shell import CHAT, Shell, listen_api

KEPT_BYTES = 2_000_000  # of the conversation; a browser keeps about 5 MB of all that a page stores
LONGEST_PROMPT = 20_000  # characters


def build(shell: Shell) -> None:
    top = opening(CHAT, "Ask", chat_view.NOTHING_YET)
    slot = feedback.slot()
    with gr.Row(elem_classes=["split", "watch"]):
        with gr.Column(scale=1, min_width=280, elem_classes=["side"]):
            models = gr.Dropdown([], multiselect=True, max_choices=picks.MAX_SIDE_BY_SIDE, label="Models, up to six", elem_id="chat-models")
            memory = gr.HTML("", container=False, padding=False, elem_id="chat-memory")
            with gr.Column(elem_classes=["last"]):
                ladder = gr.Dropdown([], value=None, label="Or four levels of one model", elem_id="chat-set")
                with gr.Accordion("How they answer", open=False, elem_classes=["group"]):
                    knobs = chat_knobs.build()
                with gr.Accordion("Add a model", open=False, elem_classes=["group"]):
                    named = gr.Textbox(label="Hub id, path or endpoint", placeholder="USER/NAME, USER/NAME:q4_0, or http://127.0.0.1:8000/v1#model",
                                       max_length=500, elem_id="chat-add")  # fmt: skip
                    key = gr.Textbox(label="Key of the endpoint", type="password", max_length=500, info="Kept until the app ends.")
                    add = gr.Button("Add this model", elem_id="chat-add-go")
                    file = gr.Dropdown([], value=None, label="Which of its files", visible=False, elem_id="chat-add-file")
                controls = chat_talk.controls()
                clear = gr.Button("New conversation", elem_id="chat-clear")
        with gr.Column(scale=3, min_width=320):
            prompt = gr.Textbox(label="Prompt", lines=1, max_lines=8, max_length=LONGEST_PROMPT, elem_id="chat-prompt",
                                placeholder="Who are you?", info="Enter asks, Shift and Enter begins a new line.", submit_btn="Ask")  # fmt: skip
            with gr.Row(elem_classes=["chat-steps"]):
                retry = gr.Button("Retry", size="sm", elem_id="chat-retry")
                undo = gr.Button("Undo", size="sm", elem_id="chat-undo")
                show = gr.Button("Show as rendered", size="sm", elem_id="chat-rendered")
            rendered = gr.HTML("", container=False, padding=False, elem_id="chat-template")
            talk = gr.HTML("", container=False, padding=False, elem_id="chat-talk")
            chat_vote.build(shell, models, knobs, slot)
    live_slot = feedback.slot()
    shell.listen(
        [shell.demo.load, shell.tab[CHAT].select],
        offer,
        inputs=[models, shell.artifact_id, shell.chat_choice],
        outputs=[models, ladder, *top.outputs],
        slot=live_slot,
        queue=False,
    )
    handed = [shell.artifact_id, shell.chat_choice]
    each: dict[str, Any] = {"queue": False, "trigger_mode": "multiple"}
    shell.listen(shell.artifact_id.change, carry, inputs=handed, outputs=models, slot=live_slot, **each)
    shell.listen(models.change, picks.keep, inputs=[models, shell.artifact_id], outputs=shell.chat_choice, slot=live_slot, **each)
    shell.listen(shell.demo.load, restore, inputs=shell.talk, outputs=talk, slot=live_slot, queue=False)
    chosen = [models.change, knobs["context_length"].change]
    shell.listen(chosen, name_action, inputs=[models, knobs["context_length"]], outputs=[*top.outputs, memory], slot=slot, **each)
    shell.listen(ladder.input, take_set, inputs=ladder, outputs=models, slot=slot, queue=False)
    added = [models, named, key, file]
    shell.listen(add.click, add_model, inputs=[models, named, key], outputs=added, slot=slot)
    shell.listen(file.input, add_file, inputs=[models, file, key], outputs=added, slot=slot)
    answering: dict[str, Any] = {
        "inputs_kwargs": knobs, "outputs": [talk, shell.talk, prompt, top.action], "slot": slot, "concurrency_limit": 16,
    }  # fmt: skip
    shell.listen([top.action.click, prompt.submit], ask, inputs=[models, prompt, shell.talk], **answering)
    shell.listen(retry.click, ask_again, inputs=[models, shell.talk], **answering)
    shell.listen(controls.ask.click, ask_changed, inputs=[models, shell.talk, controls.message, controls.words], **answering)
    shell.listen(prompt.stop, stop_asking, slot=slot, queue=False)
    shell.listen(undo.click, take_back, inputs=shell.talk, outputs=[talk, shell.talk, prompt], slot=slot, queue=False)
    shell.listen(show.click, show_rendered, inputs=[models, prompt, shell.talk], inputs_kwargs=knobs, outputs=rendered, slot=slot)
    shell.listen(clear.click, forget, outputs=[talk, shell.talk, rendered], slot=slot, queue=False)
    chat_talk.listen(shell, controls, models, knobs["system"], talk, slot, live_slot)
    listen_api(chat, "chat")


@allowed("public")
def offer(picked: list[str], carried: str, kept: dict[str, Any], caller: Caller) -> tuple[Any, ...]:
    """What can be chosen now; what was chosen stays, and where nothing was the newest model is, or the starter."""
    choices = chat_sources.everything(caller)
    chosen = picks.known(picked or picks.chosen_before(kept, carried), choices)
    keep = (chosen or picks.known(picks.newest_model(), choices) or [chat_sources.STARTER])[: picks.MAX_SIDE_BY_SIDE]
    sets = [(f"{run.name} · {run.run_id}", run.run_id) for run in picks.runs_with_models()] if caller.may("owner") else []
    models = gr.skip() if keep == picked and picked else gr.Dropdown(choices, value=keep, multiselect=True)
    return models, gr.Dropdown(sets), *_action(keep, caller)


@allowed("public")
def carry(carried: str, kept: dict[str, Any], caller: Caller) -> gr.Dropdown:
    """The models that another tab has handed over."""
    choices = chat_sources.everything(caller)
    return gr.Dropdown(choices, value=picks.known(picks.chosen_before(kept, carried), choices)[: picks.MAX_SIDE_BY_SIDE], multiselect=True)


@allowed("owner")
def take_set(run_id: str, caller: Caller) -> gr.Dropdown:
    return gr.Dropdown(chat_sources.everything(caller), value=picks.set_of(picks.of_run(run_id)), multiselect=True)


@allowed("owner")
def add_model(picked: list[str], reference: str, key: str, caller: Caller) -> tuple[Any, ...]:
    """Add what is named to the list and choose it, if there is room; where it has several files, ask which."""
    return _added(picked, reference, key, caller)


@allowed("owner")
def add_file(picked: list[str], reference: str, key: str, caller: Caller) -> tuple[Any, ...]:
    """As `add_model`, of the file that was chosen."""
    return _added(picked, reference, key, caller)


def _added(picked: list[str], reference: str, key: str, caller: Caller) -> tuple[Any, ...]:
    try:
        source = chat_sources.add(reference or "", key, caller)
    except SeveralFilesError as several:
        return gr.skip(), gr.skip(), gr.skip(), gr.Dropdown(chat_sources.files_of(several), value=None, visible=True)
    chosen = list(dict.fromkeys([*(picked or []), source.id]))
    models = gr.Dropdown(chat_sources.everything(caller), value=chosen[-picks.MAX_SIDE_BY_SIDE :], multiselect=True)
    return models, "", "", gr.Dropdown([], value=None, visible=False)


def _action(picked: list[str], caller: Caller) -> tuple[Any, ...]:
    names = [source.name for source in chat_sources.find(picked, caller)]
    verb = f"Ask {len(names)} models" if len(names) > 1 else "Ask"
    return said(chat_view.overview(names), "" if names else "Choose a model first.", verb)


@allowed("public")
def name_action(picked: list[str], context_length: float, caller: Caller) -> tuple[Any, ...]:
    found = chat_sources.find(picked or [], caller)
    return *_action(picked or [], caller), chat_sources.memory_line(found, chat_knobs.context_of(context_length, caller))


@allowed("public")
def restore(turns: list[Turn]) -> str:
    return chat_view.transcript(turns)


@allowed("public")
def ask(request: gr.Request, ids: list[str], prompt: str, turns: list[Turn], *, caller: Caller, **values: Any) -> Iterator[tuple[Any, ...]]:
    """The conversation as it grows; at the end it is kept in the browser."""
    yield from _answers(str(request.session_hash), ids, prompt, turns, values, caller)


@allowed("public")
def ask_again(request: gr.Request, ids: list[str], turns: list[Turn], *, caller: Caller, **values: Any) -> Iterator[tuple[Any, ...]]:
    """The last question once more. Its seed goes up by one each time, so that a drawn answer is another one."""
    if not turns:
        raise UserError("There is nothing to ask again.", "the conversation", "Ask something first.")
    tries = int(turns[-1].get("tries", 0)) + 1
    again = values | {"seed": int(values["seed"] or 0) + tries}
    yield from _answers(str(request.session_hash), ids, turns[-1]["prompt"], turns[:-1], again, caller, tries=tries)


@allowed("public")
def ask_changed(
    request: gr.Request, ids: list[str], turns: list[Turn], message: str, words: str, *, caller: Caller, **values: Any
) -> Iterator[tuple[Any, ...]]:
    """Another question in the place of an earlier one; what came after it is dropped."""
    index, _ = chat_talk.place_of(message, turns)
    yield from _answers(str(request.session_hash), ids, words, turns[:index], values, caller)


def _answers(
    page: str, ids: list[str], prompt: str, turns: list[Turn], values: dict[str, Any], caller: Caller, **noted: Any
) -> Iterator[tuple[Any, ...]]:
    if len(json.dumps(turns, ensure_ascii=False).encode(errors="replace")) > KEPT_BYTES:
        remedy = "Save it, then begin a new conversation, or delete some of its turns."
        raise UserError("The conversation is as long as the browser can keep.", "the conversation", remedy)
    sampling = chat_knobs.sampling_of(caller, values)
    asked = [(source, asked_of(source, prompt, turns, values)) for source in chosen(ids, prompt, caller)]
    answers: list[chat_view.Answer] = []
    box, button = gr.Textbox(submit_btn=False, stop_btn="Stop"), gr.Button(interactive=False)
    try:
        with chat_guests.turn(caller):
            chat_ask.drop(page)
            for columns in chat_ask.ask(page, asked, sampling, chat_knobs.context_of(values["context_length"], caller)):
                answers = chat_view.answers_of(columns)
                shown = chat_view.transcript([*turns, {"prompt": prompt, "answers": answers}])
                yield shown, gr.skip(), box, button
                box = button = gr.skip()
    except chat_ask.DroppedError:  # what the page shows now is another handler's
        is_free = not chat_ask.is_asking(page)
        box = gr.Textbox(submit_btn="Ask", stop_btn=False) if is_free else gr.skip()
        yield gr.skip(), gr.skip(), box, gr.Button(interactive=True) if is_free else gr.skip()
        return
    turns = [*turns, {"prompt": prompt, "answers": answers} | noted]
    yield chat_view.transcript(turns), turns, gr.Textbox("", submit_btn="Ask", stop_btn=False), gr.Button(interactive=True)


def asked_of(source: Source, prompt: str, turns: list[Turn], values: dict[str, Any]) -> Asked:
    """What this model is asked: the conversation as it had it, or the bare text where templates are off."""
    return prompt if values["raw"] else messages_for(source.id, prompt, turns, values["system"])


def chosen(ids: list[str], prompt: str, caller: Caller) -> list[Source]:
    """The models to ask.

    Raises:
        UserError: nothing to ask, nobody to ask, too many, an id of no model, or one that is not for visitors.
    """
    if not prompt.strip():
        raise UserError("There is nothing to ask.", "prompt", "Write a prompt first.")
    if len(prompt) > LONGEST_PROMPT:
        raise UserError(f"The prompt has {len(prompt):,} characters.", "prompt", f"Keep it below {LONGEST_PROMPT:,}.")
    if not 1 <= len(set(ids or ())) <= picks.MAX_SIDE_BY_SIDE:
        raise UserError(f"{len(set(ids or ()))} models are chosen.", "models", f"Choose one to {picks.MAX_SIDE_BY_SIDE}.")
    found = chat_sources.find(ids, caller)
    if len(found) < len(set(ids)) and not caller.may("owner"):
        raise UserError("Visitors chat with the starter model.", "models", chat_guests.REMEDY, code="ACCESS")
    if len(found) < len(set(ids)):
        raise UserError("A model that was chosen is not there any more.", "models", "Choose from the list again.")
    return found


@allowed("public")
def take_back(request: gr.Request, turns: list[Turn]) -> tuple[str, list[Turn], Any]:
    """The conversation without its last turn, whose question is back in the box. While one is answered, that is the last one."""
    if chat_ask.drop(str(request.session_hash)):
        return chat_view.transcript(turns), turns, gr.skip()
    if not turns:
        return "", [], gr.skip()
    return chat_view.transcript(turns[:-1]), turns[:-1], turns[-1]["prompt"]


@allowed("public")
def show_rendered(ids: list[str], prompt: str, turns: list[Turn], caller: Caller, **values: Any) -> str:
    """What the models read, their templates' own signs included."""
    sources = chosen(ids, prompt or (turns[-1]["prompt"] if turns else ""), caller)
    prompt, before = (prompt, turns) if prompt.strip() else (turns[-1]["prompt"], turns[:-1])
    context_length = chat_knobs.context_of(values["context_length"], caller)
    with chat_guests.turn(caller):
        read = [
            (f"{source.name} {source.level}", _read(source, asked_of(source, prompt, before, values), context_length)) for source in sources
        ]
    return chat_view.rendered(read)


def _read(source: Source, asked: Asked, context_length: int | None) -> Rendered | UserError:
    try:
        return chat_ask.rendered(source, asked, context_length)
    except UserError as error:  # of one model; the others can still be shown
        return error


@allowed("public")
def stop_asking(request: gr.Request) -> tuple[()]:
    chat_ask.stop(str(request.session_hash))
    return ()


@allowed("public")
def forget(request: gr.Request) -> tuple[str, list[Turn], str]:
    chat_ask.drop(str(request.session_hash))
    return "", [], ""


@allowed("public")
def chat(
    artifact_ids: list[str], prompt: str, system: str = "", temperature: float = 0.0, top_p: float = 1.0,
    max_tokens: int = 256, seed: int = 0, *, caller: Caller,
) -> list[dict[str, Any]]:  # fmt: skip
    """Ask up to six models the same prompt; per model its answer, why it ended, its speed, and its error if it failed."""
    knobs = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    sampling: Sampling = chat_knobs.sampling_of(caller, knobs)
    asked = [(source, messages_for(source.id, prompt, [], system)) for source in chosen(artifact_ids, prompt, caller)]
    with chat_guests.turn(caller):
        *_, whole = chat_ask.ask(f"program-{id(asked)}", asked, sampling)
    fields = ("id", "label", "text", "stop", "stats", "notices", "error")
    return [{field: answer[field] for field in fields} for answer in chat_view.answers_of(whole)]

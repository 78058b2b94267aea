"""What one can do with a conversation: change, delete, fork, save, open again, write out, train on.

What changes the conversation drops the question that is being answered, which belongs to the conversation as it was.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from core.chat import talks, turns
from core.data import writer
from core.errors import UserError
from ui import chat_ask, chat_sources, chat_view, downloads, picks
from ui.access import Caller, allowed
from ui.chat_view import Turn
from ui.shell import DATASET, Shell

LONGEST_WORDS = 20_000  # characters
FILE = "transmute-chat"


@dataclass(frozen=True)
class Controls:
    message: gr.Dropdown  # "3" is turn 3's question, "3:ID" what the model ID answered to it
    words: gr.Textbox
    ask: gr.Button
    keep: gr.Button
    delete: gr.Button
    fork: gr.Button
    saved: gr.Dropdown
    save: gr.Button
    remove: gr.Button
    export: gr.Button
    train: gr.Button
    link: gr.DownloadButton


def controls() -> Controls:
    with gr.Accordion("This conversation", open=False, elem_classes=["group"], elem_id="chat-this"):
        message = gr.Dropdown([], value=None, label="Change a message", elem_id="chat-message")
        words = gr.Textbox(label="Its words", lines=3, max_lines=10, max_length=LONGEST_WORDS, elem_id="chat-words")
        with gr.Row():
            ask = gr.Button("Ask this instead", size="sm", elem_id="chat-ask-changed")
            keep = gr.Button("Keep the change", size="sm", elem_id="chat-keep")
        with gr.Row():
            delete = gr.Button("Delete this turn", size="sm", elem_id="chat-delete")
            fork = gr.Button("Fork after this turn", size="sm", elem_id="chat-fork")
        saved = gr.Dropdown([], value=None, label="Saved conversations", elem_id="chat-saved")
        with gr.Row():
            save = gr.Button("Save", size="sm", elem_id="chat-save")
            remove = gr.Button("Delete saved", size="sm", elem_id="chat-remove")
        with gr.Row():
            export = gr.Button("Save as Vicuna JSON", size="sm", elem_id="chat-export")
            train = gr.Button("Make a dataset of it", size="sm", elem_id="chat-train")
        link = downloads.link("chat-download")
    return Controls(message, words, ask, keep, delete, fork, saved, save, remove, export, train, link)


def listen(shell: Shell, at: Controls, models: Any, system: Any, talk: Any, slot: Any, live_slot: Any) -> None:
    whole = [talk, shell.talk]
    quick: dict[str, Any] = {"slot": slot, "queue": False}
    unasked = quick | {"slot": live_slot}  # nobody has clicked, so what a click has said stays
    shell.listen(shell.talk.change, list_messages, inputs=shell.talk, outputs=[at.message, at.words], **unasked)
    shell.listen(at.message.input, show_words, inputs=[at.message, shell.talk], outputs=at.words, **quick)
    shell.listen(at.keep.click, keep_words, inputs=[shell.talk, at.message, at.words], outputs=whole, **quick)
    shell.listen(at.delete.click, delete_turn, inputs=[shell.talk, at.message], outputs=whole, **quick)
    shell.listen(at.fork.click, fork, inputs=[shell.talk, at.message, models, system], outputs=[*whole, at.saved], **quick)
    shell.listen([shell.demo.load, shell.tab["chat"].select], list_saved, outputs=at.saved, **unasked)
    shell.listen(at.save.click, save, inputs=[shell.talk, models, system], outputs=at.saved, **quick)
    shell.listen(at.saved.input, open_saved, inputs=at.saved, outputs=[*whole, models, system], **quick)
    shell.listen(at.remove.click, remove, inputs=at.saved, outputs=at.saved, **quick)
    shell.listen(at.export.click, export, inputs=[shell.talk, system], outputs=at.link, **quick)
    shell.listen(at.train.click, make_dataset, inputs=[shell.talk, system], outputs=[shell.dataset_id, shell.tabs], slot=slot)


def place_of(message: str | None, of: list[Turn]) -> tuple[int, str]:
    """(turn, source id; empty for the question) of a chosen message.

    Raises:
        UserError: none is chosen, or the conversation has no such one.
    """
    number, _, source_id = (message or "").partition(":")
    if not number.isdigit() or int(number) >= len(of):
        raise UserError("No message is chosen.", "this conversation", "Choose a message of it first.")
    return int(number), source_id


@allowed("public")
def list_messages(of: list[Turn]) -> tuple[gr.Dropdown, str]:
    choices: list[tuple[str, str]] = []
    for index, turn in enumerate(of or []):
        choices.append((f"{index + 1}. {_short(turn['prompt'])}", str(index)))
        for answer in turn["answers"]:
            level = answer["label"].partition(" · ")[0]
            choices.append((f"{index + 1}. {level}: {_short(answer['text'])}", f"{index}:{answer['id']}"))
    return gr.Dropdown(choices, value=None), ""


def _short(words: str) -> str:
    words = " ".join(words.split())
    return words if len(words) <= 40 else words[:39] + "…"


@allowed("public")
def show_words(message: str, of: list[Turn]) -> str:
    index, source_id = place_of(message, of)
    return (turns.answer_of(of[index], source_id) or "") if source_id else of[index]["prompt"]


@allowed("public")
def keep_words(request: gr.Request, of: list[Turn], message: str, words: str) -> tuple[str, list[Turn]]:
    """Other words in one message; the rest stays as it is, and the models read the change from the next question on."""
    index, source_id = place_of(message, of)
    if not words.strip():
        raise UserError("A message cannot be empty.", "its words", "Write something, or delete the turn.")
    chat_ask.drop(str(request.session_hash))
    changed = (
        turns.with_answer(of, index, source_id, words) if source_id else [*of[:index], of[index] | {"prompt": words}, *of[index + 1 :]]
    )
    return chat_view.transcript(changed), changed


@allowed("public")
def delete_turn(request: gr.Request, of: list[Turn], message: str) -> tuple[str, list[Turn]]:
    index, _ = place_of(message, of)
    chat_ask.drop(str(request.session_hash))
    left = turns.without(of, index)
    return chat_view.transcript(left), left


@allowed("owner")
def fork(request: gr.Request, of: list[Turn], message: str, models: list[str], system: str) -> tuple[str, list[Turn], gr.Dropdown]:
    """Save the whole conversation, and go on from here with a copy that ends after the chosen turn."""
    index, _ = place_of(message, of)
    talks.save(of, system=system, models=models or ())
    kept = of[: index + 1]
    chat_ask.drop(str(request.session_hash))
    return chat_view.transcript(kept), kept, _saved()


def _saved(chosen: str | None = None) -> gr.Dropdown:
    return gr.Dropdown([(one.title, one.id) for one in talks.listed()], value=chosen)


@allowed("public")
def list_saved(caller: Caller) -> gr.Dropdown:
    """The owner's; to others they are not shown."""
    return _saved() if caller.may("owner") else gr.Dropdown([], value=None)


@allowed("owner")
def save(of: list[Turn], models: list[str], system: str) -> gr.Dropdown:
    return _saved(talks.save(of, system=system, models=models or ()))


@allowed("owner")
def open_saved(request: gr.Request, identifier: str, caller: Caller) -> tuple[str, list[Turn], gr.Dropdown, str]:
    talk = talks.load(identifier)
    chat_ask.drop(str(request.session_hash))
    choices = chat_sources.everything(caller)
    models = picks.known(talk.models, choices)
    return chat_view.transcript(talk.turns), list(talk.turns), gr.Dropdown(choices, value=models, multiselect=True), talk.system


@allowed("owner")
def remove(identifier: str | None) -> gr.Dropdown:
    talks.delete(identifier or "")
    return _saved()


@allowed("public")
def export(of: list[Turn], system: str) -> str:
    """One conversation per model, in a file to keep."""
    path = downloads.place(FILE, ".json")
    _write(of, system, path)
    return str(path)


@allowed("owner")
def make_dataset(of: list[Turn], system: str) -> tuple[str, gr.Tabs]:
    """The conversation as a dataset of the workspace, and on to it."""
    from core.data.dataset import import_dataset

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{FILE}.json"
        _write(of, system, path)
        dataset = import_dataset(path)
    return dataset.id, gr.Tabs(selected=DATASET)


def _write(of: list[Turn], system: str, path: Path) -> None:
    found = turns.conversations(of or [], system)
    if not found:
        raise UserError("There is no answer to write out yet.", "this conversation", "Ask something first.")
    writer.write(found, path)

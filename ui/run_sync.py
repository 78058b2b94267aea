"""Sending a run's curves to Weights & Biases or to a trackio Space, where its recipe had them written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.events import Run
from core.running import bundle, sync
from ui import background, picks
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import duration, meter, text

TITLE = "Send its curves to Weights & Biases"
KEY_HELP = "From wandb.ai/authorize. Used for this request only and kept nowhere."
SPACE_TITLE = "Send its curves to a trackio Space"
SPACE_HELP = "YOU/NAME. A private Space, made where there is none; one for each run."
WRITES_HELP = (
    "One that may write, from huggingface.co/settings/tokens. Empty takes your login. Used for this request only and kept nowhere."
)
Shown = dict[str, Any]


def build(shell: Shell, slot: gr.HTML) -> Shown:
    """The section; returns what `of_run` fills, by name."""
    with gr.Accordion(TITLE, open=False, visible=False, elem_classes=["group"], elem_id="runs-sync") as section:
        key = gr.Textbox("", label="API key", info=KEY_HELP, type="password", max_length=200, elem_id="runs-sync-key")
        with gr.Row(elem_classes=["actions"]):
            button = gr.Button("Sync", scale=0, min_width=160)
        told = gr.HTML("", container=False, padding=False)
    shell.listen(button.click, send, inputs=[shell.run_id, key], outputs=[key, told], slot=slot, concurrency_limit=2)
    return {"syncing": section, "sync_told": told} | _build_space(shell, slot)


def _build_space(shell: Shell, slot: gr.HTML) -> Shown:
    with gr.Accordion(SPACE_TITLE, open=False, visible=False, elem_classes=["group"], elem_id="runs-space") as section:
        with gr.Row():
            space = gr.Textbox("", label="Space", info=SPACE_HELP, placeholder="YOU/NAME", max_length=200, elem_id="runs-space-name")
            token = gr.Textbox("", label="Token", info=WRITES_HELP, type="password", max_length=200, elem_id="runs-space-token")
        with gr.Row(elem_classes=["actions"]):
            button = gr.Button("Sync", scale=0, min_width=160)
        told = gr.HTML("", container=False, padding=False)
    shell.listen(button.click, send_to_space, inputs=[shell.run_id, space, token], outputs=[token, told], slot=slot, concurrency_limit=2)
    return {"spacing": section, "space": space, "space_told": told}


def of_run(run: Run, caller: Caller, *, is_other: bool) -> Shown:
    is_owner = caller.may("owner")
    shown: Shown = {
        "syncing": gr.Accordion(visible=is_owner and sync.has_offline(run.run_id)),
        "spacing": gr.Accordion(visible=is_owner and bundle.has_trackio(run.run_id)),
    }
    return shown | ({"sync_told": "", "space_told": "", "space": sync.space_of(run.run_id) if is_owner else ""} if is_other else {})


@allowed("owner")
def send(run_id: str, key: str) -> Iterator[tuple[str, str]]:
    """Send what was not sent yet."""
    run_id = picks.shown_run(run_id)
    for now in background.watch(lambda _: sync.send(run_id, key), patience_s=1.0):
        if now.is_finished:
            pages: list[str] = now.result or []
            links = " ".join(f'<a href="{text(page)}" target="_blank" rel="noopener">{text(page)}</a>' for page in pages)
            yield "", f'<div class="message good" role="status"><p class="what">Sent. {links}</p></div>'
        else:
            said = f"Sending. {duration(now.elapsed_s)} so far."
            yield "", f'{meter(1.0, "Sending")}<p class="quiet" role="status">{text(said)}</p>'


@allowed("owner")
def send_to_space(run_id: str, space: str, token: str, caller: Caller) -> Iterator[tuple[str, str]]:
    """Send what the run wrote for trackio, with the token given or the caller's own."""
    run_id = picks.shown_run(run_id)
    for now in background.watch(lambda _: sync.send_to_space(run_id, space, token or caller.token), patience_s=1.0):
        if now.is_finished:
            page = text(now.result["page"])
            when = "" if now.result["is_running"] else " The Hub is still building the Space; its page says when it is there."
            said = f'Sent. <a href="{page}" target="_blank" rel="noopener">{page}</a>{when}'
            yield "", f'<div class="message good" role="status"><p class="what">{said}</p></div>'
        else:
            said = f"Sending, and waiting for the Space, which takes minutes the first time. {duration(now.elapsed_s)} so far."
            yield "", f'{meter(1.0, "Sending")}<p class="quiet" role="status">{text(said)}</p>'

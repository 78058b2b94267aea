"""The line at the top of the page: the machine, the storage, who you are, and what is running. Live, and the same on every tab."""

from __future__ import annotations

import time
from functools import lru_cache

import gradio as gr

from core import doctor, paths
from core.publish import kind, space
from core.publish.space import Advice
from core.running import live
from core.training import hardware
from core.usage import usage
from ui import access
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import count, size, text

EVERY_S = 3.0
ROLES = {
    "owner": "owner, all rights",
    "signed_in": "signed in, read-only",
    "public": "visitor, read-only",
}


def build(shell: Shell) -> None:
    """The line itself, filled when the page opens and again every few seconds."""
    with gr.Row(equal_height=True, elem_classes=["topline"]):
        line = gr.HTML('<div class="top"><h1>Transmute</h1></div>', container=False, padding=False, elem_id="header")
        if access.has_login():
            gr.LoginButton(size="sm", scale=0, min_width=210, variant="secondary", icon=None)
        if visiting := space.visiting():  # a link, so that it needs no listener of Gradio's own
            copy = gr.DuplicateButton(
                "Duplicate this Space",
                link=visiting.url,
                link_target="_blank",
                size="sm",
                scale=0,
                min_width=190,
                visible=False,
                elem_id="duplicate",
                _activate=False,
            )
            shell.listen(shell.demo.load, offer_copy, outputs=copy, queue=False)
    timer = gr.Timer(EVERY_S)
    shell.listen([timer.tick, shell.demo.load], show, outputs=line, queue=False)
    if space.settings_url():
        advised = gr.HTML("", container=False, padding=False, elem_id="advice")
        shell.listen([timer.tick, shell.demo.load], advise, outputs=advised, queue=False)


@allowed("public")
def show(caller: Caller) -> str:
    """The header as HTML."""
    tick = int(time.monotonic() // (EVERY_S / 2))
    facts = (_machine(), _memory(), _storage(), _who(caller), _work(tick))
    cells = "".join(
        f'<span class="{"warning" if warns else ""}">{text(label)} <b>{text(value)}</b></span>' for label, value, warns in facts
    )
    return f'<div class="top" role="status" aria-live="off"><h1>Transmute</h1>{cells}</div>'


@allowed("public")
def offer_copy(caller: Caller) -> gr.DuplicateButton:
    """The way to a Space of their own, for whoever may not act on this one."""
    return gr.DuplicateButton(visible=not caller.may("owner"))


@allowed("public")
def advise(caller: Caller) -> str:
    """What the owner of a Space should know about its hardware, storage and money, and a visitor about a copy of their own, as HTML.

    The same text again changes nothing on the page.
    """
    return advice_html(caller, sum(not run.is_terminal for run in live.all_runs()))


def advice_html(caller: Caller, runs_going_on: int) -> str:
    if not caller.may("owner"):
        return "".join(_details(advice, "Duplicate this Space") for advice in (space.visiting(),) if advice)
    given = (kind.kind(), space.storage(), space.money(runs_going_on))
    return "".join(_details(advice, "Settings of this Space") for advice in given if advice)


def _details(advice: Advice, link: str) -> str:
    steps = "".join(f"<li>{text(step)}</li>" for step in advice.steps)
    there = f'<a href="{text(advice.url)}" target="_blank" rel="noopener">{text(link)}</a>'
    return f'<details class="quiet"><summary>{text(advice.said)}</summary><ol>{steps}</ol>{there}</details>'


@lru_cache(maxsize=1)
def _machine() -> tuple[str, str, bool]:
    found = hardware.detect()
    if hardware.is_zero_gpu():
        return "GPU", "lent by ZeroGPU for chats", False
    if not found.gpus:
        return "CPU only", count(found.cpu_count, "core"), False
    names = sorted({gpu.name for gpu in found.gpus})
    return "GPU", f"{len(found.gpus)} × {', '.join(names)}" if len(found.gpus) > 1 else names[0], False


def _memory() -> tuple[str, str, bool]:
    """GPU memory in use where there is a GPU, main memory where not."""
    now = usage()
    used, total = now.ram_used_bytes, now.ram_total_bytes
    if now.gpus and all(gpu.memory_total_bytes for gpu in now.gpus):
        used, total = sum(gpu.memory_used_bytes or 0 for gpu in now.gpus), sum(gpu.memory_total_bytes or 0 for gpu in now.gpus)
    return "Memory", f"{used / 1e9:.1f} of {size(total)}", used > 0.92 * total


@lru_cache(maxsize=1)
def _storage() -> tuple[str, str, bool]:
    state = doctor.persistence(paths.home()).state
    said = {"ok": "kept over a restart", "warn": "lost at a restart", "fail": "cannot be written"}
    return "Storage", said[state], state != "ok"


def _who(caller: Caller) -> tuple[str, str, bool]:
    if caller.is_local:
        return "You", "this machine, all rights", False
    if caller.role == "public":
        return "You", ROLES["public"], False
    return caller.name, ROLES[caller.role], False


@lru_cache(maxsize=1)
def _work(_tick: int) -> tuple[str, str, bool]:
    """How many runs go on and how many wait."""
    states = [run.state for run in live.all_runs()]
    going, waiting = states.count("running") + states.count("stopping"), states.count("queued")
    words = [f"{number} {word}" for number, word in ((going, "running"), (waiting, "queued")) if number]
    return "Runs", ", ".join(words) or "none running", False

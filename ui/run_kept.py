"""Keeping a run on the Hub while it trains, and bringing one back: for a Space whose disk does not outlive a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import UserError
from core.events import Run
from core.jobs import safekeeping
from core.running import runs
from ui import background, feedback, picks
from ui.access import Caller, allowed
from ui.shell import Shell
from ui.view import duration, meter, text

TITLE = "Keep its checkpoints on the Hub"
HELP = (
    "What the run is made of and its newest checkpoint go to a private repository of yours while it trains. After a restart that took "
    "this disk away, the run is brought back from there and goes on. The login is held in memory for that, and kept nowhere."
)
BACK = "Bring back a run that was kept on the Hub"
BACK_HELP = "The repository that the run named when it was kept: your user name, a slash, transmute- and the run's id."
Shown = dict[str, Any]


def build(shell: Shell, slot: gr.HTML) -> Shown:
    """The section of a run; returns what `of_run` fills, by name."""
    with gr.Accordion(TITLE, open=False, visible=False, elem_classes=["group"], elem_id="runs-keep") as section:
        said = gr.HTML("", container=False, padding=False)
        with gr.Row(elem_classes=["actions"]):
            button = gr.Button("Keep it", scale=0, min_width=160, visible=False, elem_id="runs-keep-start")
    outputs = {"kept_said": said, "keep_now": button}
    shell.listen(button.click, keep, inputs=shell.run_id, outputs=outputs, slot=slot, concurrency_limit=2)
    return {"keeping": section, **outputs}


def build_back(shell: Shell, slot: gr.HTML) -> gr.Accordion:
    """The section, open to owners at any time, from which a run comes back."""
    with (
        gr.Column(elem_classes=["sections", "part-of-tab"]),
        gr.Accordion(BACK, open=False, visible=False, elem_classes=["group"], elem_id="runs-back") as section,
    ):
        repo_id = gr.Textbox("", label="Its repository", info=BACK_HELP, placeholder="you/transmute-261128-120000-abcd", max_length=140)
        progress = gr.HTML("", container=False, padding=False)
        with gr.Row(elem_classes=["actions"]):
            button = gr.Button("Bring it back and go on", scale=0, min_width=220, elem_id="runs-back-start")
    shell.listen(button.click, bring_back, inputs=repo_id, outputs=[progress, shell.run_id], slot=slot, concurrency_limit=2)
    return section


def of_run(run: Run, caller: Caller) -> Shown:
    """What is kept of `run`; the section is there for its owner, while it is of use."""
    is_of_use = bool(run.kept) or not (run.is_terminal or run.is_taken)
    may = caller.may("owner") and is_of_use and not runs.is_elsewhere(runs.folder(run.run_id))
    return {"keeping": gr.Accordion(visible=may)} | (_shown(run) if may else {})


def _shown(run: Run) -> Shown:
    is_kept = safekeeping.is_kept(run.run_id)
    kept, error = run.kept, run.kept.get("error")
    parts = [HELP]
    if kept:
        newest = kept.get("checkpoint") or "no checkpoint yet"
        goes_on = (
            "" if is_kept or run.is_terminal else " It is not kept any longer, because this page's server was started anew since then."
        )
        parts = [f"Kept in {kept.get('repo_id')}: {newest}.{goes_on}"]
    said = "".join(f'<p class="sum">{text(part)}</p>' for part in parts)
    if error:
        said += feedback.card(UserError.from_dict(error))
    return {"kept_said": said, "keep_now": gr.Button(visible=not is_kept and not run.is_terminal)}


@allowed("owner")
def keep(run_id: str, caller: Caller) -> Shown:
    """Begin to keep the run."""
    run_id = picks.shown_run(run_id)
    safekeeping.keep(run_id, caller.token)
    return _shown(runs.load(run_id))


@allowed("owner")
def bring_back(repo_id: str, caller: Caller) -> Iterator[tuple[Any, Any]]:
    """Bring a run back, go on with it and keep it as before."""

    def work(_: Any) -> str:
        run_id = safekeeping.bring_back(repo_id, caller.token)
        if runs.load(run_id).state != "done":
            runs.start(run_id)
            safekeeping.keep(run_id, caller.token)
        return run_id

    for now in background.watch(work, patience_s=1.0):
        if now.is_finished:
            yield "", now.result
        else:
            said = f"Fetching the run, its data and its model. {duration(now.elapsed_s)} so far."
            yield f'{meter(1.0, "Bringing it back")}<p class="quiet" role="status">{text(said)}</p>', gr.skip()

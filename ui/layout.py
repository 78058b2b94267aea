"""The page put together: header, six tabs in the order of the road, and what they share."""

from __future__ import annotations

import json
from collections.abc import Callable

import gradio as gr

from ui import chat_tab, dataset_tab, feedback, header, models_tab, programs, publish_tab, runs_tab, train_tab
from ui.shell import CHAT, DATASET, MODELS, PUBLISH, RUNS, TABS, TRAIN, Shell, kept

BUILD: dict[str, Callable[[Shell], None]] = {
    DATASET: dataset_tab.build,
    TRAIN: train_tab.build,
    RUNS: runs_tab.build,
    MODELS: models_tab.build,
    CHAT: chat_tab.build,
    PUBLISH: publish_tab.build,
}
TIMED = {RUNS: 1.0, MODELS: 2.0}  # tabs that look again every so many seconds while they are open
PROBE_S = 1.0  # between two looks at a probe that goes on
IMPORT_S = 0.5  # between two looks at an import that goes on
SWEEP_S = (3600, 24 * 3600)  # every hour, uploads and other temporary files that are a day old are deleted
QUEUE = 256  # calls that may wait; a part of them may be visitors' (ui.limits)
BEGINS = """async () => {
    const began = window.transmuteBegan
    window.transmuteBegan = true
    await new Promise(requestAnimationFrame)
    const chosen = document.querySelector("[role=tab][aria-selected=true]")
    return began && chosen?.textContent.trim() === "Dataset" ? %s : Array(%d).fill({__type__: "update"})
}"""


# The tab that was open before the page was reloaded. Asked of nobody: an answer from the server could undo a click made meanwhile.
LATER_TABS = json.dumps([tab_id for tab_id, _ in TABS[1:]])
REOPENS = "tab => ({__type__: 'update', ...(" + LATER_TABS + ".includes(tab) ? {selected: tab} : {})})"


def build() -> gr.Blocks:
    """The whole page, not yet launched."""
    with gr.Blocks(title="Transmute", analytics_enabled=False, fill_width=True, delete_cache=SWEEP_S) as demo:
        tabs = gr.Tabs(selected=DATASET, render=False)
        ids = {name: kept(name, "") for name in ("dataset_id", "run_id", "artifact_id")}
        opened = kept("tab", DATASET)
        messages = feedback.slot(render=False)
        forms = {"form": kept("form", None), "talk": kept("chat", []), "repo_id": kept("repo", ""), "import_id": kept("import", "")}
        choices = {name: kept(name.replace("_", "-"), {}) for name in ("chat_choice", "publish_choice", "publish_card")}
        # Timers stand outside the tabs: what is inside one is not there, and hears nothing, before the tab is opened.
        timers = {tab_id: gr.Timer(every_s, active=False) for tab_id, every_s in TIMED.items()}
        import_timer, probe_timer = gr.Timer(IMPORT_S, active=False), gr.Timer(PROBE_S, active=False)
        probing = {"probe_id": kept("probe", ""), "probe_timer": probe_timer}
        shell = Shell(
            demo=demo, tabs=tabs, messages=messages, timers=timers, import_timer=import_timer, **probing, **ids, **forms, **choices
        )
        header.build(shell)
        messages.render()
        with tabs.render():
            for tab_id, title in TABS:
                with gr.Tab(title, id=tab_id) as shell.tab[tab_id]:
                    BUILD[tab_id](shell)
        programs.offer()
        for tab_id, tab in shell.tab.items():
            tab.select(None, js=_opened(tab_id), outputs=[opened, *timers.values()], api_visibility="private")
        demo.load(None, js=REOPENS, inputs=opened, outputs=tabs, api_visibility="private")
    demo.queue(default_concurrency_limit=8, max_size=QUEUE)
    return demo


def _opened(tab_id: str) -> str:
    """Keeps which tab was opened and lets its timer tick, in the browser itself and so in the order of the clicks.

    When the page begins, the first tab is told as opened too, even after a click on another one; then nothing is changed.
    """
    ticking = ", ".join(f'{{__type__: "update", active: {json.dumps(timed == tab_id)}}}' for timed in TIMED)
    told = f"[{json.dumps(tab_id)}, {ticking}]"
    return f"() => {told}" if tab_id != DATASET else BEGINS % (told, 1 + len(TIMED))

"""The page put together: header, six tabs in the order of the road, and what they share."""

from __future__ import annotations

from collections.abc import Callable

import gradio as gr

from ui import chat_tab, dataset_tab, feedback, header, models_tab, publish_tab, runs_tab, train_tab
from ui.access import allowed
from ui.shell import CHAT, DATASET, MODELS, PUBLISH, RUNS, TABS, TRAIN, Shell, kept

BUILD: dict[str, Callable[[Shell], None]] = {
    DATASET: dataset_tab.build,
    TRAIN: train_tab.build,
    RUNS: runs_tab.build,
    MODELS: models_tab.build,
    CHAT: chat_tab.build,
    PUBLISH: publish_tab.build,
}
SWEEP_S = (3600, 24 * 3600)  # every hour, uploads and other temporary files that are a day old are deleted


def build() -> gr.Blocks:
    """The whole page, not yet launched."""
    with gr.Blocks(title="Transmute", analytics_enabled=False, fill_width=True, delete_cache=SWEEP_S) as demo:
        tabs = gr.Tabs(selected=DATASET, render=False)
        ids = {name: kept(name, "") for name in ("dataset_id", "run_id", "artifact_id")}
        opened = kept("tab", DATASET)
        messages = feedback.slot(render=False)
        forms = {"form": kept("form", None), "talk": kept("chat", []), "repo_id": kept("repo", "")}
        shell = Shell(demo=demo, tabs=tabs, messages=messages, **ids, **forms)
        header.build(shell)
        messages.render()
        with tabs.render():
            for tab_id, title in TABS:
                with gr.Tab(title, id=tab_id) as shell.tab[tab_id]:
                    BUILD[tab_id](shell)
        for tab in shell.tab.values():
            shell.listen(tab.select, remember, outputs=opened, queue=False)
        shell.listen(demo.load, reopen, inputs=opened, outputs=tabs, queue=False)
    demo.queue(default_concurrency_limit=8, max_size=256)
    return demo


@allowed("public")
def remember(event: gr.SelectData) -> str:
    """The id of the tab that was opened."""
    return next((tab_id for tab_id, title in TABS if title == event.value), DATASET)


@allowed("public")
def reopen(tab_id: str) -> gr.Tabs:
    """The tab that was open before the page was reloaded."""
    return gr.Tabs(selected=tab_id if tab_id in BUILD else DATASET)

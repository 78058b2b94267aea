"""The page put together: header, six tabs in the order of the road, and what they share."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import gradio as gr

from ui import dataset_tab, feedback, header, train_tab
from ui.access import allowed
from ui.shell import DATASET, TABS, TRAIN, Shell, kept

BUILD = {DATASET: dataset_tab.build, TRAIN: train_tab.build}
for _id, _ in TABS[2:]:
    if find_spec(f"ui.{_id}_tab"):
        BUILD[_id] = import_module(f"ui.{_id}_tab").build


def build() -> gr.Blocks:
    """The whole page, not yet launched."""
    with gr.Blocks(title="Transmute", analytics_enabled=False, fill_width=True) as demo:
        tabs = gr.Tabs(selected=DATASET, render=False)
        ids = {name: kept(name, "") for name in ("dataset_id", "run_id", "artifact_id")}
        opened = kept("tab", DATASET)
        messages = feedback.slot(render=False)
        shell = Shell(demo=demo, tabs=tabs, form=kept("form", None), messages=messages, **ids)
        header.build(shell)
        messages.render()
        with tabs.render():
            for tab_id, title in TABS:
                with gr.Tab(title, id=tab_id) as shell.tab[tab_id]:
                    if tab_id in BUILD:
                        BUILD[tab_id](shell)
        for tab_id, tab in shell.tab.items():
            shell.listen(tab.select, _opened(tab_id), outputs=opened, queue=False)
        shell.listen(demo.load, reopen, inputs=opened, outputs=tabs, queue=False)
    demo.queue(default_concurrency_limit=8, max_size=256)
    return demo


def _opened(tab_id: str):
    @allowed("public")
    def remember() -> str:
        return tab_id

    return remember


@allowed("public")
def reopen(tab_id: str) -> gr.Tabs:
    """The tab that was open before the page was reloaded."""
    known = dict(TABS)
    return gr.Tabs(selected=tab_id if tab_id in known else DATASET)

"""A page that is opened costs next to nothing, and what it changes stays its own."""

from __future__ import annotations

import gradio as gr
import pytest
from gradio import state_holder

from ui import sessions


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> gr.Blocks:
    monkeypatch.setattr(state_holder, "SessionState", state_holder.SessionState)  # put back afterwards
    sessions.keep_little()
    with gr.Blocks() as demo:
        demo.box, demo.held = gr.Textbox("as built"), gr.State([1])  # type: ignore[attr-defined]
    return demo


def opened(demo: gr.Blocks) -> state_holder.StateHolder:
    pages = state_holder.StateHolder()
    pages.set_blocks(demo)
    return pages


def test_nothing_is_written_down_for_a_page_that_changed_nothing(demo: gr.Blocks) -> None:
    page = opened(demo)["page"]
    assert isinstance(page, sessions.Session) and list(page.components) == []
    assert page[demo.box._id] is demo.box and page[demo.held._id] == [1]  # type: ignore[attr-defined]


def test_what_one_page_changes_is_written_down_for_it_alone(demo: gr.Blocks) -> None:
    pages, box, held = opened(demo), demo.box, demo.held  # type: ignore[attr-defined]
    pages["one"][box._id] = gr.Textbox("changed", render=False)
    pages["one"]._update_value_in_config(box._id, "typed")
    pages["one"][held._id] = [2]
    assert pages["one"][box._id].value == "changed" and pages["one"][held._id] == [2]
    assert [shown["props"]["value"] for shown in pages["one"].components if shown["id"] == box._id] == ["typed"]
    assert pages["other"][box._id] is box and pages["other"][held._id] == [1] and list(pages["other"].components) == []


def test_gradio_writes_down_what_we_leave_out_so_that_this_is_looked_at_when_it_no_longer_does(demo: gr.Blocks) -> None:
    plain = sessions.Session.__bases__[0](demo)
    assert list(plain.components) and plain.blocks_config.blocks.keys() == opened(demo)["page"].blocks_config.blocks.keys()

"""What the browser does with the page's listeners: two habits of Gradio 6.31's frontend that cost seconds, or never end."""

from collections import Counter

import gradio as gr
import pytest

from ui import layout
from ui.shell import FOLLOWED


@pytest.fixture(scope="module")
def page():
    return layout.build()


@pytest.fixture(scope="module")
def listeners(page):
    return list(page.fns.values())


def test_no_event_has_two_listeners_that_wait_for_the_last(page, listeners):
    """When such a listener ends, the frontend sends the whole event again, so that two of them wake each other for ever.

    The change of a state is sent to each of its listeners by itself.
    """
    waiting = Counter(event for fn in listeners if fn.trigger_mode == "always_last" for event in fn.targets if not is_state(page, event))
    assert waiting and [event for event, count in waiting.items() if count > 1] == []


def test_no_listener_to_a_value_misses_its_last_change(listeners):
    """In the mode ``once``, which is Gradio's for most events, the frontend drops what comes while an earlier one is still answered."""
    deaf = {name_of(fn) for fn in listeners if fn.fn and fn.trigger_mode == "once" for _, event in fn.targets if event in FOLLOWED}
    asks_again = {name_of(fn) for fn in listeners for _, event in fn.targets if event == "tick"}
    assert deaf - asks_again == set()


def name_of(fn):
    return fn.fn.__qualname__


def is_state(page, event):
    return type(page.blocks.get(event[0])) is gr.State


def test_progress_is_kept_for_one_component(listeners):
    """The frontend writes the status of every component that ever showed progress, at each step of each event."""
    shown = {
        component._id for fn in listeners if fn.api_visibility == "private" and fn.fn for component in fn.show_progress_on or fn.outputs
    }
    assert len(shown) == 1

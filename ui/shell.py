"""What every tab is given: the ids that travel from one tab to the next, and the one way to attach a handler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from ui import feedback

DATASET, TRAIN, RUNS, MODELS, CHAT, PUBLISH = "dataset", "train", "runs", "models", "chat", "publish"
TABS: tuple[tuple[str, str], ...] = (
    (DATASET, "Dataset"),
    (TRAIN, "Train"),
    (RUNS, "Runs"),
    (MODELS, "Models"),
    (CHAT, "Chat"),
    (PUBLISH, "Publish"),
)
# Only ids and form values are ever kept in the browser, so this need not be a secret; it must outlive a restart of the app.
BROWSER_SECRET = "transmute-ids-only"  # noqa: S105
FOLLOWED = {"input", "change", "key_up", "release"}  # events of a value; the last one has to be heard


NO_ID = "none"  # kept where an id is over: the browser would keep the old one instead of an empty text (Gradio 6.31's BrowserState)


def kept(name: str, value: Any) -> gr.BrowserState:
    """A value that the browser keeps over a reload and a restart of the app. Never a token, never anything private."""
    return gr.BrowserState(value, storage_key=f"transmute-{name}", secret=BROWSER_SECRET)


@dataclass
class Shell:
    """Handed to each tab's ``build(shell)``. The three states hold ids only (empty text: none chosen yet)."""

    demo: gr.Blocks
    tabs: gr.Tabs
    dataset_id: gr.BrowserState
    run_id: gr.BrowserState
    artifact_id: gr.BrowserState
    # What single tabs keep; a state inside a tab would not be there before the tab is opened.
    form: gr.BrowserState  # the Train tab's form
    talk: gr.BrowserState  # the Chat tab's conversation
    repo_id: gr.BrowserState  # the repository named on the Publish tab
    chat_choice: gr.BrowserState  # the models chosen on the Chat tab, see `picks.keep`
    publish_choice: gr.BrowserState  # and on the Publish tab
    publish_card: gr.BrowserState  # the card edited there, and what for
    import_id: gr.BrowserState  # the import that goes on, or waits for its columns to be named
    probe_id: gr.BrowserState  # the probe that was started on the Train tab
    probe_timer: gr.Timer  # ticks only while it goes on
    import_timer: gr.Timer  # ticks only while an import goes on, on whatever tab
    messages: gr.HTML  # the page's own place for messages, under the header
    timers: dict[str, gr.Timer]  # by tab id; each ticks only while its tab is open
    tab: dict[str, gr.Tab] = field(default_factory=dict)  # by id; `shell.tab[RUNS].select` fires when a tab is opened

    def go(self, tab_id: str) -> gr.Tabs:
        """The update that opens another tab; return it for the output `shell.tabs`."""
        return gr.Tabs(selected=tab_id)

    def listen(
        self,
        triggers: Callable[..., Any] | Sequence[Callable[..., Any]],
        handler: Callable[..., Any],
        *,
        inputs: Sequence[Any] | Any = (),
        inputs_kwargs: dict[str, Any] | None = None,
        outputs: Sequence[Any] | dict[str, Any] | Any = (),
        slot: gr.HTML | None = None,
        **options: Any,
    ) -> Any:
        """Attach `handler`, which must carry `@allowed`, to events such as ``button.click`` or ``shell.demo.load``.

        An error appears as a card in `slot`, which is cleared when all goes well. The listener is private.
        A listener to a value hears its last change, whatever goes on meanwhile.
        With a dict of named `outputs` the handler returns a dict too, of the names it changes.
        """
        assert hasattr(handler, "allowed_role"), f"{handler.__name__} has no @allowed mark"
        to = outputs if isinstance(outputs, (list, tuple, dict)) else [outputs]
        fn = feedback.mapped(handler, to)
        shown = list(to.values()) if isinstance(to, dict) else list(to)
        # Gradio keeps a status for every component that shows progress and writes all of them at each step of each event, whether shown
        # or not; with one component for all listeners a click costs the browser milliseconds instead of a second.
        quiet = {"show_progress": "hidden", "show_progress_on": self.messages, "api_visibility": "private"}
        heard = {getattr(event, "event_name", "") for event in (triggers if isinstance(triggers, (list, tuple)) else [triggers])}
        if heard & FOLLOWED and "tick" not in heard:
            quiet["trigger_mode"] = "always_last"  # Gradio drops what is chosen or typed while an earlier choice is still answered
        options = quiet | options
        wired = {"fn": fn, "inputs": inputs or None, "inputs_kwargs": inputs_kwargs, "outputs": [slot or self.messages, *shown], **options}
        if not isinstance(triggers, (list, tuple)):
            return triggers(**wired)
        return gr.on(triggers, **wired)


def listen_api(handler: Callable[..., Any], name: str, **options: Any) -> None:
    """Offer `handler`, which must carry `@allowed` and typed parameters, as the public endpoint `name`. `options` are Gradio's."""
    assert hasattr(handler, "allowed_role"), f"{handler.__name__} has no @allowed mark"
    gr.api(feedback.for_programs(handler), api_name=name, **options)

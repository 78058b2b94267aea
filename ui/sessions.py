"""What Gradio remembers of each open page: what was changed there, and no copy of everything else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gradio import state_holder

# Pages remembered, those in use before the others. Anybody can open one more, and Gradio's own 10,000 would be gigabytes.
MOST = 1000


class Session(state_holder.SessionState):
    """Gradio's, which writes down every component of the page for each visitor, to give out links to what a page looks like.

    ``ui.doors`` lets nobody ask for such a link, and for this page that would be 1.4 MB, 4,000 objects for the garbage collector and some
    50 ms in which no other page is answered. What a handler changes is written down when it does.
    """

    def __init__(self, blocks: Any) -> None:
        super().__init__(SimpleNamespace(default_config=blocks.default_config, blocks={}))  # type: ignore[arg-type]


def keep_little() -> None:
    """From now on Gradio remembers a page as a `Session`."""
    state_holder.SessionState = Session  # type: ignore[misc]

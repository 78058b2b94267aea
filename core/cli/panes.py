"""Answers of several models on a terminal, side by side as they grow."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from core.chat.engine import Sampling
from core.chat.sources import Source
from core.chat.together import Question, side_by_side
from core.errors import UserError


class Pane:
    """One model's answer as it grows."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = ""
        self.notices: list[str] = []
        self.ending: dict[str, Any] = {}
        self.error: UserError | None = None

    def take(self, piece: Any) -> None:
        """A Piece of the answer, or the UserError that ended it."""
        if isinstance(piece, UserError):
            self.error = piece
            return
        self.text += piece.text
        if piece.notice:
            self.notices.append(piece.notice)
        if piece.done:
            self.ending = {"stop": piece.done, **piece.stats}

    def panel(self) -> RenderableType:
        speed = self.ending.get("tokens_per_s")
        footer = f"{speed:.0f} tokens/s" if speed else None
        return Panel(self._body(), title=Text(f"{self.source.name} {self.source.level}"), subtitle=footer)

    def print_to(self, out: Console) -> None:
        out.print(f"{self.source.name} {self.source.level}", style="bold", markup=False)
        out.print(self._body(), end="\n\n")

    def _body(self) -> Text:
        body = Text(self.text.strip())
        for said in [*self.notices, *([str(self.error)] if self.error else [])]:
            body.append(f"\n{said}", style="yellow")
        return body

    def described(self, prompt: str) -> dict[str, Any]:
        fields = {"artifact": self.source.id, "level": self.source.level, "prompt": prompt, "answer": self.text.strip(), **self.ending}
        return fields | ({"notices": self.notices} if self.notices else {}) | ({"error": self.error.as_dict()} if self.error else {})


def answered(out: Console, sources: Sequence[Source], questions: Sequence[Question], sampling: Sampling) -> list[Pane]:
    """Ask, and show the answers as they come; on what is no terminal, once they are whole. Ctrl-C ends them and keeps what is there."""
    panes = [Pane(source) for source in sources]
    with ExitStack() as stack:
        view = stack.enter_context(Live(console=out, refresh_per_second=12)) if out.is_terminal else None
        pieces = side_by_side(questions, sampling)
        try:
            for index, piece in pieces:
                panes[index].take(piece)
                if view:
                    view.update(Columns([pane.panel() for pane in panes], equal=True, expand=True))
        except KeyboardInterrupt:
            pieces.close()  # type: ignore[attr-defined] # a generator
            for pane in panes:
                pane.ending = pane.ending or {"stop": "stopped"}
    if not out.is_terminal:
        for pane in panes:
            pane.print_to(out)
    return panes

"""The verb chat: one or several models answer the same question, side by side."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from core.cli.output import Json, console, finish
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact


def chat(
    sources: Annotated[list[str], typer.Argument(metavar="ARTIFACT", help="Artifact ids, model folders or .gguf files.")],
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    system: Annotated[str | None, typer.Option(help="A system message; default: the template's own.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answer.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="0 always takes the likeliest token.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens per answer at most.")] = 256,
    json: Json = False,
) -> None:
    """Ask one or several models the same question; their answers stream side by side."""
    from core.chat.engine import Sampling, open_engine
    from core.chat.together import side_by_side

    panes = [Pane(artifacts.resolve(source)) for source in sources]
    messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": prompt}]
    sampling = Sampling(temperature=temperature, seed=seed, max_tokens=max_tokens)
    out = console(json)
    with ExitStack() as stack:
        engines = [stack.enter_context(open_engine(pane.artifact)) for pane in panes]
        view = stack.enter_context(Live(console=out, refresh_per_second=12)) if out.is_terminal else None
        for index, piece in side_by_side(engines, messages, sampling):
            panes[index].take(piece)
            if view:
                view.update(Columns([pane.panel() for pane in panes], equal=True, expand=True))
    if not out.is_terminal:
        for pane in panes:
            pane.print_to(out)
    failed = any(pane.error for pane in panes)
    finish(json, {"answers": [pane.described(prompt) for pane in panes]}, 1 if failed else 0)


class Pane:
    """One model's answer as it grows."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.label = artifact.level or artifact.kind
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
        return Panel(self._body(), title=Text(f"{self.artifact.name} {self.label}"), subtitle=footer)

    def print_to(self, out: Console) -> None:
        out.print(f"{self.artifact.name} {self.label}", style="bold", markup=False)
        out.print(self._body(), end="\n\n")

    def _body(self) -> Text:
        body = Text(self.text.strip())
        for said in [*self.notices, *([str(self.error)] if self.error else [])]:
            body.append(f"\n{said}", style="yellow")
        return body

    def described(self, prompt: str) -> dict[str, Any]:
        fields = {"artifact": self.artifact.id, "level": self.label, "prompt": prompt, "answer": self.text.strip(), **self.ending}
        return fields | ({"notices": self.notices} if self.notices else {}) | ({"error": self.error.as_dict()} if self.error else {})


VERBS = {"chat": chat}

"""A conversation on the terminal, line by line, with one or several models."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from core.chat.engine import Answering, Messages, Sampling
from core.chat.sources import Source
from core.chat.together import Question
from core.cli.panes import Pane, answered

HELP = "Write to ask. /retry asks again with another seed, /undo takes the last question back, /system TEXT sets the system message, /exit ends."


class Talk:
    """The conversation so far: what was asked, and what each model answered."""

    def __init__(self, out: Console, sources: Sequence[Source], engines: Sequence[Answering], sampling: Sampling, system: str = "") -> None:
        self.out, self.sources, self.engines, self.sampling, self.system = out, sources, engines, sampling, system
        self.turns: list[tuple[str, list[Pane]]] = []

    def say(self, line: str) -> bool:
        """Do what one line asks for; False when it ends the conversation."""
        command, _, rest = line.strip().partition(" ")
        if command in ("/exit", "/quit"):
            return False
        if command == "/undo":
            self.out.print(f"Taken back: {self.turns.pop()[0]}" if self.turns else "There is nothing to take back.", markup=False)
        elif command == "/retry":
            if self.turns:
                prompt, _ = self.turns.pop()
                self.sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + 1})
                self.ask(prompt)
            else:
                self.out.print("There is nothing to ask again.")
        elif command == "/system":
            self.system = rest.strip()
            self.out.print("The system message is set." if self.system else "The template's own system message is used.")
        elif command.startswith("/"):
            self.out.print(HELP, markup=False)
        elif line.strip():
            self.ask(line.strip())
        return True

    def ask(self, prompt: str) -> None:
        questions = [
            Question(engine, self.messages(index, prompt), source.with_adapter)
            for index, (source, engine) in enumerate(zip(self.sources, self.engines, strict=True))
        ]
        self.turns.append((prompt, answered(self.out, self.sources, questions, self.sampling)))

    def messages(self, index: int, prompt: str) -> Messages:
        """The conversation as model `index` had it: only the turns that it answered."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for asked, panes in self.turns:
            if panes[index].text.strip():
                messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": panes[index].text.strip()}]
        return [*messages, {"role": "user", "content": prompt}]


def loop(talk: Talk) -> None:
    """Read lines until /exit, the end of the input, or Ctrl-C at the prompt."""
    talk.out.print(HELP, style="dim", markup=False)
    while True:
        try:
            line = talk.out.input("[bold]> [/]")
        except (EOFError, KeyboardInterrupt):
            talk.out.print()
            return
        if not talk.say(line):
            return

"""Progress of the engine's work as bars on a terminal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from core.export.jobs import OnEvent


@contextmanager
def bars(out: Console, title: str) -> Generator[OnEvent]:
    """An `on_event` that draws one bar for each thing worked on: a level by its `id`, a stage by what it is `doing`, else the whole.

    Where `out` is no terminal, it draws nothing.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:

        def draw(event: dict[str, Any]) -> None:
            if event["event"] != "progress":
                return
            name = str(event.get("id") or event.get("doing") or event.get("text") or title)
            if name not in tasks:
                tasks[name] = progress.add_task(name)
            progress.update(tasks[name], completed=event["done"], total=event["total"])

        yield draw

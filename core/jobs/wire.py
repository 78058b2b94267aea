"""Events through a job's log: numbered lines with a mark, each short enough for any log, put together again whatever comes twice or late."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from core.events import Event

MARK = "@transmute"
LINE = re.compile(rf"{MARK} (\d+) (\d+)/(\d+) (.*)", re.DOTALL)
PART_CHARACTERS = 4000  # ASCII, so bytes too; container logs are cut at 16 KiB


def encode(number: int, event: Event) -> list[str]:
    """The lines of event `number` (from 0): ASCII, without a line break."""
    text = json.dumps(event, ensure_ascii=True)
    parts = [text[at : at + PART_CHARACTERS] for at in range(0, len(text), PART_CHARACTERS)]
    return [f"{MARK} {number} {index}/{len(parts)} {part}" for index, part in enumerate(parts, 1)]


def plain(line: str) -> str:
    """A line of ordinary output, which must not be taken for an event."""
    return f" {line}" if line.startswith(MARK) else line


class Inbox:
    """Puts events together again. Each number comes out exactly once and in order; numbers below `first` are known already."""

    def __init__(self, first: int = 0) -> None:
        self.next = first
        self._parts: dict[int, dict[int, str]] = {}
        self._whole: dict[int, Event] = {}

    def take(self, line: str) -> Iterator[tuple[int, Event]]:
        """The events that `line` completes, with their numbers. A damaged line is as good as none: its event stays missing."""
        match = LINE.fullmatch(line.rstrip("\r\n"))
        if not match:
            return
        number, index, count = int(match[1]), int(match[2]), int(match[3])
        if number < self.next or number in self._whole or not 1 <= index <= count:
            return
        parts = self._parts.setdefault(number, {})
        parts[index] = match[4]
        if len(parts) == count:
            del self._parts[number]
            self.give(number, "".join(parts[each] for each in sorted(parts)))
        yield from self._ready()

    def give(self, number: int, text: str) -> None:
        """One event as JSON."""
        try:
            event = json.loads(text)
        except ValueError:
            return
        if isinstance(event, dict) and number >= self.next:
            self._whole[number] = event

    def fill(self, events: Iterator[Event]) -> Iterator[tuple[int, Event]]:
        """What is missing, from the whole log of the other machine; then everything that waited for it."""
        for number, event in enumerate(events):
            if number >= self.next:
                self._whole.setdefault(number, event)
        yield from self._ready()

    def rest(self) -> tuple[list[tuple[int, Event]], int]:
        """What came behind a gap that nobody can fill any more, in order, and how many are missing before its last."""
        numbers = sorted(self._whole)
        missing = numbers[-1] + 1 - self.next - len(numbers) if numbers else 0
        return [(number, self._whole.pop(number)) for number in numbers], missing

    def _ready(self) -> Iterator[tuple[int, Event]]:
        while self.next in self._whole:
            number, self.next = self.next, self.next + 1
            yield number, self._whole.pop(number)


def is_event(line: str) -> bool:
    return line.startswith(MARK)

"""Questions to several models at once, one at a time for each page, and the answers while they grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

from core.chat.engine import Asked, Piece, Rendered
from core.chat.sampling import Sampling
from core.chat.sources import Source
from core.errors import UserError
from ui import chat_pool, feedback
from ui.chat_pool import LOOK_S, Place, Pool

PATIENCE_S = 2.0  # from the wish to stop until a model that does not listen is ended
HEARTBEAT_S = 0.5  # a page that is gone is noticed after at most so long


@dataclass
class Column:
    """One model's answer while it grows."""

    source: Source
    ahead: int = 0  # how many are served before this one
    state: Literal["waiting", "loading", "writing", "done"] = "waiting"
    pieces: list[str] = field(default_factory=list[str])
    stop: str = ""
    stats: dict[str, Any] = field(default_factory=dict[str, Any])
    notices: list[str] = field(default_factory=list[str])
    error: UserError | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, piece: Piece) -> None:
        if piece.notice:
            self.notices.append(piece.notice)
        if piece.text:
            self.pieces.append(piece.text)
        if piece.done:
            self.stop, self.stats = piece.done, piece.stats


class DroppedError(Exception):
    """The page has moved on, so that nobody waits for this answer any more."""


class Ask:
    """One question to several models at once. Iterate `watch`; closing it, or `stop`, ends every answer."""

    def __init__(self, pool: Pool, asked: Sequence[tuple[Source, Asked]], sampling: Sampling, context_length: int | None = None) -> None:
        self.columns = [Column(source) for source, _ in asked]
        self._pool, self._asked, self._sampling = pool, asked, sampling
        self._places = pool.take([source for source, _ in asked], context_length)
        self._stopped = threading.Event()
        self.is_dropped = False

    def watch(self) -> Generator[list[Column]]:
        """The columns whenever they have grown, and at least twice a second; the last ones are whole."""
        threads = [threading.Thread(target=self._answer, args=(index,), daemon=True) for index in range(len(self.columns))]
        for thread in threads:
            thread.start()
        try:
            shown, shown_s = "", 0.0
            while any(thread.is_alive() for thread in threads):
                now = str([(column.state, column.ahead, len(column.pieces)) for column in self.columns])
                if now != shown or time.monotonic() - shown_s > HEARTBEAT_S:
                    shown, shown_s = now, time.monotonic()
                    yield self.columns
                time.sleep(LOOK_S)
            yield self.columns
        finally:
            self.stop()
            threading.Thread(target=self._tidy, args=(threads,), daemon=True).start()

    def stop(self) -> None:
        """Ask every model to end; a model that does not listen is ended with its process."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        for place in self._in("loading", "writing"):
            place.engine.stop()
        threading.Thread(target=self._insist, daemon=True).start()

    def _insist(self) -> None:
        time.sleep(PATIENCE_S)
        for place in self._in("writing"):
            place.engine.close()

    def _in(self, *states: str) -> list[Place]:
        return [place for column, place in zip(self.columns, self._places, strict=True) if column.state in states]

    def _tidy(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            thread.join()
        self._pool.give_back(self._places)

    def _answer(self, index: int) -> None:
        column, place, (source, asked) = self.columns[index], self._places[index], self._asked[index]
        if not place.enter(self._stopped, lambda ahead: setattr(column, "ahead", ahead)):
            column.state, column.stop = "done", "stopped"
            return
        try:
            column.state = "loading"
            place.engine.ready()
            column.state = "writing"  # from here on `stop` reaches the model
            if self._stopped.is_set():
                column.stop = "stopped"
                return
            for piece in place.engine.stream(asked, self._sampling, with_adapter=source.with_adapter):
                column.add(piece)
                if self._stopped.is_set():
                    place.engine.stop()
        except UserError as error:
            if self._stopped.is_set():
                column.stop = "stopped"
            else:
                column.error = error
        except Exception as error:  # noqa: BLE001 - the thread's last line of defence: the page must not show an answer without words
            column.error = feedback.as_user_error(error)
        finally:
            place.leave()
            column.state = "done"


def rendered(source: Source, asked: Asked, context_length: int | None = None) -> Rendered:
    """What a model reads; it is loaded for it when it is not yet."""
    (place,) = places = chat_pool.pool.take([source], context_length)
    try:
        if not place.enter(threading.Event(), lambda _: None):
            raise AssertionError("nobody gave up")
        try:
            return place.engine.rendered(asked)
        finally:
            place.leave()
    finally:
        chat_pool.pool.give_back(places)


_asks: dict[str, Ask] = {}  # by page


def ask(page: str, asked: Sequence[tuple[Source, Asked]], sampling: Sampling, context_length: int | None = None) -> Iterator[list[Column]]:
    """Ask on behalf of `page`; a question that this page still has open is stopped first.

    Raises:
        DroppedError: the page has dropped the question meanwhile.
    """
    stop(page)
    question = Ask(chat_pool.pool, asked, sampling, context_length)
    _asks[page] = question
    try:
        with closing(question.watch()) as watching:
            for columns in watching:
                if question.is_dropped:
                    raise DroppedError
                yield columns
        if question.is_dropped:
            raise DroppedError
    finally:
        if _asks.get(page) is question:
            del _asks[page]


def stop(page: str) -> None:
    """End what `page` has asked; it keeps what was written so far."""
    if question := _asks.get(page):
        question.stop()


def drop(page: str) -> bool:
    """As `stop`, but what was written is not kept either: the page's conversation has changed. Whether anything was asked."""
    question = _asks.get(page)
    if question:
        question.is_dropped = True
        question.stop()
    return question is not None


def is_asking(page: str) -> bool:
    return page in _asks

"""Several models answering the same conversation at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from core.chat.engine import Engine, Messages, Piece
from core.chat.sampling import Sampling
from core.errors import UserError


def side_by_side(engines: Sequence[Engine], messages: Messages, sampling: Sampling) -> Iterator[tuple[int, Piece | UserError]]:
    """Pieces as they come, each with the index of its engine. A model that fails yields its UserError and the others go on.

    Closing the iterator stops them all.
    """
    pieces: queue.Queue[tuple[int, Piece | UserError | None]] = queue.Queue()

    def pump(index: int, engine: Engine) -> None:
        try:
            for piece in engine.stream(messages, sampling):
                pieces.put((index, piece))
        except UserError as error:
            pieces.put((index, error))
        finally:
            pieces.put((index, None))

    threads = [threading.Thread(target=pump, args=pair, daemon=True) for pair in enumerate(engines)]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            index, piece = pieces.get()
            if piece is None:
                running -= 1
            else:
                yield index, piece
    finally:
        if running:
            for engine in engines:
                engine.stop()
        for thread in threads:
            thread.join()

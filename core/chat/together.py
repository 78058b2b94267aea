"""Several models answering at the same time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from core.chat.engine import Answering, Asked, Piece
from core.chat.sampling import Sampling
from core.errors import UserError


@dataclass(frozen=True)
class Question:
    """What one model is asked. Models answer one conversation, or each its own."""

    engine: Answering
    asked: Asked
    with_adapter: bool = True


def side_by_side(questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Piece | UserError]]:
    """Pieces as they come, each with the index of its question. A model that fails yields its UserError and the others go on.

    Closing the iterator stops them all.
    """
    pieces: queue.Queue[tuple[int, Piece | UserError | None]] = queue.Queue()
    is_left = threading.Event()

    def pump(index: int, question: Question) -> None:
        try:
            for piece in question.engine.stream(question.asked, sampling, with_adapter=question.with_adapter):
                pieces.put((index, piece))
                if is_left.is_set():  # while the model was loading, when there was no answer to stop
                    question.engine.stop()
        except UserError as error:
            pieces.put((index, error))
        finally:
            pieces.put((index, None))

    threads = [threading.Thread(target=pump, args=pair, daemon=True) for pair in enumerate(questions)]
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
        is_left.set()
        if running:
            for question in questions:
                question.engine.stop()
        for thread in threads:
            thread.join()

"""Chat on a ZeroGPU Space, whose GPU is lent to functions of the web process only: the one place where a model answers outside a child.

`spaces.GPU` does nothing elsewhere, so what runs here runs the same on any machine.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any

from core.chat.answer import Asked, answer
from core.chat.child import Loaded, prompt_text
from core.chat.engine import CONTEXT_LENGTH, Piece, Rendered, child_payload
from core.chat.sampling import Sampling
from core.export.artifacts import Artifact

LENT_S = 60  # seconds of GPU per answer


def is_here() -> bool:
    return bool(os.environ.get("SPACES_ZERO_GPU"))


class Model:
    """A merged model or an adapter in this process; see `core.chat.engine.Answering`."""

    def __init__(self, artifact: Artifact, context_length: int | None = None) -> None:
        self._payload = child_payload(artifact, context_length or CONTEXT_LENGTH)
        self._loaded: Loaded | None = None
        self._stopped = threading.Event()

    def ready(self) -> Model:
        if self._loaded is None:
            from core.chat import transformers_child

            self._loaded = transformers_child.load(self._payload)
        return self

    def stream(self, asked: Asked, sampling: Sampling, *, with_adapter: bool = True) -> Iterator[Piece]:
        self._stopped.clear()
        notices: list[str] = []
        loaded = self._ready()
        prompt = _prompt(loaded, asked, notices)
        yield from (Piece("", notice=notice) for notice in notices)
        for message in _lent()(loaded, prompt, sampling, isinstance(asked, str), with_adapter):
            if "done" in message:
                yield Piece("", done="stopped" if self._stopped.is_set() else message["done"], stats=message["stats"])
                return
            if self._stopped.is_set():
                yield Piece("", done="stopped")
                return  # leaving the generator gives the GPU back
            yield Piece(message["text"], message["token_id"])

    def rendered(self, asked: Asked) -> Rendered:
        loaded, notices = self._ready(), list[str]()
        text = _prompt(loaded, asked, notices)
        return Rendered(text, len(loaded.model.encode(text)), loaded.model.context_length, next(iter(notices), None))

    def stop(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()
        self._loaded = None

    def _ready(self) -> Loaded:
        self.ready()
        assert self._loaded
        return self._loaded


def _prompt(loaded: Loaded, asked: Asked, notices: list[str]) -> str:
    return prompt_text(loaded, asked, lambda message: notices.append(message["notice"]))


@cache
def _lent() -> Any:
    """The answering loop, decorated once: it is forked into a worker that holds the GPU while it runs."""
    import spaces

    return spaces.GPU(duration=LENT_S)(_answer)


def _answer(loaded: Loaded, prompt: str, sampling: Sampling, is_raw: bool, with_adapter: bool) -> Iterator[dict[str, Any]]:
    if loaded.use_adapter:
        loaded.use_adapter(with_adapter)
    yield from answer(loaded.model, prompt, sampling, lambda: False, is_raw=is_raw)

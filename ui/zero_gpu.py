"""Chat on a ZeroGPU Space, whose GPU is lent to functions of the web process only: the one place where a model answers outside a child.

`spaces.GPU` does nothing elsewhere, so what runs here runs the same on any machine. Merging is not lent a GPU: it streams the weights block by
block, and reading, hashing and writing them is what takes its time (a 7B model: 13 GB in, 13 GB out, for some 0.2 TFLOP of additions), all of
it while a minute of somebody's quota would run; and its child could not have one. Training and the levels are children too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import spaces
from core.chat.answer import Asked, answer
from core.chat.child import Loaded, prompt_text
from core.chat.engine import CONTEXT_LENGTH, Piece, Rendered, child_payload
from core.chat.sampling import Sampling
from core.export.artifacts import Artifact
from core.training.hardware import is_zero_gpu as is_here

LENT_S = 60  # seconds of GPU per answer
__all__ = ["Model", "is_here"]


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
        for message in _answer(loaded, prompt, sampling, isinstance(asked, str), with_adapter):
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


# When the page starts ZeroGPU looks for what is decorated, and ends a Space that has nothing of it.
@spaces.GPU(duration=LENT_S)
def _answer(loaded: Loaded, prompt: str, sampling: Sampling, is_raw: bool, with_adapter: bool) -> Iterator[dict[str, Any]]:
    """The answering loop, which is forked into a worker that holds the GPU while it runs."""
    if loaded.use_adapter:
        loaded.use_adapter(with_adapter)
    yield from answer(loaded.model, prompt, sampling, lambda: False, is_raw=is_raw)

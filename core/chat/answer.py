"""The loop that writes an answer, token by token, for any model that can continue a list of ids. Runs in the chat children."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from core.chat.sampling import Sampler, Sampling
from core.errors import UserError
from core.export.native_support import Stopped, common_prefix, resident_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Messages = list[dict[str, str]]
Asked = Messages | str  # a conversation that the template renders, or a text to go on with as it is


class TextStream(Protocol):
    def step(self, token_id: int) -> str:
        """The text that is certain after this token; bytes of an unfinished character wait."""
        ...


class ChatModel(Protocol):
    """What the loop needs of a model."""

    context_length: int
    cached: list[int]  # ids whose computation is kept for the next `feed`

    def encode(self, text: str) -> list[int]: ...
    def feed(self, ids: list[int]) -> NDArray[np.float32]:
        """The logits (V,) after `ids`; what earlier calls computed for the same beginning is used again."""
        ...

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        """From now on `feed` raises `core.export.native_support.Stopped` soon after ``should_stop()`` becomes true."""
        ...

    def is_end(self, token_id: int) -> bool: ...
    def text_stream(self) -> TextStream: ...


@dataclass
class Stats:
    prompt_tokens: int
    cached_tokens: int  # of the prompt, kept from the answer before
    context_length: int
    resident_bytes: int = 0  # of the process, when the answer ended
    generated_tokens: int = 0
    first_token_s: float | None = None
    tokens_per_s: float | None = None  # after the first token


class StopStrings:
    """Lets text through up to the first stop string, and holds back what may be the beginning of one."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.held = ""
        self.found = False

    def push(self, text: str) -> str:
        self.held += text
        ends = [at for text in self.stop if (at := self.held.find(text)) >= 0]
        if ends:
            self.found = True
            free, self.held = self.held[: min(ends)], ""
            return free
        keep = max((self._overlap(text) for text in self.stop), default=0)
        free, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return free

    def _overlap(self, stop: str) -> int:
        return next((size for size in range(min(len(stop) - 1, len(self.held)), 0, -1) if self.held.endswith(stop[:size])), 0)


def answer(
    model: ChatModel, prompt: str, sampling: Sampling, should_stop: Callable[[], bool], *, is_raw: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield ``{"text", "token_id"}`` per token and last ``{"done": reason, "stats": {...}}``.

    The reason is ``eos``, ``stop`` (a stop string), ``length`` (max_tokens), ``context`` (no room left) or ``stopped`` (asked to). White
    space at the beginning is left out, as FastChat does: templates put a space after the role. A raw text is gone on with as it is.
    """
    ids = model.encode(prompt)
    if not ids:
        raise UserError("There is nothing to go on from: this model reads an empty text as no token.", "the prompt", "Write something.")
    if len(ids) >= model.context_length:
        raise UserError(
            f"The conversation has {len(ids)} tokens and the context length is {model.context_length}.",
            "the conversation",
            "Begin a new conversation, or raise the context length if the model allows it.",
            code="CONTEXT",
        )
    stats = Stats(len(ids), min(common_prefix(model.cached, ids), len(ids) - 1), model.context_length)
    model.stop_when(should_stop)
    try:
        done = yield from _tokens(model, ids, sampling, should_stop, stats, is_raw)
    except Stopped:
        done = "stopped"
    stats.resident_bytes = resident_bytes()
    yield {"done": done, "stats": asdict(stats)}


def _tokens(
    model: ChatModel, ids: list[int], sampling: Sampling, should_stop: Callable[[], bool], stats: Stats, begun: bool
) -> Generator[dict[str, Any], None, str]:
    sampler, stream, stops = Sampler(sampling), model.text_stream(), StopStrings(sampling.stop)
    started = first_at = time.perf_counter()
    done = "length"
    while stats.generated_tokens < sampling.max_tokens:
        token_id = sampler.pick(model.feed(ids), ids)
        if should_stop():
            done = "stopped"
            break
        if model.is_end(token_id):
            done = "eos"
            break
        ids.append(token_id)
        stats.generated_tokens += 1
        now = time.perf_counter()
        if stats.first_token_s is None:
            stats.first_token_s, first_at = now - started, now
        else:
            stats.tokens_per_s = (stats.generated_tokens - 1) / (now - first_at)
        text = stops.push(stream.step(token_id))
        text = text if begun else text.lstrip()
        begun = begun or bool(text)
        yield {"text": text, "token_id": token_id}
        if stops.found:
            return "stop"
        if len(ids) >= model.context_length:
            done = "context"
            break
    if rest := stops.held if begun else stops.held.lstrip():
        yield {"text": rest, "token_id": None}
    return done

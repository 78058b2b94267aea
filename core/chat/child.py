"""The child side of a chat engine: one model, loaded once, answering requests that arrive as JSON lines.

In:  the load payload first, then ``{"op": "answer", "id", "asked", "sampling", "adapter"}``, ``{"op": "render", "id", "asked"}``,
     ``{"op": "batch", "id", "prompts", "max_tokens"}`` and ``{"op": "stop", "id"}``. The end of stdin means that the parent is gone, and
     ends the process at once.
Out: ``{"event": "ready", ...}`` or ``{"error"}``; then per request ``{"id", "text", "token_id"}`` lines, ``{"id", "notice"}``, and last
     ``{"id", "done", "stats"}``, ``{"id", "rendered", "tokens"}``, ``{"id", "answers"}`` or ``{"id", "error"}``.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from core.chat.answer import Asked, ChatModel, answer
from core.chat.sampling import Sampling
from core.childio import TEMPLATE_BYTES, TEMPLATE_S, claim_stdout, limited
from core.errors import UserError
from core.training.failures import is_out_of_memory


@dataclass
class Loaded:
    """A model ready to chat, with what its template needs."""

    model: ChatModel
    template: str | None
    bos_token: str
    eos_token: str
    batch: Callable[[list[str], int], list[str]] | None = None  # greedy answers to rendered prompts, when faster than one by one
    use_adapter: Callable[[bool], None] | None = None  # switches the adapter on or off, for a model that has one
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


class Inbox:
    """Requests read from stdin by a thread of its own, so that a stop arrives while an answer is being written."""

    def __init__(self) -> None:
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.stopped: set[int] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if request["op"] == "stop":
                self.stopped.add(request["id"])
            else:
                self.requests.put(request)
        os._exit(0)


def run(load: Callable[[dict[str, Any]], Loaded]) -> None:
    """Load the model that the first line names, then answer until the parent closes stdin."""
    emit = claim_stdout()
    payload = json.loads(sys.stdin.readline())
    inbox = Inbox()
    try:
        loaded = load(payload)
    except UserError as error:
        emit({"error": error.as_dict()})
        return
    except (MemoryError, RuntimeError) as error:
        emit({"error": _too_much(error, payload.get("context_length")).as_dict()})
        return
    emit({"event": "ready", "context_length": loaded.model.context_length, **loaded.facts})
    while True:
        request = inbox.requests.get()
        identifier = request["id"]

        def send(message: dict[str, Any], identifier: int = identifier) -> None:
            emit({"id": identifier} | message)

        try:
            _serve(loaded, request, lambda identifier=identifier: identifier in inbox.stopped, send)
        except UserError as error:
            send({"error": error.as_dict()})
        except (MemoryError, RuntimeError) as error:
            send({"error": _too_much(error, loaded.model.context_length).as_dict()})


def _too_much(error: MemoryError | RuntimeError, context_length: int | None) -> UserError:
    """What is said of memory that ran out; any other error is raised again."""
    if not is_out_of_memory(error):
        raise error
    shorter = f"a context length of {context_length // 2:,} tokens" if context_length else "a shorter context"
    remedy = f"Ask again with {shorter}, or take a smaller level; the model is loaded anew."
    return UserError("Memory ran out, and the model was unloaded.", "the chat", remedy, code="OOM")


def _serve(loaded: Loaded, request: dict[str, Any], should_stop: Callable[[], bool], send: Callable[[dict[str, Any]], None]) -> None:
    if loaded.use_adapter:
        loaded.use_adapter(request.get("adapter", True))
    if request["op"] == "answer":
        asked = request["asked"]
        prompt = prompt_text(loaded, asked, send)
        for message in answer(loaded.model, prompt, Sampling(**request["sampling"]), should_stop, is_raw=isinstance(asked, str)):
            send(message)
    elif request["op"] == "render":
        text = prompt_text(loaded, request["asked"], send)
        send({"rendered": text, "tokens": len(loaded.model.encode(text))})
    else:
        assert request["op"] == "batch"
        prompts = [prompt_text(loaded, messages, send) for messages in request["prompts"]]
        if loaded.batch:
            send({"answers": loaded.batch(prompts, request["max_tokens"])})
        else:
            sampling = Sampling(max_tokens=request["max_tokens"])
            texts = [_whole(loaded.model, prompt, sampling, should_stop) for prompt in prompts]
            send({"answers": texts})


def _whole(model: ChatModel, prompt: str, sampling: Sampling, should_stop: Callable[[], bool]) -> str:
    return "".join(message.get("text", "") for message in answer(model, prompt, sampling, should_stop))


def prompt_text(loaded: Loaded, asked: Asked, send: Callable[[dict[str, Any]], None]) -> str:
    """The rendered conversation up to where the answer begins; in Vicuna form, with a notice, when the model's template does not work.

    A text is itself. The template's sandbox has a budget of its own; in a child the kernel watches over it too. On ZeroGPU, where this runs in a
    thread of the web process, the budget alone has to do: signals and memory limits are of a whole process.
    """
    from core.data.render import generation_prompt
    from core.data.tokenizer import VICUNA_TEMPLATE

    if isinstance(asked, str):
        return asked
    if loaded.template:
        try:
            is_child = threading.current_thread() is threading.main_thread()
            with limited(TEMPLATE_S, TEMPLATE_BYTES) if is_child else nullcontext():
                return generation_prompt(asked, loaded.template, loaded.bos_token, loaded.eos_token)
        except UserError as error:
            why = f"The model's chat template does not work: {error.problem}"
    else:
        why = "The model has no chat template."
    send({"notice": f"{why} The conversation was written in Vicuna form instead, which it may not know."})
    return generation_prompt(asked, VICUNA_TEMPLATE, loaded.bos_token, loaded.eos_token)

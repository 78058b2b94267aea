"""Chatting with an artifact: every model lives in a process of its own, loaded once, and answers token by token."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from core.chat.answer import Asked, Messages
from core.chat.sampling import Sampling
from core.errors import UserError
from core.export.artifacts import Artifact
from core.export.split import gguf_headers
from core.paths import PROJECT
from core.process import child_environment, describe_exit
from core.training import models

__all__ = ["Answering", "Asked", "Engine", "Messages", "Piece", "Rendered", "Sampling", "batch_answers", "open_engine"]

CONTEXT_LENGTH = 4096  # tokens, unless the model was trained for fewer
LOAD_S = 600.0
SILENCE_S = 600.0  # a prompt of thousands of tokens on a slow CPU says nothing for minutes
STOP_S = 1.5  # to stop in good order; then the process is ended


@dataclass(frozen=True)
class Piece:
    """A bit of an answer. The last one has an empty text and `done`."""

    text: str
    token_id: int | None = None
    done: str | None = None  # eos, stop, length, context or stopped
    stats: dict[str, Any] = field(default_factory=dict[str, Any])  # the fields of `core.chat.answer.Stats`
    notice: str | None = None  # what a person should know, such as a template that did not work


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it."""

    text: str
    tokens: int
    context_length: int
    notice: str | None = None


class Answering(Protocol):
    """What answers: a model in a child process, an endpoint elsewhere."""

    def ready(self) -> Any: ...
    def stream(self, asked: Asked, sampling: Sampling, *, with_adapter: bool = True) -> Iterator[Piece]: ...
    def rendered(self, asked: Asked) -> Rendered: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class Engine:
    """One model in its child process. Use it from any thread; answers of one engine are written one after the other.

    The process starts at once and loads meanwhile; `ready` waits for it. When it dies, the answer ends with UserError code CRASH and the
    next request starts it anew. It ends with `close`, and by itself when this process ends, however that happens.
    """

    def __init__(self, artifact: Artifact, module: str, payload: dict[str, Any], log: Path | None = None) -> None:
        self.artifact = artifact
        self.facts: dict[str, Any] = {}  # context_length, once loaded
        self._module, self._payload, self._log = module, payload, log
        self._lock = threading.Lock()
        self._last_id = 0
        self._answering: int | None = None
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self) -> Self:
        """Wait until the model is loaded.

        Raises:
            UserError: the model cannot be loaded, or its process ended (code CRASH).
        """
        with self._lock:
            self._ensure_ready()
        return self

    def stream(self, asked: Asked, sampling: Sampling | None = None, *, with_adapter: bool = True) -> Iterator[Piece]:
        """The answer, piece by piece. Closing the iterator, or `stop`, ends it within 2 s.

        Args:
            asked: a conversation, which the model's template renders; or a text, which is gone on with as it is.
            with_adapter: False asks the bare base of an adapter; any other model has nothing to switch off.

        Raises:
            UserError: the conversation does not fit, memory ran out (code OOM), or the model stopped (code CRASH).
        """
        request = {"op": "answer", "asked": asked, "sampling": (sampling or Sampling()).model_dump(), "adapter": with_adapter}
        with self._asking(request) as identifier:
            while True:
                message = self._receive(identifier)
                if "notice" in message:
                    yield Piece("", notice=message["notice"])
                elif "done" in message:
                    yield Piece("", done=message["done"], stats=message["stats"])
                    return
                else:
                    yield Piece(message["text"], message["token_id"])

    def answers(self, prompts: Sequence[Messages], max_tokens: int) -> list[str]:
        """Greedy answers to all prompts, in order."""
        with self._asking({"op": "batch", "prompts": list(prompts), "max_tokens": max_tokens}) as identifier:
            while "answers" not in (message := self._receive(identifier)):
                continue
            return message["answers"]

    def rendered(self, asked: Asked) -> Rendered:
        """What the model reads when it is asked this."""
        notice = None
        with self._asking({"op": "render", "asked": asked}) as identifier:
            while "rendered" not in (message := self._receive(identifier)):
                notice = message["notice"]
        return Rendered(message["rendered"], message["tokens"], self.facts["context_length"], notice)

    def stop(self) -> None:
        """Ask the answer that is being written, if any, to end; its stream then yields its last piece with ``done="stopped"``."""
        if self._answering is not None:
            self._send({"op": "stop", "id": self._answering})

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe
            _close_quietly(pipe)

    def _start(self) -> None:
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        stderr = self._log.open("ab") if self._log else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=child_environment(),
            cwd=PROJECT,
        )
        if not isinstance(stderr, int):
            stderr.close()
        self._is_ready = self._has_failed = False
        self._reader = threading.Thread(target=_read, args=(self._process, self._messages), daemon=True)
        self._reader.start()
        self._send(self._payload)

    def _ensure_ready(self) -> None:
        if self._has_failed or (self._is_ready and self._process.poll() is not None):
            self.close()
            self._start()
        if not self._is_ready:
            self._has_failed = True
            self.facts = self._next(LOAD_S)
            self._has_failed, self._is_ready = False, True

    @contextmanager
    def _asking(self, request: dict[str, Any]) -> Generator[int]:
        """Send a request and hold the engine until it is answered; a request that is left early is stopped and its rest discarded."""
        with self._lock:
            self._ensure_ready()
            self._last_id += 1
            identifier = self._answering = self._last_id
            self._send(request | {"id": identifier})
            try:
                yield identifier
            except (GeneratorExit, KeyboardInterrupt):
                self._abandon(identifier)
                raise
            finally:
                self._answering = None

    def _abandon(self, identifier: int) -> None:
        self._send({"op": "stop", "id": identifier})
        try:
            while "done" not in self._next(STOP_S):
                continue
        except UserError:
            self._process.kill()
            self._process.wait()

    def _receive(self, identifier: int) -> dict[str, Any]:
        while (message := self._next(SILENCE_S)).get("id") != identifier:
            continue  # the rest of an answer that was left
        return message

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            message = self._messages.get(timeout=timeout_s)
        except queue.Empty:
            self._process.kill()
            self._process.wait()
            where = self.artifact.name
            raise UserError(f"The model said nothing for {timeout_s:.0f} s and was ended.", where, "Ask again.", code="TIMEOUT") from None
        if message is None:
            ended = describe_exit(self._process.wait())
            remedy = "Ask again: it is loaded anew. If it stops again, choose a smaller level or a shorter context length."
            raise UserError(f"The model stopped ({ended}).", self.artifact.name, remedy, code="CRASH")
        if "error" in message:
            error = UserError.from_dict(message["error"])
            if error.code == "OOM":  # what it holds is free again, and it is loaded anew when it is asked
                self._process.kill()
                self._process.wait()
            raise error
        return message

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # the reader finds the end of the child's output and says so


def _read(process: subprocess.Popen[bytes], messages: queue.Queue[dict[str, Any] | None]) -> None:
    assert process.stdout
    for line in process.stdout:
        messages.put(json.loads(line))
    messages.put(None)


def _close_quietly(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return  # what was still to be sent has no reader


def open_engine(artifact: Artifact, *, context_length: int | None = None, threads: int | None = None, log: Path | None = None) -> Engine:
    """An engine for any artifact: a GGUF file through llama.cpp, a merged model or an adapter through transformers.

    Args:
        context_length: tokens of conversation; at most what the model was trained for (default: that, up to 4,096).
        threads: CPU threads; default: all.
        log: the child's own output is appended here.

    Raises:
        UserError: the file, or a part of it, is damaged or missing, or the adapter's base model is not on this machine.
    """
    module = "core.chat.llama_child" if artifact.kind == "gguf" else "core.chat.transformers_child"
    return Engine(artifact, module, child_payload(artifact, context_length or CONTEXT_LENGTH, threads), log)


def child_payload(artifact: Artifact, context_length: int, threads: int | None = None) -> dict[str, Any]:
    """What the child is told to load.

    Raises:
        UserError: as `open_engine`.
    """
    wanted: dict[str, Any] = {"context_length": context_length, "threads": threads}
    if artifact.kind == "gguf":
        gguf_headers(artifact.gguf_path)
        return wanted | {"path": str(artifact.gguf_path)}
    if artifact.kind == "merged":
        return wanted | {"folder": str(artifact.folder), "adapter": None, "tokenizer": str(artifact.folder)}
    base = base_here(artifact)
    if base is None:
        named = artifact.base_model or artifact.base_path or ""
        fetch = f"Fetch it with `hf download {named}`" if models.HUB_ID.fullmatch(named) else "Fetch the base model"
        raise UserError(
            f"The base model of {artifact.name} is not on this machine.", named, f"{fetch} first, or merge the adapter where its base is."
        )
    tokenizer = artifact.folder if (artifact.folder / "tokenizer.json").is_file() else base
    return wanted | {"folder": str(base), "adapter": str(artifact.folder), "tokenizer": str(tokenizer)}


def base_here(adapter: Artifact) -> Path | None:
    """The folder of an adapter's base: where it lay in training, or in the Hub's cache; nothing is fetched for a chat."""
    if adapter.base_path and (Path(adapter.base_path) / "config.json").is_file():
        return Path(adapter.base_path)
    if adapter.base_model and models.HUB_ID.fullmatch(adapter.base_model):
        return models.here(adapter.base_model, adapter.base_revision)
    return None


def batch_answers(artifact: Artifact, prompts: Sequence[Messages], max_tokens: int, *, log: Path | None = None) -> list[str]:
    """Greedy answers to many prompts by one child process, several at a time where that is faster."""
    with open_engine(artifact, log=log) as engine:
        return engine.answers(prompts, max_tokens)

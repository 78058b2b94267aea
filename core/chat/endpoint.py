"""An OpenAI-compatible endpoint as a model to chat with: llama.cpp's server, vLLM, Ollama, or a paid one. For the local person only."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from core.chat.answer import Asked, Stats
from core.chat.engine import Piece, Rendered
from core.chat.sampling import Sampling
from core.errors import UserError
from core.redact import REPLACEMENT

SILENCE_S = 120.0
CONNECT_S = 10.0
STOPS = {"stop": "eos", "length": "length"}


class Endpoint:
    """Answers of a model behind ``URL/chat/completions`` (``URL/completions`` for a raw text). Tokens are counted as pieces of the stream.

    `key` is sent as a bearer token and kept in this object only. Redirects are not followed, so the key reaches nobody else.
    """

    def __init__(self, url: str, model: str = "", key: str = "") -> None:
        self.url, self.model, self._key = checked_url(url), model, key
        self._client = self._new_client()
        self._socket: socket.socket | None = None  # of the request that goes on
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> Self:
        """Ask the endpoint for its models; the first one is taken when none was named. What was closed is opened again.

        Raises:
            UserError: it does not answer, refuses the key, or has no model.
        """
        self._stopped = False
        if self._client.is_closed:
            self._client = self._new_client()
        if not self.model:
            named = [str(entry.get("id", "")) for entry in self._json("/models").get("data", []) if isinstance(entry, dict)]
            if not named:
                raise UserError("The endpoint names no model.", self.url, "Name one behind a #: http://127.0.0.1:8000/v1#my-model.")
            self.model = named[0]
        return self

    def stream(self, asked: Asked, sampling: Sampling | None = None, *, with_adapter: bool = True) -> Iterator[Piece]:
        """As `core.chat.engine.Engine.stream`; `with_adapter` has no meaning here."""
        self.ready()
        knobs = sampling or Sampling()
        path, body = _request(asked, self.model, knobs)
        stats = Stats(0, 0, 0)
        began = first_at = time.perf_counter()
        done = "length"
        with ExitStack() as stack:
            for event in self._events(stack, path, body):
                if self._stopped:
                    break
                text, ended = self._read(event)
                done = STOPS.get(ended, ended) if ended else done
                if not text:
                    continue
                now = time.perf_counter()
                stats.generated_tokens += 1
                if stats.first_token_s is None:
                    stats.first_token_s, first_at = now - began, now
                elif now > first_at:
                    stats.tokens_per_s = (stats.generated_tokens - 1) / (now - first_at)
                yield Piece(text)
        yield Piece("", done="stopped" if self._stopped else done, stats=asdict(stats))

    def rendered(self, asked: Asked) -> Rendered:
        """Raises UserError, except for a raw text: an endpoint does not tell how it renders."""
        if isinstance(asked, str):
            return Rendered(asked, 0, 0)
        raise UserError("An endpoint does not say how it renders a conversation.", self.url, "Ask a model of this machine.")

    def stop(self) -> None:
        """Hang up: what is being asked ends at once, even where nothing comes; to close a connection would not wake its reader."""
        self._stopped = True
        if self._socket:
            with suppress(OSError):  # it has ended by itself
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._client.close()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_keepalive_connections=0),  # each request has a connection of its own, which `stop` can end
            follow_redirects=False,
            trust_env=False,
        )

    def _connected(self, event: str, info: dict[str, Any]) -> None:
        """Hear from httpx which socket the request has (https://www.encode.io/httpcore/extensions/#trace)."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = info["return_value"].get_extra_info("socket")
            if self._stopped:
                self.stop()

    def _json(self, path: str) -> dict[str, Any]:
        try:
            answer = self._client.get(self.url + path, extensions={"trace": self._connected})
            self._check(answer)
            found = answer.json()
        except (httpx.HTTPError, ValueError):
            raise self._silent() from None
        return found if isinstance(found, dict) else {}

    def _events(self, stack: ExitStack, path: str, body: dict[str, Any]) -> Iterator[Any]:
        try:
            answer = stack.enter_context(self._client.stream("POST", self.url + path, json=body, extensions={"trace": self._connected}))
            if answer.status_code != 200:
                answer.read()
            self._check(answer)
            for line in answer.iter_lines():
                data = line.removeprefix("data:").strip()
                if line.startswith("data:") and data and data != "[DONE]":
                    yield json.loads(data)
        except (httpx.HTTPError, httpx.StreamError, RuntimeError, ValueError):
            if not self._stopped:
                raise self._silent() from None

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in (401, 403):
            raise UserError("The endpoint does not accept this key.", self.url, "Give the key that it expects.", code="KEY")
        if answer.status_code != 200:
            said = self._without_key(answer.text)[:200]
            raise UserError(f"The endpoint answered {answer.status_code}: {said}", self.url, "Check its address and its model.", code="NET")

    def _read(self, event: Any) -> tuple[str, str]:
        """(text, why it ended or empty) of one event.

        Raises:
            UserError: the event tells of an error, or is nothing that an endpoint of this kind sends.
        """
        if isinstance(event, dict) and (error := event.get("error")):
            said = self._without_key(str(error.get("message") or error) if isinstance(error, dict) else str(error))
            raise UserError(f"The endpoint broke off: {said[:200]}", self.url, "Ask again; its own log says more.", code="NET")
        choices = event.get("choices") or [{}] if isinstance(event, dict) else None
        choice = choices[0] if isinstance(choices, list) else None
        delta = (choice.get("delta") or {}) if isinstance(choice, dict) else None
        if not isinstance(choice, dict) or not isinstance(delta, dict):
            remedy = "Check that its address is that of an OpenAI-compatible endpoint."
            raise UserError("The endpoint sent something that is no part of an answer.", self.url, remedy, code="NET")
        return str(delta.get("content") or choice.get("text") or ""), str(choice.get("finish_reason") or "")

    def _without_key(self, said: str) -> str:
        """What an endpoint says of an error, where some repeat the key that they were sent."""
        return said.replace(self._key, REPLACEMENT) if self._key else said

    def _silent(self) -> UserError:
        return UserError("The endpoint does not answer.", self.url, "Check that it runs and that the address ends in /v1.", code="NET")


def checked_url(url: str) -> str:
    """The address without a slash at its end.

    Raises:
        UserError: no http or https address, or one that carries a password.
    """
    try:
        parts = urlsplit(url)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        named, parts = False, urlsplit("")
    if not named or parts.username or parts.query:
        remedy = "Give it as http://HOST:PORT/v1, and the key in its own field."
        raise UserError(f"{url!r} is not the address of an endpoint.", "the endpoint", remedy)
    return url.rstrip("/")


def _request(asked: Asked, model: str, sampling: Sampling) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": model,
        "stream": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed % 2**31,
    }
    # What only some servers know is sent only when it is asked for, because others refuse unknown fields.
    extra = {"top_k": sampling.top_k, "min_p": sampling.min_p} | (
        {} if sampling.repeat_penalty == 1 else {"repeat_penalty": sampling.repeat_penalty}
    )
    body |= {name: value for name, value in extra.items() if value}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if isinstance(asked, str):
        return "/completions", body | {"prompt": asked}
    return "/chat/completions", body | {"messages": asked}

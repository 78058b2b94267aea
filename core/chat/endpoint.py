"""An OpenAI-compatible endpoint as a model to chat with: llama.cpp's server, vLLM, Ollama, or a paid one. For the local person only."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from core.chat.answer import Asked, Stats
from core.chat.engine import Piece, Rendered
from core.chat.sampling import Sampling
from core.errors import UserError

SILENCE_S = 120.0
CONNECT_S = 10.0
STOPS = {"stop": "eos", "length": "length"}


class Endpoint:
    """Answers of a model behind ``URL/chat/completions`` (``URL/completions`` for a raw text). Tokens are counted as pieces of the stream.

    `key` is sent as a bearer token and kept in this object only. Redirects are not followed, so the key reaches nobody else.
    """

    def __init__(self, url: str, model: str = "", key: str = "") -> None:
        self.url, self.model = checked_url(url), model
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(SILENCE_S, connect=CONNECT_S),
            follow_redirects=False,
            trust_env=False,
        )
        self._stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready(self) -> Self:
        """Ask the endpoint for its models; the first one is taken when none was named.

        Raises:
            UserError: it does not answer, refuses the key, or has no model.
        """
        if not self.model:
            named = [str(entry.get("id", "")) for entry in self._json("/models").get("data", []) if isinstance(entry, dict)]
            if not named:
                raise UserError("The endpoint names no model.", self.url, "Name one behind a #: http://127.0.0.1:8000/v1#my-model.")
            self.model = named[0]
        return self

    def stream(self, asked: Asked, sampling: Sampling | None = None, *, with_adapter: bool = True) -> Iterator[Piece]:
        """As `core.chat.engine.Engine.stream`; `with_adapter` has no meaning here."""
        self.ready()
        self._stopped = False
        knobs = sampling or Sampling()
        path, body = _request(asked, self.model, knobs)
        stats = Stats(0, 0, 0)
        began = first_at = time.perf_counter()
        done = "length"
        with ExitStack() as stack:
            for event in self._events(stack, path, body):
                if self._stopped:
                    done = "stopped"
                    break
                text, ended = _read(event)
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
        yield Piece("", done=done, stats=asdict(stats))

    def rendered(self, asked: Asked) -> Rendered:
        """Raises UserError, except for a raw text: an endpoint does not tell how it renders."""
        if isinstance(asked, str):
            return Rendered(asked, 0, 0)
        raise UserError("An endpoint does not say how it renders a conversation.", self.url, "Ask a model of this machine.")

    def stop(self) -> None:
        """The stream ends at its next piece."""
        self._stopped = True

    def close(self) -> None:
        self._client.close()

    def _json(self, path: str) -> dict[str, Any]:
        try:
            answer = self._client.get(self.url + path)
            self._check(answer)
            found = answer.json()
        except (httpx.HTTPError, ValueError):
            raise self._silent() from None
        return found if isinstance(found, dict) else {}

    def _events(self, stack: ExitStack, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            answer = stack.enter_context(self._client.stream("POST", self.url + path, json=body))
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
            said = answer.text[:200]
            raise UserError(f"The endpoint answered {answer.status_code}: {said}", self.url, "Check its address and its model.", code="NET")

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


def _read(event: dict[str, Any]) -> tuple[str, str]:
    """(text, why it ended or empty) of one event."""
    choice = next(iter(event.get("choices") or ()), {})
    text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
    return str(text), str(choice.get("finish_reason") or "")

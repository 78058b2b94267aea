"""Every listener of the page, and one call of it over HTTP as a browser makes it."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import httpx

from core.paths import PROJECT
from core.process import child_environment

# In a process of its own: building a page leaves event loops behind, and a Space's page has listeners of its own.
PROGRAM = """
import json
from ui import layout
page = layout.build()
print(json.dumps([
    {"number": number, "name": f"{fn.fn.__module__}.{fn.fn.__name__}", "role": getattr(fn.fn, "allowed_role", None),
     "queue": fn.queue is not False, "is_event": any(name in str(fn.fn.__annotations__) for name in ("EventData", "SelectData"))}
    for number, fn in page.fns.items() if fn.fn is not None
]))
"""


@dataclass(frozen=True)
class Listener:
    number: int
    name: str
    role: str | None
    queue: bool
    is_event: bool


def of_page(variables: dict[str, str]) -> list[Listener]:
    """The listeners of the page as it is built with these environment variables."""
    argv = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    built = subprocess.run(argv, cwd=PROJECT, env=child_environment(variables), capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return [Listener(**each) for each in json.loads(built.stdout.splitlines()[-1])]


def result(answer: str) -> Any:
    """The first value of a queued call's last message."""
    completed = next(line for line in answer.splitlines() if "process_completed" in line)
    output = json.loads(completed.removeprefix("data: "))["output"]
    assert "data" in output, output
    return output["data"][0]


class Visitor:
    """A browser at the page. `cookie` is its session, `more` goes into the body of every call.

    Every call is a page of its own, unless `more` has a ``session_hash``; a new page costs the app as much as many calls.
    """

    def __init__(
        self, url: str, *, cookie: str = "", headers: dict[str, str] | None = None, through: httpx.BaseTransport | None = None, **more: Any
    ) -> None:
        sent = (headers or {}) | ({"cookie": f"session={cookie}"} if cookie else {})
        self._http = httpx.Client(base_url=url, headers=sent, timeout=120, trust_env=False, transport=through)
        self._more = more
        config = self._http.get("/config").json()
        values = {part["id"]: part["props"].get("value") for part in config["components"] if part["type"] not in ("state", "browserstate")}
        self._inputs = {each["id"]: [values.get(number) for number in each["inputs"]] for each in config["dependencies"]}
        kept = {part["id"]: part["props"]["storage_key"] for part in config["components"] if part["type"] == "browserstate"}
        # By listener, for each input and output: under which name the browser keeps it, "" for all that it does not keep.
        self.kept_inputs = {each["id"]: [kept.get(number, "") for number in each["inputs"]] for each in config["dependencies"]}
        self.kept_outputs = {each["id"]: [kept.get(number, "") for number in each["outputs"]] for each in config["dependencies"]}

    def come_from(self, origin: str) -> None:
        """From now on every call is one that a page of `origin` has this browser make."""
        self._http.headers["origin"] = origin

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def values(self, listener: Listener, **kept: Any) -> list[Any]:
        """The inputs of a listener as the page opens, but for what the browser keeps under these names."""
        pairs = zip(self._inputs[listener.number], self.kept_inputs[listener.number], strict=True)
        return [kept.get(name.removeprefix("transmute-"), value) if name else value for value, name in pairs]

    def call(self, listener: Listener, *, empty: bool = False, data: list[Any] | None = None, to_end: bool = False) -> str:
        """What the page answers to a listener's event: with `data`, else the values of the page as it opens, or none when `empty`.

        Of a listener that goes on for a while only the first word, unless `to_end`.
        """
        return self.call_with_status(listener, empty=empty, data=data, to_end=to_end)[1]

    def call_with_status(
        self, listener: Listener, *, empty: bool = False, data: list[Any] | None = None, to_end: bool = False
    ) -> tuple[int, str]:
        """(HTTP status of the request that gave the answer, the answer), as `call` gives the answer alone."""
        if data is None:
            data = [None if empty else value for value in self._inputs[listener.number]]
        event = {"value": "Dataset", "index": 0, "row": 0} if listener.is_event else None
        own = {"session_hash": secrets.token_hex(6), "event_data": event}
        body: dict[str, Any] = {"fn_index": listener.number, "data": data, **own, **self._more}
        if not listener.queue:
            ran = self._post("/gradio_api/run/predict", body)
            return ran.status_code, ran.text
        joined = self._post("/gradio_api/queue/join", body)
        if joined.status_code != 200:
            return joined.status_code, joined.text
        said: list[str] = []
        with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": body["session_hash"]}) as stream:
            for line in stream.iter_lines():
                said.append(line)
                if '"process_completed"' in line or ('"process_generating"' in line and not to_end):
                    break
        return stream.status_code, "\n".join(said)

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Written by Python's own encoder, which also sends NaN and halves of characters as they are."""
        return self._http.post(path, content=json.dumps(body), headers={"content-type": "application/json"})

    def close(self) -> None:
        self._http.close()

"""Nonsense and malice in every argument of every listener, over HTTP: the page refuses them in words, writes and reads nothing else, and lives.

By the owner of a Space, whose calls reach the work behind every handler, and whose paths are a stranger's all the same (rules R10, R20, R24).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.paths import PROJECT
from tests import listeners, space
from tests.hub.server import Hub
from tests.integration.test_client import a_finished_run
from tests.integration.test_whose_data import rows
from tests.listeners import Listener, Visitor
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
SECRET, WRITTEN = "sesame of the disk", "fuzz-was-here"
SCRIPTS = ("<script>alert(7391)</script>", "<img src=x onerror=alert(7391)>", '"><svg/onload=alert(7391)>', "[x](javascript:alert(7391))")
UNESCAPED = re.compile(r"<(script|img|svg)[^<>]*[ />][^<>]*(7391|onerror|onload)|<script>alert|href=.?javascript:", re.IGNORECASE)
TOLD = ("Traceback", "site-packages", 'File "/', str(PROJECT))
CALLS_AT_ONCE = 4
EACH = 3  # hostile values per listener in all its arguments at once; the next listener gets the next ones


@dataclass
class Site:
    app: App
    found: list[Listener]
    root: Path

    def owner(self) -> Visitor:
        return Visitor(self.app.url, cookie=space.cookie(space.TOKENS["owner"]))

    def as_owner(self) -> dict[str, str]:
        return {"cookie": f"session={space.cookie(space.TOKENS['owner'])}"}

    def is_alive(self) -> bool:
        """The same process still serves the page, and its runs."""
        assert self.app.process and self.app.process.poll() is None
        listener = next(each for each in self.found if each.name == "ui.runs_tab.run_status")
        return listeners.result(self.owner().call(listener, data=["r-starter"]))["state"] == "done"

    def outside(self) -> dict[str, int]:
        """What lies beside the workspace, and the program itself, with when it was changed."""
        kept = [path for path in self.root.iterdir() if path.name not in ("workspace", "uploads", "hub-cache", "app.log")]
        program = [path for folder in ("core", "ui", "spaces", "examples") for path in (PROJECT / folder).rglob("*")]
        return {str(path): path.stat().st_mtime_ns for path in kept + program if path.is_file() and path.suffix != ".pyc"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("fuzz")
    for name in ("workspace", "uploads", "hub-cache"):
        (root / name).mkdir()
    a_finished_run(root / "workspace")
    (root / "secret.jsonl").write_text(rows(SECRET), encoding="utf-8")
    with Hub() as hub:
        hub.people = space.people()
        variables = space.environment(hub.url) | {"GRADIO_TEMP_DIR": str(root / "uploads"), "HF_HOME": str(root / "hub-cache")}
        app = App(root / "workspace", free_port(), more=variables)
        app.start()
        yield Site(app, listeners.of_page(space.environment(hub.url)), root)
        app.kill()
        stop_runs(app.home)


def deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


def hostile(site: Site) -> list[Any]:
    """One of each kind; a path leads to a file that is there, to a place where one could be written, or to the system's own."""
    secret, up = str(site.root / "secret.jsonl"), "../" * 12
    file = {"path": secret, "orig_name": "secret.jsonl", "meta": {"_type": "gradio.FileData"}}
    return [
        None, True, -1, 0, 10**30, 1e308, float("nan"), float("-inf"), "", " ", "NaN", "0x10", "[]", "{}", "1e999",
        [], {}, [[]], [None], {"x": {}}, {"__type__": "update", "value": "x"}, {"path": None}, deep(200), {"name": deep(50)},
        secret, f"file://{secret}", "../secret.jsonl", f"{up}etc/passwd", "/proc/self/environ", "~/.ssh/id_rsa", "C:\\windows\\win.ini",
        f"../{WRITTEN}", f"{site.root}/{WRITTEN}", f"../../{WRITTEN}/x", [secret], [f"../../{WRITTEN}"], file, [file], {**file, "url": secret},
        *SCRIPTS, [SCRIPTS[0]], {"name": SCRIPTS[1], "base_model": SCRIPTS[0], "dataset": SCRIPTS[2]},
        {"name": f"../{WRITTEN}", "dataset": secret, "base_model": str(site.root), "levels": [secret]},
        "\x00", "a\x00b", "\x1b[2J\x07", "\r\nSet-Cookie: a=b", "\ud800", "a\udfff", "\u202e\u2066", "$(id)", "; reboot", "-rf", "--help",
        "{{ 7*7 }}", "%s%n", "' OR 1=1 --", "x" * 4000, ["x"] * 500, {str(number): number for number in range(500)},
        "r-starter", "r-starter-merged", "ds-000000000000", "starter/../..", "a" * 41, "A/B/C", "😀" * 300,
    ]  # fmt: skip


def texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for each in value.values():
                yield from texts(each)
        case list():
            for each in value:
                yield from texts(each)
        case _:
            pass


class Markup:
    """Which outputs of a listener a browser reads as HTML."""

    def __init__(self, site: Site) -> None:
        config = httpx.get(f"{site.app.url}/config", timeout=60, trust_env=False).json()
        html = {part["id"] for part in config["components"] if part["type"] == "html"}
        self._is_html = {each["id"]: [number in html for number in each["outputs"]] for each in config["dependencies"]}

    def of(self, listener: Listener, answer: str) -> Iterator[str]:
        for line in answer.splitlines():
            said: dict[str, Any] = {}
            with suppress(ValueError):
                said = json.loads(line.removeprefix("data: "))
            data = (said.get("output") or said).get("data") if isinstance(said, dict) else None
            for is_html, value in zip(self._is_html[listener.number], data or (), strict=False):
                if is_html:
                    yield from texts(value)


@dataclass
class Asked:
    listener: Listener
    data: list[Any]
    status: int
    answer: str

    def __str__(self) -> str:
        return f"{self.listener.name} {ascii(self.data)[:300]} -> {self.status} {self.answer[-1500:]}"


def ask_one(visitor: Visitor, listener: Listener, data: list[Any], *, to_end: bool = False) -> Asked:
    try:
        status, answer = visitor.call_with_status(listener, data=data, to_end=to_end)
    except httpx.TransportError as error:  # the page hangs up on a connection that was idle or has sent too much; a new one is answered
        assert "incomplete" not in str(error), (listener, ascii(data)[:300])  # but no answer breaks off
        status, answer = visitor.call_with_status(listener, data=data, to_end=to_end)
    return Asked(listener, data, status, answer)


def ask_all(visitor: Visitor, wanted: list[tuple[Listener, list[Any]]]) -> list[Asked]:
    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        return list(pool.map(lambda each: ask_one(visitor, *each), wanted))


def in_every_argument(site: Site, visitor: Visitor) -> list[tuple[Listener, list[Any]]]:
    """For each listener a few values in all its arguments at once, and too few and too many arguments."""
    values = hostile(site)
    wanted: list[tuple[Listener, list[Any]]] = []
    for number, listener in enumerate(site.found):
        width = len(visitor.values(listener))
        chosen = [values[(number * EACH + each) % len(values)] for each in range(EACH)]
        wanted += [(listener, [value] * width) for value in chosen]
        wanted += [(listener, [values[number % len(values)]] * other) for other in (width - 1, width + 3) if other >= 0]
    return wanted


def is_told(answer: str) -> bool:
    """Whether an answer has something of the server, of a file beside the workspace, or of the system in it."""
    return any(told in answer for told in (*TOLD, SECRET, "root:x:"))


def test_no_listener_falls_over_what_it_is_given(site: Site) -> None:
    before, visitor, markup = site.outside(), site.owner(), Markup(site)
    asked = ask_all(visitor, in_every_argument(site, visitor))
    assert len(asked) > 4 * len(site.found) > 400
    assert [str(each) for each in asked if each.status >= 500 or is_told(each.answer)] == []
    as_html = [(each, said) for each in asked for said in markup.of(each.listener, each.answer)]
    assert any("7391" in said for _, said in as_html), "what is given is repeated somewhere, as words"
    assert [f"{each}: {said}" for each, said in as_html if UNESCAPED.search(said)] == []
    assert site.outside() == before
    assert not list(site.root.glob(f"**/{WRITTEN}*"))
    assert site.is_alive()


def test_no_endpoint_falls_over_what_it_is_given(site: Site) -> None:
    """As a program calls it, by its name; among that what is no list of arguments at all."""
    before, values = site.outside(), hostile(site)
    with httpx.Client(base_url=site.app.url, headers=site.as_owner(), timeout=60, trust_env=False) as client:
        named = client.get("/gradio_api/info").json()["named_endpoints"]
        assert len(named) >= 10
        for number, (name, about) in enumerate(named.items()):
            width = len(about["parameters"])
            chosen = [values[(number * 7 + each * 6) % len(values)] for each in range(12)]
            bodies = [{"data": [value] * width} for value in chosen] + [
                {},
                {"data": None},
                {"data": "x"},
                {"data": {"x": 1}},
                {"data": [[]] * 40},
            ]
            for body in bodies:
                sent = client.post(f"/gradio_api/call{name}", content=json.dumps(body), headers={"content-type": "application/json"})
                answer = sent
                if sent.status_code == 200:
                    answer = client.get(f"/gradio_api/call{name}/{sent.json()['event_id']}")
                assert answer.status_code < 500 and not is_told(answer.text), (name, ascii(body)[:300], answer, answer.text[-1500:])
    assert site.outside() == before
    assert not list(site.root.glob(f"**/{WRITTEN}*"))
    assert site.is_alive()


BODIES = (
    b"", b"null", b"[]", b"{", b"\xff\xfe", b'"x"', b"[" * 100_000, b'{"a":' * 20_000, b'{"data": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"fn_index": NaN, "data": []}', b'{"fn_index": -1, "data": []}', b'{"fn_index": 1e999, "data": []}', b'{"fn_index": ' + b"9" * 5000 + b"}",
    b'{"fn_index": [1], "data": []}', b'{"fn_index": 3, "data": [], "session_hash": {"x": 1}}', b'{"fn_index": 3, "session_hash": "../../x"}',
    b'{"api_name": "/../x", "data": []}', b'{"fn_index": 3, "data": [], "event_data": [[[1]]]}', b'{"fn_index": 3, "data": [], "trigger_id": "x"}',
    b'{"session_hash": "\\ud800", "event_id": "\\ud800", "fn_index": 3, "data": []}', b'{"session_hash": null, "event_id": 7}',
)  # fmt: skip
ROUTES = ("queue/join", "run/predict", "run/chat", "call/chat", "cancel", "reset", "heartbeat/x", "upload", "login_check", "api/chat")


def test_no_route_falls_over_a_body_that_is_none(site: Site) -> None:
    for route in ROUTES:
        for body in BODIES:
            for kind in ("application/json", "multipart/form-data; boundary=x"):
                headers = site.as_owner() | {"content-type": kind}
                answer = httpx.post(f"{site.app.url}/gradio_api/{route}", content=body, headers=headers, timeout=60, trust_env=False)
                assert answer.status_code < 500 and not is_told(answer.text), (route, body[:100], kind, answer, answer.text[-1500:])
    assert site.is_alive()

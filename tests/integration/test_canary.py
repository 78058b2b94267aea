"""A token that can be recognised goes through every flow of a Space that takes one, and then is nowhere (reliability rules R4, R5, R7 and R8).

Looked for on disk, in logs, in every process's environment and arguments while it runs, in what the page answers, and in what was pushed.
Jobs on rented machines are searched in the same way in `test_jobs`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from core import paths
from tests import listeners, space
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo
from tests.hub.server import Hub
from tests.listeners import Listener, Visitor, result
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
CANARY = GOOD_TOKEN
LOOKS_S = 0.05
ROWS = [{"question": f"What is {number} and one?", "answer": f"It is {number + 1}."} for number in range(40)]


@dataclass
class Watch:
    """Reads the environment and the arguments of every process of a workspace, again and again, until it is closed."""

    home: Path
    seen: set[int] = field(default_factory=set[int])
    hits: list[str] = field(default_factory=list[str])
    is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self.is_over.wait(LOOKS_S):
            for pid in psutil.pids():
                try:
                    environment, arguments = (Path(f"/proc/{pid}/{name}").read_bytes() for name in ("environ", "cmdline"))
                except OSError:
                    continue  # it has ended
                if f"TRANSMUTE_HOME={self.home}".encode() in environment:
                    self.seen.add(pid)
                    if CANARY.encode() in environment + arguments:
                        self.hits.append(arguments.decode(errors="replace"))


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    base = {file.name: file.read_bytes() for file in paths.STARTER.iterdir() if file.is_file()}
    data = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    repos = [
        Repo("someone/base", base, kind="models", access="private"),
        Repo("someone/data", {"README.md": b"# data", "train.jsonl": data}, access="private"),
    ]
    with Hub(repos) as running:
        running.people = {CANARY: {"type": "user", "id": space.CREATOR_ID, "name": "someone", "orgs": []}}
        yield running


@pytest.fixture(scope="module")
def at_the_space(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("canary")
    home = folder / "workspace"
    home.mkdir()
    places = {"HOME": str(folder / "home"), "HF_HOME": str(folder / "huggingface"), "TMPDIR": str(folder / "tmp")}
    for place in places.values():
        Path(place).mkdir()
    app = App(home, free_port(), more=space.environment(hub.url) | places | {"HF_TOKEN": OTHER_TOKEN})
    app.start()
    yield app
    app.kill()
    stop_runs(home)


def named(found: list[Listener], name: str) -> Listener:
    return next(listener for listener in found if listener.name == name)


def test_a_token_goes_through_every_flow_and_is_nowhere_afterwards(at_the_space: App, hub: Hub) -> None:
    found = listeners.of_page(space.environment(hub.url))
    owner, bodies = Visitor(at_the_space.url, cookie=space.cookie(CANARY)), []

    def ask(name: str, *data: Any) -> str:
        bodies.append(owner.call(named(found, name), data=list(data)))
        return bodies[-1]

    with Watch(at_the_space.home) as watch:
        fetched = ask("ui.dataset_sources.take_hub", "someone/data", "", "", "")
        assert "message error" not in fetched, fetched
        wait_until(lambda: list(at_the_space.home.glob(f"datasets/ds-{'?' * 12}")))
        recipe = {"name": "Canary", "base_model": "someone/base", "dataset": "examples/identity.json", "method": "lora", "max_steps": 2}
        started = ask("ui.train_handlers.start_run", recipe | {"levels": ["f16"], "max_length": 256, "save_steps": 1, "eval_fraction": 0.1})
        run_id = result(started)["run_id"]
        wait_until(lambda: result(ask("ui.runs_tab.run_status", run_id))["state"] not in ("queued", "running"))
        assert result(ask("ui.runs_tab.run_status", run_id))["state"] == "done", bodies[-1]
        models = [each["id"] for each in result(ask("ui.models_tab.list_artifacts")) if each["kind"] == "gguf"]
        pushed = result(ask("ui.programs.publish", models, "someone/Canary-GGUF", True, False, False))
        assert pushed["commit"]
        added = ask("ui.chat_tab.add_model", [], "someone/base", "")
        assert "message error" not in added, added
        for attempt in ("nobody/there", "someone/data"):  # an error must not repeat the token either
            ask("ui.chat_tab.add_model", [], attempt, "")
        ask("ui.run_details.pack_logs", run_id)
        for listener in found:
            if listener.role == "public" and not listener.queue:
                bodies.append(owner.call(listener))
    stranger = Visitor(at_the_space.url)
    for name, data in (("ui.chat_tab.add_model", [[], "someone/base", ""]), ("ui.train_handlers.start_run", [recipe])):
        bodies.append(stranger.call(named(found, name), data=data))
    assert [asked for asked in hub.asked if OTHER_TOKEN in asked.headers.get("authorization", "")] == [], "the Space's own is not lent"
    sent_to_the_hub = [asked for asked in hub.asked if asked.headers.get("authorization") == f"Bearer {CANARY}"]
    assert len(sent_to_the_hub) > 10, "the flows did use the token"
    assert len(watch.seen) > 4, "the page, the import, a supervisor and its children were looked at"
    assert watch.hits == []
    assert [body for body in bodies if CANARY in body or OTHER_TOKEN in body] == []
    assert [path for path in files_under(at_the_space.home.parent) if holds_a_token(path.read_bytes())] == []
    pushed_files = {(name, path): content for (_, name), repo in hub.repos.items() for path, content in repo.files.items()}
    assert ("someone/Canary-GGUF", "README.md") in pushed_files
    assert [name for name, content in pushed_files.items() if holds_a_token(content)] == []
    assert not list(at_the_space.home.parent.rglob("huggingface/token"))


def holds_a_token(content: bytes) -> bool:
    return CANARY.encode() in content or OTHER_TOKEN.encode() in content


def files_under(root: Path) -> list[Path]:
    """Every regular file of the workspace, the caches, the temporary folder, and the log of the page."""
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"events.jsonl", "worker.log", "app.log"} <= {path.name for path in found}
    return found


def wait_until(is_so: Any, within_s: float = 300.0) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.5)

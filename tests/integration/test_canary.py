"""A token that can be recognised goes through every flow of a Space that takes one, and then is nowhere (reliability rules R4, R5, R7 and R8).

Looked for on disk, in logs, in every process's environment and arguments while it runs, in what the page answers, and in what was pushed.
Jobs on rented machines are searched in the same way in `test_jobs`.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from huggingface_hub import constants

from core import paths
from core.publish import deploy
from tests import listeners, space
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo
from tests.hub.server import Hub
from tests.listeners import Listener, Visitor, result
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
CANARY = GOOD_TOKEN
LOOKS_S = 0.05
RECIPE = {
    "name": "Canary", "base_model": "someone/base", "dataset": "examples/identity.json", "method": "lora", "levels": ["f16"],
    "max_steps": 2, "max_length": 256, "save_steps": 1, "eval_fraction": 0.1, "publish_to": "someone/When-Done",
}  # fmt: skip
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
        Repo("org/theirs", {"README.md": b"theirs"}, kind="models"),
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


class Owner:
    """The owner of the Space at the page; every answer is kept in `bodies`."""

    def __init__(self, app: App, hub: Hub, found: list[Listener]) -> None:
        self.app, self.hub, self.found = app, hub, found
        self.visitor, self.bodies = Visitor(app.url, cookie=space.cookie(CANARY)), list[str]()

    def ask(self, name: str, *data: Any) -> str:
        self.bodies.append(self.visitor.call(named(self.found, name), data=list(data), to_end=True))
        return self.bodies[-1]

    def wait_for(self, run_id: str) -> None:
        wait_until(lambda: result(self.ask("ui.runs_tab.run_status", run_id))["state"] not in ("queued", "running"))
        assert result(self.bodies[-1])["state"] == "done", self.bodies[-1]

    def publish(self, models: list[str], repo_id: str, *, as_pull_request: bool = False) -> dict[str, Any]:
        return result(self.ask("ui.programs.publish", models, repo_id, True, as_pull_request, False))

    @property
    def runs(self) -> Path:
        return self.app.home / "runs"

    def bring_data(self) -> str:
        fetched = self.ask("ui.dataset_sources.take_hub", "someone/data", "", "", "")
        assert "message error" not in fetched, fetched
        return wait_until(lambda: list(self.app.home.glob(f"datasets/ds-{'?' * 12}")))[0].name

    def train(self) -> str:
        """A run on a private base model whose checkpoints are kept on the Hub, and whose result is published when it is done."""
        run_id = result(self.ask("ui.train_handlers.start_run", RECIPE))["run_id"]
        self.ask("ui.run_kept.keep", run_id)
        self.wait_for(run_id)
        page = Visitor(self.app.url, cookie=space.cookie(CANARY), session_hash="whendone")  # which is offered what waits, and chooses it
        for name, values in (("ui.publish_tab.published", []), ("ui.publish_send.send_waiting", [run_id])):
            self.bodies.append(page.call(named(self.found, name), data=values, to_end=True))
        assert "Published" in self.bodies[-1], self.bodies[-1]
        return run_id

    def publish_each_kind(self, data: str) -> None:
        made = {each["kind"]: each["id"] for each in result(self.ask("ui.models_tab.list_artifacts"))}
        for kind in ("adapter", "merged", "gguf"):
            assert self.publish([made[kind]], f"someone/Canary-{kind}")["commit"]
        assert self.publish([data], "someone/Canary-data")["commit"]
        assert self.publish([made["adapter"]], "org/theirs", as_pull_request=True)["pull_request"]

    def take_a_model(self) -> None:
        """Levels of a model that was not trained here."""
        before = set(self.runs.iterdir())
        self.ask("ui.models_take.take", "someone/base", None, ["f16"])
        made = set(self.runs.iterdir()) - before
        assert len(made) == 1, self.bodies[-1]
        self.wait_for(made.pop().name)

    def lose_and_bring_back(self, run_id: str) -> None:
        wait_until(lambda: "checkpoint_kept" in (self.runs / run_id / "events.jsonl").read_text(encoding="utf-8"))
        shutil.rmtree(self.runs / run_id)
        self.ask("ui.run_kept.bring_back", f"someone/transmute-{run_id}")
        self.wait_for(run_id)

    def chat(self) -> None:
        added = self.ask("ui.chat_tab.add_model", [], "someone/base", "")
        assert "message error" not in added, added
        for attempt in ("nobody/there", "someone/data"):  # an error must not repeat the token either
            self.ask("ui.chat_tab.add_model", [], attempt, "")
        self.ask("ui.chat_tab.add_model", [], "http://127.0.0.1:9/v1", CANARY)

    def deploy(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HF_ENDPOINT", self.hub.url)
            patch.setenv("TRANSMUTE_HOME", str(self.app.home))
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            deploy.carry_out(deploy.Space("someone/their-own"), CANARY, self.bodies.append)


def test_a_token_goes_through_every_flow_and_is_nowhere_afterwards(at_the_space: App, hub: Hub) -> None:
    found = listeners.of_page(space.environment(hub.url))
    owner = Owner(at_the_space, hub, found)
    with Watch(at_the_space.home) as watch:
        data = owner.bring_data()
        run_id = owner.train()
        owner.publish_each_kind(data)
        owner.take_a_model()
        owner.lose_and_bring_back(run_id)
        owner.chat()
        owner.deploy()
        owner.ask("ui.run_details.pack_logs", run_id)
        for listener in found:
            if listener.role == "public" and not listener.queue:
                owner.bodies.append(owner.visitor.call(listener))
    stranger, bodies = Visitor(at_the_space.url), owner.bodies
    for name, values in (("ui.chat_tab.add_model", [[], "someone/base", ""]), ("ui.train_handlers.start_run", [RECIPE])):
        bodies.append(stranger.call(named(found, name), data=values))
    assert [asked for asked in hub.asked if OTHER_TOKEN in asked.headers.get("authorization", "")] == [], "the Space's own is not lent"
    sent_to_the_hub = [asked for asked in hub.asked if asked.headers.get("authorization") == f"Bearer {CANARY}"]
    assert len(sent_to_the_hub) > 50, "the flows did use the token"
    assert len(watch.seen) > 4, "the page, the import, a supervisor and its children were looked at"
    assert watch.hits == []
    assert [body for body in bodies if CANARY in body or OTHER_TOKEN in body] == []
    assert [path for path in files_under(at_the_space.home.parent) if holds_a_token(path.read_bytes())] == []
    pushed_files = {(name, path): content for (_, name), repo in hub.repos.items() for path, content in repo.files.items()}
    repos = {name for name, _ in pushed_files}
    assert {
        f"someone/{name}" for name in ("When-Done", "Canary-adapter", "Canary-merged", "Canary-gguf", "Canary-data", "their-own")
    } <= repos
    proposed = hub.repos[("models", "org/theirs")].branches["refs/pr/1"]
    assert [name for name, content in proposed.items() if holds_a_token(content)] == []
    assert [name for name, content in pushed_files.items() if holds_a_token(content)] == []
    assert not list(at_the_space.home.parent.rglob("huggingface/token"))


def holds_a_token(content: bytes) -> bool:
    return CANARY.encode() in content or OTHER_TOKEN.encode() in content


def files_under(root: Path) -> list[Path]:
    """Every regular file of the workspace, the caches, the temporary folder, and the log of the page."""
    found = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {"events.jsonl", "worker.log", "app.log"} <= {path.name for path in found}
    return found


def wait_until(is_so: Any, within_s: float = 300.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found

"""A token that can be recognised goes through every flow of a Space that takes one, and then is nowhere (reliability rules R4, R5, R7 and R8).

Looked for on disk, in logs, in every process's environment and arguments while it runs, in what the page answers, and in what was pushed.
What a page on somebody's own machine takes, and the command line, is looked for in the same way in `test_canary_here`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.jobs import client as jobs
from tests import canary, listeners, space
from tests.canary import Answers, Watch
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from tests.listeners import Listener, Visitor, result
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900), pytest.mark.filterwarnings("ignore")]
LOGIN = canary.canary("the owner's login")
OWN = canary.canary("the Space's own token")
CLIENT_SECRET = canary.canary("the secret of the Space's login")
RECIPE = {
    "name": "Canary", "base_model": "someone/base", "dataset": "examples/identity.json", "method": "lora", "levels": ["f16"],
    "max_steps": 2, "max_length": 256, "save_steps": 1, "eval_fraction": 0.1, "publish_to": "someone/When-Done",
}  # fmt: skip
RENTED = RECIPE | {"name": "Rented", "method": "fft", "publish_to": "", "levels": [], "eval_dataset": "", "sample_prompts": ""}
ROWS = [{"question": f"What is {number} and one?", "answer": f"It is {number + 1}."} for number in range(40)]


def lines(rows: list[dict[str, str]]) -> dict[str, bytes]:
    """The files of a dataset's repository."""
    return {"README.md": b"# data", "train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    base = {file.name: file.read_bytes() for file in paths.STARTER.iterdir() if file.is_file()}
    repos = [
        Repo("someone/base", base, kind="models", access="private"),
        Repo("someone/data", lines(ROWS), access="private"),
        Repo("org/theirs", {"README.md": b"theirs"}, kind="models"),
    ]
    with Hub(repos) as running:
        running.same_person = {LOGIN: GOOD_TOKEN}
        running.people = {LOGIN: {"type": "user", "id": space.CREATOR_ID, "name": "someone", "orgs": []}}
        running.image_env = {"HF_HUB_DISABLE_XET": "1"}
        yield running


@pytest.fixture(scope="module")
def at_the_space(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("canary")
    home = folder / "workspace"
    home.mkdir()
    places = {"HOME": str(folder / "home"), "HF_HOME": str(folder / "huggingface"), "TMPDIR": str(folder / "tmp")}
    for place in places.values():
        Path(place).mkdir()
    own = {"HF_TOKEN": OWN, "OAUTH_CLIENT_SECRET": CLIENT_SECRET}
    app = App(home, free_port(), more=space.environment(hub.url) | places | own)
    app.start()
    yield app
    app.kill()
    stop_runs(home)


def named(found: list[Listener], name: str) -> Listener:
    return next(listener for listener in found if listener.name == name)


class Owner:
    """The owner of the Space at the page."""

    def __init__(self, app: App, hub: Hub, found: list[Listener], answers: Answers) -> None:
        self.app, self.hub, self.found, self.answers = app, hub, found, answers
        self.visitor = self.page()

    def page(self, **more: Any) -> Visitor:
        """A browser with the owner's login; of one page that stays open if `more` has its ``session_hash``."""
        return Visitor(self.app.url, cookie=space.cookie(LOGIN, CLIENT_SECRET), through=self.answers, **more)

    def ask(self, name: str, *data: Any, page: Visitor | None = None) -> str:
        """Raises AssertionError: the page refuses it."""
        said = (page or self.visitor).call(named(self.found, name), data=list(data), to_end=True)
        assert "message error" not in said and '"success": false' not in said, said[-3000:]
        return said

    def try_to(self, name: str, *data: Any) -> None:
        """Ask for what the page cannot do: its error must not repeat the token either."""
        said = self.visitor.call(named(self.found, name), data=list(data), to_end=True)
        assert "message error" in said, said

    def wait_for(self, run_id: str) -> None:
        ended = wait_until(lambda: is_over(result(self.ask("ui.runs_tab.run_status", run_id))))
        assert ended["state"] == "done", ended

    def publish(self, models: list[str], repo_id: str, *, as_pull_request: bool = False) -> dict[str, Any]:
        return result(self.ask("ui.programs.publish", models, repo_id, True, as_pull_request, False))

    @property
    def runs(self) -> Path:
        return self.app.home / "runs"

    def bring_data(self) -> str:
        self.ask("ui.dataset_sources.take_hub", "someone/data", "", "", "")
        return wait_until(lambda: list(self.app.home.glob(f"datasets/ds-{'?' * 12}")))[0].name

    def fill_in(self, name: str, knobs: dict[str, Any], place: str = "") -> list[Any]:
        """The inputs of a handler of the Train tab, with these knobs in their fields."""
        listener, config = named(self.found, name), self.visitor.get("/config").json()
        ids = {part["id"]: str(part["props"].get("elem_id")).removeprefix("knob-") for part in config["components"]}
        inputs = next(each["inputs"] for each in config["dependencies"] if each["id"] == listener.number)
        form = {"preset": "demo", "values": knobs, "carried": "", "place": place, "rented": {"timeout": "10m"}}
        return [knobs.get(ids[number], value) for number, value in zip(inputs, self.visitor.values(listener, form=form), strict=True)]

    def rent(self) -> str:
        """A run on a rented machine, started on the Train tab. It is begun here; `bring_home` waits for it."""
        before = set(self.runs.iterdir()) if self.runs.exists() else set[Path]()
        self.ask("ui.train_handlers.start", *self.fill_in("ui.train_handlers.start", RENTED, "jobs:cpu-basic"))
        return (set(self.runs.iterdir()) - before).pop().name

    def look_before_training(self) -> None:
        """What the Train tab and the Dataset tab ask of the Hub about a private model, without training on it."""
        typed = self.page(event_data={"input_value": "someone/b"})
        assert "someone/base" in self.ask("ui.train_hub.offer", page=typed)
        assert "Yes" in self.ask("ui.train_publish.can_publish", "someone/When-Done", "someone/base")
        self.ask("ui.train_handlers.suggest", *self.fill_in("ui.train_handlers.suggest", RECIPE))
        self.ask("ui.train_estimate.estimate", RECIPE)
        self.ask("ui.dataset_sources.example_identity", "someone/base", 256, "answers")

    def bring_home(self, run_id: str) -> None:
        self.wait_for(run_id)
        assert len(self.hub.jobs) == 1 and self.hub.jobs[0].stage == "COMPLETED"
        assert (self.runs / run_id / "artifacts").is_dir()

    def stop_one(self) -> None:
        """A rented machine that is given back before its run is done."""
        run_id = self.rent()
        wait_until(lambda: len(self.hub.jobs) == 2)
        assert result(self.ask("ui.runs_tab.stop_run", run_id))["state"] == "cancelled"
        assert self.hub.jobs[1].stage == "CANCELED"

    def train(self) -> str:
        """A run on a private base model whose checkpoints are kept on the Hub, and whose result is published when it is done."""
        run_id = result(self.ask("ui.train_handlers.start_run", RECIPE))["run_id"]
        self.ask("ui.run_kept.keep", run_id)
        self.wait_for(run_id)
        page = self.page(session_hash="whendone")  # which is offered what waits, and chooses it
        self.ask("ui.publish_tab.published", page=page)
        assert "Published" in self.ask("ui.publish_send.send_waiting", run_id, page=page)
        return run_id

    def publish_each_kind(self, data: str) -> None:
        made = {each["kind"]: each["id"] for each in result(self.ask("ui.models_tab.list_artifacts"))}
        for kind in ("merged", "gguf"):
            assert self.publish([made[kind]], f"someone/Canary-{kind}")["commit"]
        assert self.publish([data], "someone/Canary-data")["commit"]
        assert self.publish([made["adapter"]], "org/theirs", as_pull_request=True)["pull_request"]
        self.publish_on_the_page(made["adapter"], "someone/Canary-adapter")

    def publish_on_the_page(self, model: str, repo_id: str) -> None:
        """As a person does it on the Publish tab, where a Space has no field for a token: look, send, and send again what is there."""
        page = self.page(session_hash="publishing")
        offer = named(self.found, "ui.publish_tab.offer")
        self.ask(offer.name, *page.values(offer, publish_choice={"ids": [model], "carried": ""}), page=page)
        assert "someone" in self.ask("ui.publish_name.whose", None, page=page)
        about: list[Any] = ["parquet", "", "en"]
        prepared = self.ask("ui.publish_tab.prepare", [model], repo_id, *about, None, {}, page=page)
        assert "does not exist yet" in prepared
        card = "---\nlicense: apache-2.0\n---\n# Canary\n"
        sent = self.ask("ui.publish_send.send", [model], repo_id, "parquet", card, True, False, False, False, None, page=page)
        assert "Published" in sent or "sent" in sent, sent
        assert f"{repo_id} exists" in self.ask("ui.publish_send.look", [model], repo_id, "parquet", card, None, page=page)
        assert f"{repo_id} exists" in self.ask("ui.publish_tab.write_anew", [model], repo_id, *about, None, page=page)

    def take_a_model(self) -> None:
        """Levels of a model that was not trained here."""
        before = set(self.runs.iterdir())
        self.ask("ui.models_take.take", "someone/base", None, ["f16"])
        made = set(self.runs.iterdir()) - before
        assert len(made) == 1, made
        self.wait_for(made.pop().name)

    def lose_and_bring_back(self, run_id: str) -> None:
        wait_until(lambda: "checkpoint_kept" in (self.runs / run_id / "events.jsonl").read_text(encoding="utf-8"))
        shutil.rmtree(self.runs / run_id)
        self.ask("ui.run_kept.bring_back", f"someone/transmute-{run_id}")
        self.wait_for(run_id)

    def chat(self) -> None:
        self.ask("ui.chat_tab.add_model", [], "someone/base", "")
        for attempt in ("nobody/there", "someone/data"):
            self.try_to("ui.chat_tab.add_model", [], attempt, "")
        self.try_to("ui.chat_tab.add_model", [], "http://127.0.0.1:9/v1", LOGIN)

    def look_at_everything(self, run_id: str) -> None:
        self.ask("ui.run_details.pack_logs", run_id)
        for listener in self.found:
            if listener.role == "public" and not listener.queue:
                self.visitor.call(listener)


def test_a_token_goes_through_every_flow_and_is_nowhere_afterwards(at_the_space: App, hub: Hub) -> None:
    found, answers = listeners.of_page(space.environment(hub.url)), Answers()
    owner = Owner(at_the_space, hub, found, answers)
    root = at_the_space.home.parent
    with Watch(root) as watch:
        data = owner.bring_data()
        rented = owner.rent()
        owner.look_before_training()
        run_id = owner.train()
        owner.publish_each_kind(data)
        owner.take_a_model()
        owner.lose_and_bring_back(run_id)
        owner.chat()
        owner.bring_home(rented)
        owner.stop_one()
        owner.look_at_everything(run_id)
    stranger = Visitor(at_the_space.url, through=answers)
    for name, values in (("ui.chat_tab.add_model", [[], "someone/base", ""]), ("ui.train_handlers.start_run", [RECIPE])):
        stranger.call(named(found, name), data=values)
    the_flows_did_happen(hub, watch, rented)
    begins_the_job = jobs.BOOTSTRAP.read_text(encoding="utf-8").split("\n")[0]
    assert watch.hits == {
        ("app.py", "environ", "the Space's own token"),  # as the platform gives them
        ("app.py", "environ", "the secret of the Space's login"),
        (begins_the_job, "environ", "the owner's login"),  # as the secret of a job, on its own machine
        ("core.jobs.remote", "environ", "the owner's login"),
    }
    assert answers.bodies and answers.hits() == []
    machines = [job.folder for job in hub.jobs if job.folder]
    assert len(machines) == 2 and canary.in_files(root, *machines) == set()
    assert canary.found_in("\n".join(line for job in hub.jobs for line in job.lines).encode()) == set()
    assert canary.at_hub(hub) == set()
    assert not list(root.rglob("huggingface/token"))


def the_flows_did_happen(hub: Hub, watch: Watch, rented: str) -> None:
    assert [asked for asked in hub.asked if OWN in asked.headers.get("authorization", "")] == [], "the Space's own is not lent"
    sent = [asked for asked in hub.asked if asked.headers.get("authorization") == f"Bearer {LOGIN}"]
    assert len(sent) > 50, "the flows did use the token"
    assert {"app.py", "core.data.import_child", "core.running.supervisor", "core.worker", "core.jobs.follower"} <= watch.seen, watch.seen
    made = {name for _, name in hub.repos}
    kinds = ("When-Done", "Canary-adapter", "Canary-merged", "Canary-gguf", "Canary-data", f"transmute-{rented}")
    assert {f"someone/{name}" for name in kinds} <= made and "refs/pr/1" in hub.repos[("models", "org/theirs")].branches
    for job in hub.jobs:
        assert job.spec["secrets"] == {"HF_TOKEN": LOGIN}
        assert canary.found_in(json.dumps({name: value for name, value in job.spec.items() if name != "secrets"}).encode()) == set()


def is_over(status: dict[str, Any]) -> dict[str, Any] | None:
    return None if status["state"] in ("queued", "running") else status


def wait_until(is_so: Any, within_s: float = 300.0) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := is_so()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found

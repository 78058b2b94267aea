"""On somebody's own machine, and on the command line: every secret that is pasted, typed or saved there is used, and then is nowhere (R4, R5, R7, R8).

As `test_canary` looks for the login of a Space: on disk, in what was said and logged, in every process, in what the page answers, in what was
pushed. What is searched for has no shape that a pattern knows, so nothing is merely redacted.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.export.artifacts import Artifact
from core.export.gguf import make_gguf
from core.paths import PROJECT, STARTER
from core.process import child_environment
from core.training.launch import TRACKERS
from tests import canary, listeners
from tests.canary import Answers, Watch
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from tests.integration.test_canary import ROWS, lines, named, wait_until
from tests.integration.test_client import MODEL, a_finished_run
from tests.listeners import Listener, Visitor, result
from tests.page import App, free_port, stop_runs
from tests.unit.running.test_trackio import TRACKIO
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
RUN = "r-starter"
SAVED = canary.canary("the saved login")
PASTED = canary.canary("the pasted token")
WRONG = canary.canary("a pasted token that the Hub does not know")
CURVES = canary.canary("the token for the curves")
WANDB_KEY = canary.key_of_digits("the key of W&B")
WRONG_KEY = canary.key_of_digits("a wrong key of W&B")
ENDPOINT_KEY = canary.canary("the key of the endpoint")
OTHER_KEY = canary.canary("a wrong key of the endpoint")
PASSWORD = canary.canary("the password of the page")
DEPLOYED = canary.canary("a secret of the deployed Space")
# trackio is installed by those who want it: its double lies where every process of the page finds packages.
FINDS_TRACKIO = """
from core import process

found = process.child_environment
process.child_environment = lambda extra=None: found({{"PYTHONPATH": {path!r}}} | (extra or {{}}))
"""


@dataclass
class Here:
    """A machine with a workspace, a saved login and a page with a password; `answers` is all that was answered over HTTP."""

    root: Path
    environment: dict[str, str]
    app: App
    hub: Hub
    found: list[Listener]
    answers: Answers = field(default_factory=Answers)

    def visitor(self, **more: Any) -> Visitor:
        """A browser in which the password was given."""
        with httpx.Client(base_url=self.app.url, transport=self.answers, timeout=60) as browser:
            assert browser.post("/login", data={"username": "transmute", "password": PASSWORD}).status_code == 200
            cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
        return Visitor(self.app.url, headers={"cookie": cookies}, through=self.answers, **more)

    def begin(self, *argv: str, **secrets: str) -> subprocess.Popen[bytes]:
        """``python -m core``; what it says lies in a file below `root`."""
        log = self.root / "said" / f"{len(list((self.root / 'said').iterdir()))}-{argv[0]}.log"
        with log.open("wb") as said:
            return subprocess.Popen([sys.executable, "-m", "core", *argv], cwd=PROJECT, env=child_environment(self.environment | secrets),
                                    stdin=subprocess.DEVNULL, stdout=said, stderr=said)  # fmt: skip

    def said(self, *argv: str, code: int = 0, **secrets: str) -> str:
        """What a command says when it has ended with `code`."""
        process = self.begin(*argv, **secrets)
        log = max((self.root / "said").iterdir(), key=lambda path: int(path.name.partition("-")[0])).read_text
        assert process.wait(120) == code, log()
        return log()

    def asked_with(self, token: str) -> list[str]:
        """What the Hub was asked with `token`."""
        return [f"{asked.method} {asked.path}" for asked in self.hub.asked if asked.headers.get("authorization") == f"Bearer {token}"]


@pytest.fixture(scope="module")
def wandb() -> Iterator[WandbServer]:
    with WandbServer(WANDB_KEY) as server:
        yield server


@pytest.fixture(scope="module")
def here(wandb: WandbServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    root = tmp_path_factory.mktemp("here")
    home, site = root / "workspace", root / "site"
    places = {"HOME": "home", "HF_HOME": "huggingface", "TMPDIR": "tmp"}
    for name in ("workspace", "said", "site/trackio", *places.values()):
        (root / name).mkdir(parents=True)
    (root / "huggingface" / "token").write_text(SAVED, encoding="utf-8")
    path = f"{site}:{PROJECT}"
    (site / "trackio" / "__init__.py").write_text(TRACKIO, encoding="utf-8")
    (site / "sitecustomize.py").write_text(FINDS_TRACKIO.format(path=path), encoding="utf-8")
    a_finished_run(home)
    with_curves(home / "runs" / RUN)
    base = {file.name: file.read_bytes() for file in STARTER.iterdir() if file.is_file()}
    repos = [Repo("someone/base", base, kind="models", access="private"), Repo("someone/data", lines(ROWS), access="private")]
    with Hub(repos) as hub:
        hub.same_person = dict.fromkeys((SAVED, PASTED, CURVES), GOOD_TOKEN)
        environment = {name: str(root / folder) for name, folder in places.items()}
        environment |= {"TRANSMUTE_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        environment |= {"WANDB_BASE_URL": wandb.url}
        app = App(home, free_port(), more=environment | {"PYTHONPATH": path, "TRANSMUTE_PASSWORD": PASSWORD})
        app.start()
        yield Here(root, environment, app, hub, listeners.of_page({}))
        app.kill()
        stop_runs(home)


def with_curves(run_dir: Path) -> None:
    """What training leaves for Weights & Biases, by its own client, and for trackio."""
    program = "import wandb; run = wandb.init(); run.log({'train/loss': 1.0}); run.finish()"
    subprocess.run([sys.executable, "-c", program], env=child_environment(TRACKERS["wandb"](run_dir)), check=True, capture_output=True)
    (run_dir / "trackio").mkdir()
    (run_dir / "trackio" / "transmute.db").write_bytes(b"curves")


class Person:
    """Somebody at the page of their own machine."""

    def __init__(self, here: Here) -> None:
        self.here, self.page = here, here.visitor(session_hash="here")

    def call(self, name: str, *data: Any) -> str:
        return self.page.call(named(self.here.found, name), data=list(data), to_end=True)

    def ask(self, name: str, *data: Any) -> str:
        said = self.call(name, *data)
        assert "message error" not in said and '"success": false' not in said, said[-3000:]
        return said

    def is_refused(self, why: str, name: str, *data: Any) -> None:
        said = self.call(name, *data)
        assert "message error" in said and why in said, said[-3000:]

    def fetch(self) -> None:
        """Data and a model that are private, with the saved login."""
        self.ask("ui.dataset_sources.take_hub", "someone/data", "", "", "")
        wait_until(lambda: list(self.here.app.home.glob(f"datasets/ds-{'?' * 12}")))
        self.ask("ui.chat_tab.add_model", [], "someone/base", "")

    def publish(self) -> None:
        """With a token in the field for it, which is not the saved one; first with a wrong one."""
        repo_id, about, card = "someone/Pasted", ["parquet", "", "en"], "---\nlicense: apache-2.0\n---\n# Canary\n"
        offer, chosen = named(self.here.found, "ui.publish_tab.offer"), {"ids": [MODEL], "carried": ""}
        for token, said in ((WRONG, "does not accept"), (PASTED, "does not exist yet")):
            self.page = self.here.visitor(session_hash=f"publishing{said[-3:]}")
            self.ask(offer.name, *self.page.values(offer, publish_choice=chosen))
            kept = {"key": f"{MODEL} {repo_id}", "card": card}
            assert said in self.call("ui.publish_tab.again", "", chosen, repo_id, "", *about, token, kept), "as after a reload"
            assert said in self.call("ui.publish_tab.prepare", [MODEL], repo_id, *about, token, {})
            assert said in self.call("ui.publish_tab.write_anew", [MODEL], repo_id, *about, token)
            assert said in self.call("ui.publish_send.look", [MODEL], repo_id, "parquet", card, token)
        options = ["parquet", card, True, False, False, False]
        self.is_refused("does not accept", "ui.publish_send.send", [MODEL], repo_id, *options, WRONG)
        assert "Published" in self.ask("ui.publish_send.send", [MODEL], repo_id, *options, PASTED)
        assert f"{repo_id} exists" in self.ask("ui.publish_send.look", [MODEL], repo_id, "parquet", card, PASTED)

    def sync(self) -> None:
        self.is_refused("did not take it", "ui.run_sync.send", RUN, WRONG_KEY)
        assert "Sent." in self.ask("ui.run_sync.send", RUN, WANDB_KEY)
        self.is_refused("not sent", "ui.run_sync.send_to_space", RUN, "someone/curves", WRONG)
        assert "Sent." in self.ask("ui.run_sync.send_to_space", RUN, "someone/curves", CURVES)

    def chat(self, url: str) -> None:
        """With an endpoint that wants a key, added without the right one first."""
        for key, is_right in ((OTHER_KEY, False), (ENDPOINT_KEY, True)):
            self.ask("ui.chat_tab.add_model", [], f"{url}#model", key)
            (answer,) = result(self.ask("ui.chat_tab.chat", [f"{url}#model"], "Who are you?", "", 0.0, 1.0, 8, 0))
            assert bool(answer["text"]) is is_right and (answer["error"] or {}).get("code", "KEY") == "KEY", answer

    def look_at_everything(self) -> None:
        self.ask("ui.run_details.pack_logs", RUN)
        for listener in self.here.found:
            if listener.role == "public" and not listener.queue:
                self.page.call(listener)
        assert "Train on this dataset" in self.page.get("/config").text


def on_the_command_line(here: Here, url: str) -> None:
    here.said("import", "someone/data", "--name", "again")
    assert "did not take it" in here.said("sync", RUN, code=2, WANDB_API_KEY=WRONG_KEY)
    assert "Published" in here.said("publish", MODEL, "--repo", "someone/Said")
    assert "being built" in here.said("deploy", "--repo", "someone/their-own", "--secret", "OF_THE_SPACE", OF_THE_SPACE=DEPLOYED)
    assert here.said("chat", f"{url}#model", "--prompt", "Who are you?", "--max-tokens", "8", TRANSMUTE_ENDPOINT_KEY=ENDPOINT_KEY)
    here.said("chat", f"{url}#model", "--prompt", "Who are you?", code=1, TRANSMUTE_ENDPOINT_KEY=OTHER_KEY)


@pytest.fixture(scope="module")
def model(converter: Path, starter: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    (made,) = make_gguf(starter, ("f16",), tmp_path_factory.mktemp("levels"), run_id="here")
    return made.gguf_path


def test_what_is_pasted_typed_or_saved_is_used_and_is_nowhere_afterwards(here: Here, wandb: WandbServer, model: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1"
    with Watch(here.root) as watch:
        server = here.begin("serve", str(model), "--port", str(port), TRANSMUTE_SERVE_KEY=ENDPOINT_KEY)
        try:
            person = Person(here)
            person.fetch()
            person.publish()
            wait_until(lambda: answers_to(url, ENDPOINT_KEY, server))
            on_the_command_line(here, url)
            person.sync()
            person.chat(url)
            person.look_at_everything()
        finally:
            server.terminate()
            server.wait(60)
    the_flows_did_happen(here, wandb, watch)
    given = {("app.py", "the password of the page"), ("core serve", "the key of the endpoint"), ("core chat", "the key of the endpoint"),
             ("core chat", "a wrong key of the endpoint"), ("core sync", "a wrong key of W&B"), ("core deploy", "a secret of the deployed Space")}  # fmt: skip
    assert watch.hits == {(program, "environ", secret) for program, secret in given}, "only where a person has put them"
    assert here.answers.bodies and here.answers.hits() == []
    assert canary.in_files(here.root) == {(str(here.root / "huggingface" / "token"), "the saved login")}, "as `hf auth login` leaves it"
    assert canary.at_hub(here.hub) == {("someone/their-own secrets", "a secret of the deployed Space")}


def answers_to(url: str, key: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None, "the server ended"
    try:
        return httpx.get(f"{url}/models", headers={"authorization": f"Bearer {key}"}, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def the_flows_did_happen(here: Here, wandb: WandbServer, watch: Watch) -> None:
    made = {name for _, name in here.hub.repos}
    assert {"someone/Pasted", "someone/Said", "someone/their-own", "someone/curves"} <= made
    used = {token: here.asked_with(token) for token in (SAVED, PASTED, WRONG, CURVES)}
    assert any("/datasets/someone/data/" in asked for asked in used[SAVED]) and any("/someone/base/" in asked for asked in used[SAVED])
    assert any(asked.startswith("POST") and "someone/Pasted/commit" in asked for asked in used[PASTED])
    assert not [asked for asked in used[SAVED] if "someone/Pasted" in asked], "the pasted one goes before the saved one"
    assert used[WRONG] and not [asked for asked in used[WRONG] if asked.startswith("POST /api/models")]
    assert used[CURVES] and all("curves" in asked or "create" in asked for asked in used[CURVES])
    assert wandb.history and (here.app.home / "runs" / RUN / "trackio" / "told.json").is_file()
    children = {"core.running.sync_child", "core.running.trackio_child", "core.chat.serve_child", "core.data.import_child"}
    assert {"app.py", "core serve", "core publish"} | children <= watch.seen, watch.seen

"""A program drives every named endpoint of the running page through Gradio's own client."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import events, paths
from core.export import artifacts
from core.export.artifacts import Artifact
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
MODEL = "r-starter-merged"


def a_finished_run(home: Path) -> None:
    """A run that left the starter model as it is, so that there is something to chat with at once."""
    run_dir = home / "runs" / "r-starter"
    run_dir.mkdir(parents=True)
    events.append(run_dir, "created", run_id="r-starter", name="Starter", method="fft", steps=["train"])
    with paths.building(run_dir / "artifacts" / "merged") as folder:
        shutil.copytree(paths.STARTER, folder, dirs_exist_ok=True)
        artifacts.write(Artifact(id=MODEL, kind="merged", name="Starter", run_id="r-starter", base_model="starter"), folder)
    events.append(run_dir, "artifact", id=MODEL, kind_of="merged", path="artifacts/merged")
    events.append(run_dir, "finished", state="done")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from gradio_client import Client

    home = tmp_path_factory.mktemp("client") / "workspace"
    home.mkdir()
    a_finished_run(home)
    app = App(home, free_port(), more=environment(hub.url))
    app.start()
    yield Client(app.url, verbose=False)
    app.kill()
    stop_runs(home)


def environment(hub_url: str) -> dict[str, str]:
    """Where the person at the machine is logged in to the Hub."""
    return {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_TOKEN": GOOD_TOKEN}


def test_a_dataset_is_validated(client: Any) -> None:
    from gradio_client import handle_file

    report = client.predict(handle_file(paths.EXAMPLES / "broken.json"), api_name="/validate_dataset")
    assert report["num_rejected"] > 0 and report["num_rows"] > report["num_rejected"]


def test_a_run_is_started_watched_and_stopped(client: Any) -> None:
    recipe = {"name": "Client", "base_model": "starter", "dataset": str(paths.EXAMPLES / "identity.json"), "max_length": 256}
    started = client.predict(recipe | {"method": "lora", "max_steps": 500}, api_name="/start_run")
    run_id = started["run_id"] if isinstance(started, dict) else started
    deadline = time.monotonic() + 240
    while (status := client.predict(run_id, api_name="/run_status"))["step"] < 1:
        assert status["state"] in ("queued", "running"), status
        assert time.monotonic() < deadline
        time.sleep(1)
    assert status["state"] == "running" and status["max_steps"] == 500
    stopped = client.predict(run_id, api_name="/stop_run")
    assert stopped["state"] == "cancelled" and stopped["step"] >= 1


def test_a_recipe_is_estimated_before_it_is_started(client: Any) -> None:
    recipe = {"base_model": "starter", "dataset": str(paths.EXAMPLES / "identity.json"), "max_length": 256, "method": "lora"}
    found = client.predict(recipe, api_name="/estimate")
    here = found["here"]
    assert here["fits"] and here["steps"] > 1 and found["change"] is None
    assert sum(part["bytes"] for part in here["parts"]) == pytest.approx(max(here["phases"].values()), abs=10)
    assert {offer["flavour"] for offer in found["flavours"]} >= {"cpu-basic", "t4-small", "h200"}


def test_models_are_listed_and_answer(client: Any) -> None:
    listed = client.predict(api_name="/list_artifacts")
    assert [(one["id"], one["kind"]) for one in listed if one["run_id"] == "r-starter"] == [(MODEL, "merged")]
    assert str(paths.home()) not in str(listed)
    (answer,) = client.predict([MODEL], "Who are you?", max_tokens=16, api_name="/chat")
    assert answer["text"] and answer["error"] is None and answer["stop"] in ("eos", "length")
    (again,) = client.predict([MODEL], "Who are you?", max_tokens=16, api_name="/chat")
    assert again["text"] == answer["text"], "the same seed gives the same answer"


def test_the_readmes_example_runs_as_it_stands(client: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It validates, estimates, trains, quantises, measures, chats, and plans a publication."""
    readme = (paths.PROJECT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", readme.split("## From a program")[1].split("\n## ")[0], re.DOTALL)
    assert set(re.findall(r"api_name=\"/(\w+)", example)) >= {
        "validate_dataset",
        "estimate",
        "start_run",
        "run_status",
        "quantize",
        "measure",
    }
    monkeypatch.chdir(paths.PROJECT)
    known: dict[str, Any] = {}
    exec(compile(example.replace("http://127.0.0.1:7860", client.src), "README.md", "exec"), known)
    printed = capfd.readouterr().out
    assert printed.count("done\n") == 2 and "it fits" in printed
    assert re.findall(r"^(f16|q8_0|q4_0) \d+ \d", printed, re.MULTILINE) == ["f16", "q8_0", "q4_0"]
    assert len(known["levels"]) == 3 and known["plan"]["problems"] == []
    assert {"README.md", "transmute.json"} < {file["name"] for file in known["plan"]["files"]}
    assert str(paths.home().parent) not in printed


def test_a_model_is_published_with_the_login_of_the_machine(client: Any, hub: Hub) -> None:
    pushed = client.predict([MODEL], "someone/By-Program", api_name="/publish")
    repo = hub.repos[("models", "someone/By-Program")]
    assert repo.access == "private" and "model.safetensors" in repo.files
    assert set(pushed["sent"]) == set(repo.files) and pushed["commit"] == repo.commit(repo.files)
    again = client.predict([MODEL], "someone/By-Program", api_name="/publish")
    assert again["commit"] == "" and again["sent_bytes"] == 0


@pytest.mark.parametrize(
    ("endpoint", "values", "problem"),
    [
        ("/run_status", ("../../etc",), "There is no run"),
        ("/stop_run", ("nothing",), "There is no run"),
        ("/chat", ([], "hello"), "0 models are chosen"),
        ("/chat", (["nobody"], "hello"), "not there any more"),
        ("/chat", ([MODEL], "  "), "nothing to ask"),
        ("/start_run", ({"learning_rate": 7},), "learning_rate"),
        ("/estimate", ({"learning_rate": 7},), "learning_rate"),
        ("/quantize", ("nothing", ["q4_0"]), "There is no run"),
        ("/quantize", ("r-starter", ["q99"]), "q99"),
        ("/measure", ("r-starter",), "f16"),
        ("/publish", (["nobody"], "someone/X"), "not there any more"),
        ("/publish", ([], "someone/X"), "Nothing is chosen"),
        ("/publish", ([MODEL], "../../etc"), "cannot be published"),
    ],
)
def test_an_error_is_one_sentence_with_its_remedy_and_no_path(client: Any, endpoint: str, values: Any, problem: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=problem) as raised:
        client.predict(*values, api_name=endpoint)
    assert "Traceback" not in str(raised.value) and str(paths.PROJECT) not in str(raised.value)

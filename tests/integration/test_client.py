"""A program drives every named endpoint of the running page through Gradio's own client."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import events, paths
from core.export import artifacts
from core.export.artifacts import Artifact
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
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from gradio_client import Client

    home = tmp_path_factory.mktemp("client") / "workspace"
    home.mkdir()
    a_finished_run(home)
    app = App(home, free_port())
    app.start()
    yield Client(app.url, verbose=False)
    app.kill()
    stop_runs(home)


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
    ],
)
def test_an_error_is_one_sentence_with_its_remedy_and_no_path(client: Any, endpoint: str, values: Any, problem: str) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=problem) as raised:
        client.predict(*values, api_name=endpoint)
    assert "Traceback" not in str(raised.value) and str(paths.PROJECT) not in str(raised.value)

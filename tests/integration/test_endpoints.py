"""The page's endpoints over HTTP: called by a program at this machine, and refused to strangers on a Space."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.paths import EXAMPLES, PROJECT
from core.process import child_environment

pytestmark = pytest.mark.integration


@contextmanager
def page(home: Path, extra: dict[str, str]) -> Iterator[Any]:
    """``python app.py`` with its workspace at `home`, and a client of it."""
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = child_environment({"TRANSMUTE_HOME": str(home)} | extra)
    argv = [sys.executable, "app.py", "--host", "127.0.0.1", "--port", str(port)]
    with (
        (home.parent / "app.log").open("ab") as log,
        subprocess.Popen(argv, cwd=PROJECT, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            wait_for(f"http://127.0.0.1:{port}/config", server)
            client = Client(f"http://127.0.0.1:{port}", verbose=False)
            yield client
            client.close()
        finally:
            server.kill()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "the page ended"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the page did not come up")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("endpoints") / "workspace"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def here(home: Path) -> Iterator[Any]:
    with page(home, {}) as client:
        yield client


@pytest.fixture(scope="module")
def space(home: Path) -> Iterator[Any]:
    with page(home, {"SYSTEM": "spaces", "SPACE_ID": "alchemists/transmute"}) as client:
        yield client


def test_a_file_is_validated(here: Any) -> None:
    from gradio_client import handle_file

    report = here.predict(handle_file(str(EXAMPLES / "broken.json")), api_name="/validate_dataset")
    assert report["num_rows"] == report["num_valid"] + report["num_rejected"] > 0
    assert {"code", "severity", "row", "turn", "line", "byte", "problem", "remedy"} == set(report["issues"][0])


@pytest.mark.parametrize("path", [str(EXAMPLES / "identity.json"), "/etc/passwd", "../../../etc/passwd", "", None])
@pytest.mark.parametrize("meta", [{}, {"meta": {"_type": "gradio.FileData"}}])
def test_no_file_but_an_uploaded_one_is_opened(here: Any, path: str | None, meta: dict[str, Any]) -> None:
    """By plain HTTP, since Gradio's own client would upload the file that is named."""
    import httpx

    call = f"{here.src}gradio_api/call/validate_dataset"
    asked = httpx.post(call, json={"data": [{"path": path, **meta}]}, timeout=30)
    answer = httpx.get(f"{call}/{asked.json()['event_id']}", timeout=30).text if asked.status_code == 200 else "event: error"
    assert "event: error" in answer and "num_rows" not in answer and "root:" not in answer


def test_a_run_is_started_and_a_wrong_recipe_is_refused_in_words(here: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.running import runs

    recipe = {"name": "By-Program", "dataset": "examples/identity.json", "max_steps": 1, "max_length": 128, "levels": []}
    run_id = here.predict(recipe, api_name="/start_run")["run_id"]
    monkeypatch.setitem(os.environ, "TRANSMUTE_HOME", str(home))
    try:
        assert runs.recipe_of(run_id).name == "By-Program"
    finally:
        runs.stop(run_id)
    for wrong, said in [({"learning_rate": 5}, "learning_rate"), ({"no_such_knob": 1}, "no such knob"), ({"max_length": 64}, "No dataset")]:
        with pytest.raises(Exception, match=said) as caught:
            here.predict(wrong, api_name="/start_run")
        assert "Traceback" not in str(caught.value) and str(PROJECT) not in str(caught.value)


def test_a_stranger_on_a_space_may_look_and_not_start(space: Any) -> None:
    from gradio_client import handle_file

    assert space.predict(handle_file(str(EXAMPLES / "identity.json")), api_name="/validate_dataset")["num_rejected"] == 0
    with pytest.raises(Exception, match="only its owner"):
        space.predict({"dataset": "examples/identity.json"}, api_name="/start_run")


def test_hidden_endpoints_refuse_a_stranger_too(space: Any) -> None:
    """Gradio's ``private`` hides a listener and does not protect it: each is called over HTTP by its number."""
    import httpx

    config = httpx.get(f"{space.src}config", timeout=30).json()
    owners = [fn["id"] for fn in config["dependencies"] if fn["api_name"] in ("start", "start_run")]
    assert owners
    for number in owners:
        data = [None] * len(config["dependencies"][number]["inputs"])
        with httpx.stream("POST", f"{space.src}gradio_api/run/predict", json={"fn_index": number, "data": data}, timeout=30) as answer:
            body = answer.read().decode()
        assert "only its owner" in body or answer.status_code >= 400, body
        assert "Traceback" not in body

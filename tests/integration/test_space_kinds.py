"""A Space of each kind of hardware, as a real process: it starts, and says what can be done there. Also without any network."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from core.paths import PROJECT
from tests import listeners, space
from tests.listeners import Listener, Visitor
from tests.offline import offline
from tests.page import App, free_port

# What Python says of an event loop of Gradio's that the garbage collector finds after its sockets.
GARBAGE = re.compile(r"^Exception ignored in: <function BaseEventLoop.__del__.*\nTraceback.*\n(?:  .*\n)*.*\n", re.MULTILINE)
pytestmark = [pytest.mark.integration, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]
OWNERS = {"SYSTEM": "spaces", "SPACE_ID": "alchemists/transmute", "ALLOW_PUBLIC": "1"}
SMI = """#!/bin/sh
case "$1" in
--query-gpu=index,uuid,memory.total*) for i in {numbers}; do echo "$i, GPU-$i, 23034, 8.9, NVIDIA L4"; done ;;
--query-gpu=*) for i in {numbers}; do echo "$i, GPU-$i, 7, 512, 23034, 41, 20.1, 72.0, NVIDIA L4"; done ;;
esac
"""


@pytest.fixture(scope="module")
def found() -> dict[str, Listener]:
    return {listener.name: listener for listener in listeners.of_page(OWNERS)}


def with_gpus(folder: Path, count: int) -> dict[str, str]:
    """A driver's program that tells of so many GPUs, and the version file of a torch that could use them; neither is more than that."""
    (folder / "bin").mkdir()
    (folder / "bin" / "nvidia-smi").write_text(SMI.format(numbers=" ".join(map(str, range(count)))))
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    (folder / "site" / "torch").mkdir(parents=True)
    (folder / "site" / "torch" / "__init__.py").write_text("raise ImportError('the page needs no torch')\n")
    (folder / "site" / "torch" / "version.py").write_text("__version__ = '2.11.0+cu128'\ncuda = '12.8'\n")
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin"
    return {"PATH": path, "PYTHONPATH": f"{folder / 'site'}:{PROJECT}"}


@contextmanager
def page(folder: Path, variables: dict[str, str]) -> Iterator[App]:
    (folder / "workspace").mkdir()
    app = App(folder / "workspace", free_port(), more=OWNERS | variables)
    app.start()
    try:
        yield app
    finally:
        app.kill()


def said(app: App, found: dict[str, Listener]) -> tuple[str, str]:
    """(the header, the advice) as a person reads them."""
    visitor = Visitor(app.url)
    answers = [visitor.call(found[f"ui.header.{name}"]) for name in ("show", "advise")]
    visitor.close()
    header, advice = (re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer)) for answer in answers)
    return header, advice


def test_cpu_basic(tmp_path: Path, found: dict[str, Listener]) -> None:
    with page(tmp_path, {}) as app:
        header, advice = said(app, found)
    assert "CPU only" in header
    assert "This Space has no GPU: the starter model trains here" in advice and "Where it runs" in advice


@pytest.mark.parametrize(("count", "shown", "sentence"), [
    (1, "GPU NVIDIA L4", "This Space has one GPU, NVIDIA L4 with 24"),
    (4, "GPU 4 × NVIDIA L4", "This Space has 4 GPUs, NVIDIA L4 with 24"),
])  # fmt: skip
def test_a_space_with_gpus(tmp_path: Path, found: dict[str, Listener], count: int, shown: str, sentence: str) -> None:
    with page(tmp_path, with_gpus(tmp_path, count)) as app:
        header, advice = said(app, found)
        visitor = Visitor(app.url)
        recipe = {"method": "lora", "base_model": "lmsys/vicuna-7b-v1.5", "dataset": "examples/identity.json", "dtype": "bf16"}
        answer = listeners.result(visitor.call(found["ui.train_estimate.estimate"], data=[recipe]))
        visitor.close()
    assert shown.encode("ascii", "backslashreplace").decode() in header.replace("\\u00d7", "\\xd7") or shown in header
    assert sentence in advice and ("a run uses all of them" in advice) == (count > 1)
    assert answer["refused"] is None and answer["here"]["device"] == "gpu", "what needs a GPU is offered"


class Scheduler(BaseHTTPRequestHandler):
    """The side of ZeroGPU that a Space reports to when it starts."""

    heard: list[str]

    def do_POST(self) -> None:
        self.heard.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


def test_zero_gpu(tmp_path: Path, found: dict[str, Listener]) -> None:
    """The package `spaces` looks for what is decorated and reports that the Space has started.

    It also patches torch, for which it needs a CUDA build; here it finds none, as the page itself imports none before a chat.
    """
    Scheduler.heard = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Scheduler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {
        "PYTHONPATH": with_gpus(tmp_path, 1)["PYTHONPATH"],
        "SPACES_ZERO_GPU": "true",
        "SPACES_ZERO_DEVICE_API_URL": f"http://127.0.0.1:{server.server_port}",
    }
    try:
        with page(tmp_path, variables) as app:
            header, advice = said(app, found)
            answer = Visitor(app.url).call(found["ui.train_handlers.check"])
    finally:
        server.shutdown()
        server.server_close()
    assert Scheduler.heard == ["/startup-report"], "which is sent only when something is decorated with spaces.GPU"
    assert "lent by ZeroGPU" in header
    for sentence in (
        "Chat uses it; training happens on the CPU or elsewhere",
        "The starter model trains here, on the CPU",
        "Where it runs",
    ):
        assert sentence in advice
    assert "Traceback" not in answer


@pytest.mark.parametrize("has_login", [True, False])
def test_a_space_without_any_network_starts_and_answers(tmp_path: Path, has_login: bool) -> None:
    everything = space.environment("https://huggingface.co")
    variables = everything if has_login else {name: value for name, value in everything.items() if not name.startswith(("OAUTH", "OPENID"))}
    found = {listener.name: listener for listener in listeners.of_page(variables)}  # a login has listeners of its own
    with page(tmp_path, offline(tmp_path) | variables | {"ALLOW_PUBLIC": ""}) as app:
        shown = Visitor(app.url)
        assert "Transmute" in shown.get("/").text
        assert "visitor, read-only" in shown.call(found["ui.header.show"])
        shown.close()
    assert "Traceback" not in GARBAGE.sub("", (tmp_path / "app.log").read_text())

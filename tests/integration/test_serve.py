"""The endpoint that `serve` opens says what the chat says, only to those who may ask, and ends with its parent."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from core.chat import serve
from core.chat.endpoint import Endpoint
from core.chat.engine import Sampling, open_engine
from core.errors import UserError
from core.paths import PROJECT
from core.process import child_environment
from tests.page import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def wait_for(url, process, headers=None):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, "the server ended"
        try:
            return httpx.get(url + "/models", headers=headers, timeout=5)
        except httpx.HTTPError:
            time.sleep(0.2)
    raise AssertionError("the server did not come up")


@pytest.fixture(scope="module")
def served(levels, tmp_path_factory):
    port = free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    process = serve.start(levels["q8_0"], port=port, key="a-key", log=log)
    url = f"http://127.0.0.1:{port}/v1"
    wait_for(url, process)
    yield url, process
    process.kill()
    process.wait()
    process.stdin.close()


def test_it_says_what_the_chat_says(served, levels):
    sampling = Sampling(max_tokens=24)
    with Endpoint(served[0], key="a-key") as endpoint, open_engine(levels["q8_0"]) as engine:
        there = "".join(piece.text for piece in endpoint.stream(QUESTION, sampling))
        here = "".join(piece.text for piece in engine.stream(QUESTION, sampling))
    assert there.strip() == here.strip() != ""


def test_without_its_key_nobody_is_answered_and_no_page_of_elsewhere_is(served):
    url, process = served
    body = {"messages": QUESTION, "max_tokens": 4}
    assert httpx.post(url + "/chat/completions", json=body, timeout=60).status_code == 401
    known = {"Authorization": "Bearer a-key"}
    assert httpx.post(url + "/chat/completions", json=body, headers=known, timeout=60).status_code == 200
    assert httpx.get(url + "/models", headers=known | {"Host": "evil.example"}, timeout=60).status_code == 400
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in httpx.options(url + "/chat/completions", headers=preflight, timeout=60).headers
    command, environment = (Path(f"/proc/{process.pid}/{name}").read_text() for name in ("cmdline", "environ"))
    assert "a-key" not in command + environment


def test_an_open_host_needs_a_key_and_only_gguf_files_are_served(levels, starter):
    with pytest.raises(UserError, match="anybody in the network"):
        serve.start(levels["q4_0"], host="0.0.0.0")
    with pytest.raises(UserError, match="serves GGUF files"):
        serve.start(starter)


def test_the_verb_serves_and_leaves_nothing_behind(levels):
    port = free_port()
    argv = [sys.executable, "-m", "core", "serve", str(levels["q4_0"].gguf_path), "--port", str(port)]
    verb = subprocess.Popen(argv, cwd=PROJECT, env=child_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        found = wait_for(url, verb).json()
        assert found["data"][0]["id"].endswith("q4_0"), json.dumps(found)
    finally:
        os.kill(verb.pid, signal.SIGKILL)
        verb.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(url + "/models", timeout=2)
        except httpx.ConnectError:
            return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server outlived its parent")

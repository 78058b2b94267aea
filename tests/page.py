"""The page as a real process: ``python app.py`` on a free port, with a workspace of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core import process
from core.paths import PROJECT

STARTS_S = 90.0


@dataclass
class App:
    """``python app.py`` on `port`; the same workspace over every restart."""

    home: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    more: dict[str, str] = field(default_factory=dict[str, str])  # environment variables

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = process.child_environment({"TRANSMUTE_HOME": str(self.home), "LLAMA_CPP_DIR": str(converter())} | self.more)
        log = (self.home.parent / "app.log").open("ab")
        argv = [sys.executable, "app.py", "--port", str(self.port)]
        began = time.monotonic()
        self.process = subprocess.Popen(argv, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        log.close()
        while not self.answers():
            assert self.process.poll() is None, (self.home.parent / "app.log").read_text()
            assert time.monotonic() - began < STARTS_S, "the page did not come up"
            time.sleep(0.2)
        self.started_s = time.monotonic() - began

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End it at once, as a crash would."""
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def converter() -> Path:
    """llama.cpp's converter in the person's own workspace, so that an empty one need not fetch it."""
    from core.export.converter import converter_dir

    before = os.environ.pop("TRANSMUTE_HOME")
    try:
        return converter_dir()
    finally:
        os.environ["TRANSMUTE_HOME"] = before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop_runs(home: Path) -> None:
    """End what a failed test may have left running in this workspace."""
    from core.running import runs

    before = os.environ["TRANSMUTE_HOME"]
    os.environ["TRANSMUTE_HOME"] = str(home)
    try:
        for run in runs.list_runs():
            if not run.is_terminal:
                runs.stop(run.run_id, wait_s=5)
    finally:
        os.environ["TRANSMUTE_HOME"] = before


def models_of(server: psutil.Process) -> list[psutil.Process]:
    """The processes that chat through transformers."""
    found: list[psutil.Process] = []
    for child in server.children():
        with suppress(psutil.Error):
            if "core.chat.transformers_child" in child.cmdline():
                found.append(child)
    return found


def first_writing(server: psutil.Process) -> psutil.Process:
    """The model's process, as soon as it computes."""
    known: dict[int, float] = {}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for child in models_of(server):
            with suppress(psutil.Error):
                used_s = child.cpu_times().user
                if used_s > known.setdefault(child.pid, used_s) + 0.1:
                    return child
        time.sleep(0.02)
    raise AssertionError("no model was loaded")

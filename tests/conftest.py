"""What every test gets: no network, a workspace of its own, and no gpu test where there is no GPU."""

from __future__ import annotations

import gc
import ipaddress
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from core.export import converter

# The workspace of the tests is empty; llama.cpp's converter, once fetched by `make setup`, is used from where it lies.
if "LLAMA_CPP_DIR" not in os.environ and converter.is_fetched():
    os.environ["LLAMA_CPP_DIR"] = str(converter.converter_dir())
# Read at import time by the libraries, so they must stand before the first import of any of them.
os.environ.update(
    {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSMUTE_HOME": tempfile.mkdtemp(prefix="transmute-tests-"),
    }
)
# The same examples at every run, so that a failure is of the change that is tested; --hypothesis-profile=search draws new ones.
settings.register_profile("search", deadline=None)
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["TRANSMUTE_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if shutil.which("nvidia-smi") is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def is_here(address: Any) -> bool:
    """True for a Unix socket, a loopback address or ``localhost``: everything else is another machine."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    if host in ("localhost", ""):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_unspecified


@pytest.fixture(autouse=True, scope="module")
def nothing_left_open() -> None:
    """What the file of tests before left open, and nobody holds any more, fails here rather than wherever it happens to be collected."""
    gc.collect()


@pytest.fixture(autouse=True)
def no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to other machines fail at once, by name and by address, unless the test is marked ``network``."""
    if request.node.get_closest_marker("network"):
        return
    connect, connect_ex, lookup = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(address: Any) -> None:
        if not is_here(address):
            raise OSError(f"a test tried to reach {address!r}; mark it `network` if it must")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        refuse(address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        refuse(address)
        return connect_ex(self, address)

    def guarded_lookup(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse((host or "",))
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty workspace for one test; without it, tests share one that is removed at the end."""
    home = tmp_path / "workspace"
    monkeypatch.setenv("TRANSMUTE_HOME", str(home))
    yield home

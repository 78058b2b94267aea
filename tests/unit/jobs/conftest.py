"""A Hub whose jobs are written by the test, and a run that was sent to it."""

from __future__ import annotations

import shutil
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, hf_api

from core import events, hubclient
from core.export import artifacts
from core.export.artifacts import Artifact
from core.jobs import follower, listen, target, wire
from core.running import runs
from core.training.presets import preset
from tests.hub.jobs import Job
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub

RUN_ID = "260101-000000-aaaa"
REPO = f"someone/transmute-{RUN_ID}"
BEGIN: list[dict[str, Any]] = [
    {"t": 1.0, "kind": "created", "run_id": RUN_ID, "name": "Demo", "method": "qlora", "steps": ["train"]},
    {"t": 2.0, "kind": "started", "pid": 1},
    {"t": 3.0, "kind": "step_started", "step": "train"},
    {"t": 4.0, "kind": "train_began", "step": 0, "max_steps": 3},
    *({"t": 4.0 + step, "kind": "train_log", "step": step, "loss": 2.0 / step} for step in (1, 2, 3)),
    {"t": 8.0, "kind": "step_finished", "step": "train", "elapsed_s": 5.0},
]
DONE: list[dict[str, Any]] = [*BEGIN, {"t": 9.0, "kind": "finished", "state": "done"}]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Hub]:
    with Hub() as running:
        running.runs_jobs = False
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        monkeypatch.setattr(listen, "FIRST_WAIT_S", 0.01)
        monkeypatch.setattr(follower, "LOOK_S", 0.01)
        patience = types.SimpleNamespace(sleep=lambda _seconds: time.sleep(0.01), monotonic=time.monotonic, time=time.time)
        monkeypatch.setattr(hf_api, "time", patience)  # the client's own, between its tries
        yield running


@pytest.fixture(scope="session")
def created(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a run for a rented machine in it."""
    home = tmp_path_factory.mktemp("created")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSMUTE_HOME", str(home))
        job = target.Job(flavour="cpu-basic", image="python:3.12", namespace="someone", repo_id=REPO, timeout_s=600)
        runs.create(preset("demo"), run_id=RUN_ID, job=job.model_dump(mode="json"))
    return home


@pytest.fixture
def run_dir(hub: Hub, created: Path, workspace: Path) -> Path:
    """The folder of a run for a rented machine, before its follower has begun."""
    shutil.copytree(created, workspace)
    return runs.folder(RUN_ID)


@pytest.fixture
def say() -> Callable[..., None]:
    """The machine tells events, the first of them with number `first`."""

    def said(job: Job, told: list[dict[str, Any]], first: int = 0) -> None:
        job.lines += [line for number, event in enumerate(told, first) for line in wire.encode(number, event)]

    return said


@pytest.fixture
def send_adapter(hub: Hub, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    """The machine sends an adapter as its result; returns its last words."""

    def send() -> dict[str, Any]:
        there = tmp_path / "there"
        folder = there / "artifacts" / "adapter"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights" * 1000)
        (folder / "adapter_config.json").write_text("{}")
        (folder / "training_args.bin").write_bytes(b"never sent")
        made = Artifact(id=f"{RUN_ID}-adapter", kind="adapter", name="Demo", base_model="starter", base_path="/elsewhere")
        artifacts.write(made, folder)
        for event in DONE:
            events.append(there, event["kind"], **{name: value for name, value in event.items() if name != "kind"})
        from core.jobs import results

        sent = results.send(there, REPO, GOOD_TOKEN)
        return {"t": 10.0, "kind": "sent", **sent}

    return send


def told(run_dir: Path) -> list[dict[str, Any]]:
    """What came from the machine, without its numbers."""
    here = [event for event in events.read(run_dir) if "n" in event]
    assert [event["n"] for event in here] == list(range(len(here)))
    return [{name: value for name, value in event.items() if name != "n"} for event in here]

"""A recipe goes out to a rented machine, runs there, and comes home: with the real client, a real process and the starter model."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import events, paths
from core.export import artifacts
from core.jobs import dispatch, target
from core.running import runs
from core.training.presets import preset
from core.training.recipe import Recipe, override
from tests.hub.jobs import can_network
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.page import App, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def home(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSMUTE_HOME", str(folder))
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        hub.image_env = {"HF_HUB_DISABLE_XET": "1"}
        yield folder


def recipe(**changes: object) -> Recipe:
    short = ["max_steps=4", "levels=", "logging_steps=1", "save_steps=0", *(f"{name}={value}" for name, value in changes.items())]
    return override(preset("demo"), short)


@pytest.fixture(scope="module")
def done(hub: Hub, home: Path) -> str:
    run_id = dispatch.create(recipe(), target.Target("cpu-basic", timeout="10m"), GOOD_TOKEN)
    runs.start(run_id, GOOD_TOKEN)
    for _ in runs.follow(run_id):
        pass
    return run_id


def test_the_run_is_done_and_looks_like_a_local_one(done: str, home: Path):
    run = runs.load(done)
    assert run.state == "done", (run.error, (runs.folder(done) / runs.LOG).read_text()[-2000:])
    assert run.optimizer_step == 4 and sorted(run.losses) == [1, 2, 3, 4]
    assert {step.name: step.state for step in run.steps} == {"train": "done", "merge": "done", "prove": "done"}
    assert run.metrics and all(set(values) & {"n", "t", "kind"} == set() for values in run.metrics.values())


def test_the_events_are_those_of_the_machine_each_once_and_in_order(done: str, hub: Hub):
    here = [event for event in events.read(runs.folder(done)) if "n" in event]
    assert [event["n"] for event in here] == list(range(len(here)))
    there = hub.jobs[0].folder
    assert there
    assert [{key: value for key, value in event.items() if key != "n"} for event in here] == list(
        events.read(there / "transmute" / "workspace" / "runs" / done)
    )


def test_the_artifacts_are_home_and_verify_by_hash(done: str, hub: Hub):
    made = artifacts.of_run(runs.folder(done))
    assert [artifact.kind for artifact in made] == ["adapter", "merged"]
    for artifact in made:
        assert artifact.files
        for entry in artifact.files:
            assert paths.sha256_file(artifact.folder / entry.name) == entry.sha256
    adapter = made[0]
    assert adapter.base_path == str(paths.STARTER) and adapter.base_model == "starter"
    assert not (runs.folder(done) / "incoming").exists()


def test_the_job_had_what_was_declared_and_no_more(done: str, hub: Hub):
    spec = hub.jobs[0].spec
    assert spec["secrets"] == {"HF_TOKEN": GOOD_TOKEN} and spec["timeoutSeconds"] == 600 and spec["flavor"] == "cpu-basic"
    assert GOOD_TOKEN not in json.dumps({name: value for name, value in spec.items() if name != "secrets"})
    repo = hub.repos[("models", f"someone/transmute-{done}")]
    assert repo.access == "private"
    assert {Path(name).suffix for name in repo.files} <= {
        ".tar",
        ".safetensors",
        ".json",
        ".txt",
        ".model",
        ".md",
        ".jinja",
        ".jsonl",
        ".log",
    }


def test_no_token_lies_on_either_disk(done: str, home: Path, hub: Hub):
    folder = hub.jobs[0].folder
    assert folder
    for root in (home, folder):
        for path in root.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert GOOD_TOKEN.encode() not in path.read_bytes(), path
    sent = [content for repo in hub.repos.values() for content in repo.files.values()]
    assert sent and all(GOOD_TOKEN.encode() not in content for content in sent)


def test_a_run_that_came_home_is_taken_up_again_on_this_machine(done: str):
    assert not runs.is_elsewhere(runs.folder(done))


def test_a_job_is_stopped_by_stop_and_ends_as_cancelled(hub: Hub, home: Path):
    run_id = dispatch.create(recipe(max_steps=2000), target.Target("cpu-basic", timeout="10m"), GOOD_TOKEN)
    runs.start(run_id, GOOD_TOKEN)
    for run in runs.follow(run_id):
        if run.optimizer_step >= 2 or run.is_terminal:
            break
    run = dispatch.stop(run_id, GOOD_TOKEN)
    assert run.state == "cancelled", run.error
    assert hub.jobs[-1].stage == "CANCELED"
    assert 2 <= run.optimizer_step < 2000


def left_alone() -> str:
    """A run whose job has begun, and to which nobody listens any more."""
    run_id = dispatch.create(recipe(max_steps=40), target.Target("cpu-basic", timeout="10m"), GOOD_TOKEN)
    runs.start(run_id, GOOD_TOKEN)
    for run in runs.follow(run_id):
        if run.optimizer_step >= 2 or run.is_terminal:
            break
    pid = paths.read_json(runs.folder(run_id) / "process.json")["pid"]
    for secret in ("environ", "cmdline"):  # the follower has the token from its standard input
        assert GOOD_TOKEN.encode() not in Path(f"/proc/{pid}/{secret}").read_bytes()
    os.kill(pid, 9)
    while (run := runs.load(run_id)).state != "interrupted":
        assert run.state in ("running", "queued")
    assert run.error and run.error["code"] == "UNATTENDED"
    return run_id


def test_a_follower_that_is_killed_is_replaced_and_no_event_is_lost_or_doubled(hub: Hub, home: Path):
    run_id = left_alone()
    jobs = len(hub.jobs)
    runs.start(run_id, GOOD_TOKEN)
    states = [dataclasses.replace(run) for run in runs.follow(run_id)]
    assert states[-1].state == "done", states[-1].error
    assert len(hub.jobs) == jobs
    here = [event["n"] for event in events.read(runs.folder(run_id)) if "n" in event]
    assert here == list(range(len(here)))
    assert sorted(states[-1].losses) == list(range(1, 41))
    log = (runs.folder(run_id) / runs.LOG).read_text(encoding="utf-8").split("\n")[:-1]
    assert log == [line for line in hub.jobs[-1].lines if not line.startswith("@transmute")]


def test_the_page_that_starts_again_listens_again(hub: Hub, home: Path):
    run_id = left_alone()
    jobs = len(hub.jobs)
    page = App(home, free_port(), more={"HF_TOKEN": GOOD_TOKEN})
    page.start()
    try:
        *_, run = runs.follow(run_id)
    finally:
        page.kill()
    assert run.state == "done" and sorted(run.losses) == list(range(1, 41)), run.error
    assert len(hub.jobs) == jobs


def test_a_job_that_is_killed_is_gone_on_with_from_the_checkpoint_it_had_kept(hub: Hub, home: Path):
    """Many steps: however late the checkpoint is heard of, the job is still at it."""
    run_id = dispatch.create(recipe(max_steps=48, save_steps=3), target.Target("cpu-basic", timeout="10m"), GOOD_TOKEN)
    runs.start(run_id, GOOD_TOKEN)
    for run in runs.follow(run_id):
        assert not run.is_terminal, run.error
        if any(event["kind"] == "checkpoint_kept" for event in events.read(runs.folder(run_id))):
            break
    hub.jobs[-1].end("ERROR", "Job timeout", at_once=True)
    *_, run = runs.follow(run_id)
    assert run.state == "failed" and run.error and run.error["code"] == "TIMEOUT"
    runs.start(run_id, GOOD_TOKEN)
    *_, run = runs.follow(run_id)
    assert run.state == "done" and sorted(run.losses) == list(range(1, 49)), run.error
    begun = [event["step"] for event in events.read(runs.folder(run_id)) if event["kind"] == "train_began"]
    assert begun[0] == 0 and begun[-1] in range(3, 49, 3)
    assert not [name for name in hub.repos[("models", f"someone/transmute-{run_id}")].files if name.startswith("checkpoints/")]


@pytest.mark.skipif(not can_network(), reason="this machine gives no process names of its own (unshare --mount)")
def test_two_machines_of_one_network_train_one_run_together(hub: Hub, home: Path):
    run_id = dispatch.create(recipe(), target.Target("cpu-basic", timeout="10m", nodes=2), GOOD_TOKEN)
    runs.start(run_id, GOOD_TOKEN)
    *_, run = runs.follow(run_id)
    first, second = hub.jobs[-2:]
    assert run.state == "done", (run.error, second.lines[-20:], first.lines[-20:])
    assert sorted(run.losses) == [1, 2, 3, 4] and run.facts["num_processes"] == 2
    assert [artifact.kind for artifact in artifacts.of_run(runs.folder(run_id))] == ["adapter", "merged"]
    here = [event["n"] for event in events.read(runs.folder(run_id)) if "n" in event]
    assert here == list(range(len(here)))
    assert first.spec["network"]["group"] == second.spec["network"]["group"] and first.folder != second.folder
    assert second.stage in ("COMPLETED", "CANCELED")
    for job in (first, second):
        assert job.spec["secrets"] == {"HF_TOKEN": GOOD_TOKEN} and job.folder
        there = events.fold(events.read(job.folder / "transmute" / "workspace" / "runs" / run_id))
        assert there.losses == run.losses, "every machine sees the loss of all"
        kept = [path for path in job.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        assert [path for path in kept if GOOD_TOKEN.encode() in path.read_bytes()] == []

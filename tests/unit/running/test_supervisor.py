"""A run survives its starter, ends in the state that is true, and leaves no process behind."""

import os
import signal
import sys
import time

import psutil
import pytest

from core import events, paths
from core.errors import UserError
from core.running import runs
from core.training.recipe import Recipe


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSMUTE_HOME", str(tmp_path))
    made = []

    def make(behaviour):
        run_id = f"run-{len(made)}"
        run_dir = paths.runs_dir() / run_id
        run_dir.mkdir(parents=True)
        recipe = Recipe(method="sft", dataset="x")
        paths.write_text(run_dir / "recipe.yaml", recipe.to_yaml())
        argv = [sys.executable, "-m", "tests.unit.running.a_worker", str(run_dir), behaviour]
        paths.write_json(run_dir / "launch.json", {"argv": argv, "env": {}, "device": "test"})
        events.append(run_dir, "created", run_id=run_id, name="m", method="sft", steps=runs.plan(recipe))
        made.append(run_id)
        return run_id

    yield make
    for run_id in made:
        if not runs.load(run_id).is_terminal:
            runs.stop(run_id, wait_s=1)


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
    return found


def is_training(run_id):
    return runs.load(run_id).optimizer_step > 2


def test_a_run_is_running_while_its_worker_is_and_its_processes_can_be_listed(make_run):
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    run = runs.load(run_id)
    assert run.state == "running" and run.stage == "train"
    assert len(runs.pids(run_id)) >= 2


def test_a_stopped_run_saved_its_checkpoint_and_is_cancelled(make_run):
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    assert runs.stop(run_id).state == "cancelled"
    assert "checkpoint" in [event["kind"] for event in events.read(runs.folder(run_id))]
    assert runs.pids(run_id) == []


def test_a_worker_that_does_not_listen_is_killed_with_its_whole_family(make_run, monkeypatch):
    run_id = make_run("deaf")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    family = [psutil.Process(pid) for pid in runs.pids(run_id)]
    assert runs.stop(run_id, wait_s=1).state == "cancelled"
    wait_for(lambda: not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family))


def test_a_killed_worker_leaves_an_interrupted_run_that_names_the_signal(make_run):
    run_id = make_run("crash")
    runs.start(run_id)
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "interrupted"
    assert "SIGKILL" in run.error["problem"] and run.error["code"] == "KILLED"


def test_what_a_worker_says_before_it_ends_is_what_the_person_reads(make_run):
    run_id = make_run("refuse")
    runs.start(run_id)
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "failed" and run.error == {"problem": "p", "where": "w", "remedy": "r", "code": "OOM"}


def test_a_killed_supervisor_takes_its_worker_with_it_and_the_run_can_be_started_again(make_run):
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    supervisor, *workers = (psutil.Process(pid) for pid in runs.pids(run_id))
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers))
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "interrupted"
    runs.start(run_id)
    wait_for(lambda: runs.load(run_id).state == "running")
    assert runs.stop(run_id).state == "cancelled"


def test_a_run_that_goes_on_cannot_be_started_twice(make_run):
    run_id = make_run("well")
    runs.start(run_id)
    with pytest.raises(UserError, match="already going on"):
        runs.start(run_id)


def test_the_second_run_on_a_device_waits_for_the_first(make_run):
    first, second = make_run("well"), make_run("well")
    runs.start(first)
    wait_for(lambda: is_training(first))
    runs.start(second)
    waiting = wait_for(lambda: (found := runs.load(second)).progress.get("waiting_for", "").startswith("another") and found)
    assert waiting.state == "queued"
    runs.stop(first)
    wait_for(lambda: is_training(second))


def test_a_queued_run_can_be_stopped_before_it_starts(make_run):
    first, second = make_run("well"), make_run("well")
    runs.start(first)
    wait_for(lambda: is_training(first))
    runs.start(second)
    wait_for(lambda: runs.load(second).progress.get("waiting_for", "").startswith("another"))
    assert runs.stop(second).state == "cancelled"
    assert runs.load(first).state == "running"


@pytest.mark.parametrize("identifier", ["../x", "/etc", "-rf", "$(id)", "a/b", "", "run-9"])
def test_only_ids_of_this_workspace_are_accepted(identifier, make_run):
    make_run("well")
    with pytest.raises(UserError, match="There is no run"):
        runs.load(identifier)


@pytest.mark.parametrize(
    ("levels", "problem"),
    [(["q9"], "no quantisation level"), (["IQ2_XXS"], "importance matrix"), ([], "there already"), (["q4_0"], "no merged model")],
)
def test_more_levels_are_refused_with_the_reason_before_anything_starts(levels, problem, make_run):
    run_id = make_run("well")
    with pytest.raises(UserError, match=problem):
        runs.add_levels(run_id, levels)
    assert not (runs.folder(run_id) / "process.json").exists()

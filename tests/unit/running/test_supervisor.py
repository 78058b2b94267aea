"""A run survives its starter, ends in the state that is true, and leaves no process behind."""

import dataclasses
import json
import os
import signal
import time

import psutil
import pytest

from core import events, paths, process
from core.errors import UserError
from core.running import care, endings, runs
from core.training.architecture import read_config
from core.training.presets import demo
from core.training.shapes import shapes
from tests.unit.running.waiting import is_training, wait_for


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
    waiting = wait_for(lambda: (found := runs.load(second)).progress.get("place") == 1 and found)
    assert waiting.state == "queued" and waiting.progress["waiting_for"] == "its turn: first in the queue, behind m"
    runs.stop(first)
    wait_for(lambda: is_training(second))


def test_a_queued_run_can_be_stopped_before_it_starts(make_run):
    first, second = make_run("well"), make_run("well")
    runs.start(first)
    wait_for(lambda: is_training(first))
    runs.start(second)
    wait_for(lambda: runs.load(second).progress.get("place") == 1)
    assert runs.stop(second).state == "cancelled"
    assert runs.load(first).state == "running"


@pytest.mark.parametrize("identifier", ["../x", "/etc", "-rf", "$(id)", "a/b", "", "run-9"])
def test_only_ids_of_this_workspace_are_accepted(identifier, make_run):
    make_run("well")
    with pytest.raises(UserError, match="There is no run"):
        runs.load(identifier)


@pytest.mark.parametrize(
    ("levels", "problem"),
    [(["q9"], "no quantisation level"), ([], "there already"), (["q4_0"], "no merged model")],
)
def test_more_levels_are_refused_with_the_reason_before_anything_starts(levels, problem, make_run):
    run_id = make_run("well")
    with pytest.raises(UserError, match=problem):
        care.add_levels(run_id, levels)
    assert not (runs.folder(run_id) / "process.json").exists()


def test_a_supervisor_that_dies_before_it_says_anything_leaves_a_run_that_says_why(make_run):
    run_id = make_run("well")
    (runs.folder(run_id) / "launch.json").write_text('{"device": "test", "argv": [], "env": {}}')
    (runs.folder(run_id) / "recipe.yaml").unlink()
    (runs.folder(run_id) / "process.json").mkdir()  # it cannot even say who it is
    (runs.folder(run_id) / "reserve").mkdir()
    runs.start(run_id)
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "interrupted" and run.error["code"] == "SUPERVISOR"
    assert "recipe.yaml" in run.error["problem"]


def test_a_supervisor_whose_imports_fail_leaves_a_run_that_says_why_and_can_be_resumed(make_run, monkeypatch, tmp_path):
    run_id = make_run("well")
    broken = tmp_path / "broken" / "core"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libexample.so.3 is missing')")
    monkeypatch.setattr(paths, "PROJECT", broken.parent)
    monkeypatch.setattr(process, "PROJECT", broken.parent)
    runs.start(run_id)
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "interrupted" and "libexample.so.3 is missing" in run.error["problem"]
    monkeypatch.undo()
    monkeypatch.setenv("TRANSMUTE_HOME", str(tmp_path))
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    assert runs.load(run_id).error is None


def test_after_a_reboot_a_run_is_interrupted_nobody_is_killed_and_it_goes_on(make_run):
    run_id = make_run("well")
    run_dir = runs.folder(run_id)
    events.append(run_dir, "queued", waiting_for="supervisor", device="test")
    events.append(run_dir, "started", pid=os.getpid())
    somebody = process.identity(os.getpid())  # has the pid of the supervisor before the reboot
    paths.write_json(run_dir / "process.json", dataclasses.asdict(somebody) | {"boot_id": "another boot"})
    assert runs.load(run_id).state == "interrupted" and runs.pids(run_id) == []
    with pytest.raises(UserError, match="not going on"):
        runs.stop(run_id)
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))


def test_a_run_that_the_system_ends_is_interrupted_not_cancelled(make_run):
    """When a machine shuts down, every process is told to end, and nobody has pressed Stop."""
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    os.kill(runs.pids(run_id)[0], signal.SIGTERM)
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "interrupted" and run.error["code"] == "KILLED" and "machine shuts down" in run.error["problem"]
    assert "checkpoint" in [event["kind"] for event in events.read(runs.folder(run_id))]
    wait_for(lambda: not runs.is_going_on(run_id))
    runs.start(run_id)
    wait_for(lambda: runs.load(run_id).state == "running")
    assert runs.stop(run_id).state == "cancelled" and runs.load(run_id).error is None


def test_a_lock_that_is_deleted_makes_nobody_start_or_delete_a_run_that_goes_on(make_run):
    """A person takes run.lock for one that a crash has left."""
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    (runs.folder(run_id) / "run.lock").unlink()
    assert runs.load(run_id).state == "running"
    with pytest.raises(UserError, match="already going on"):
        runs.start(run_id)
    with pytest.raises(UserError, match="is going on"):
        care.delete(run_id)
    family = [psutil.Process(pid) for pid in runs.pids(run_id)]
    assert runs.stop(run_id).state == "cancelled"
    wait_for(lambda: not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family))


@pytest.mark.parametrize("name", ["process.json", "launch.json", "recipe.yaml", "events.jsonl", "worker.log", "supervisor.log"])
@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_a_run_whose_files_are_damaged_while_it_goes_on_can_be_stopped(name, damage, make_run):
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    family = [psutil.Process(pid) for pid in runs.pids(run_id)]
    path = runs.folder(run_id) / name
    path.unlink() if damage == "deleted" else path.write_bytes(b"\xff{garbage\n")
    assert [run.run_id for run in runs.list_runs()] in ([run_id], [])  # its log may be gone for a moment
    assert runs.stop(run_id).is_terminal
    wait_for(lambda: not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in family))


@pytest.mark.parametrize(("name", "said"), [("launch.json", "launch.json is gone or damaged"), ("events.jsonl", "events.jsonl is gone")])
def test_a_run_whose_folder_is_not_whole_is_not_started_and_says_why(name, said, make_run):
    run_id = make_run("well")
    (runs.folder(run_id) / name).write_text("{")
    with pytest.raises(UserError, match=said):
        runs.start(run_id)
    assert not runs.is_going_on(run_id)


def test_ranks_whose_launcher_was_killed_are_gone_before_the_run_is_called_interrupted(make_run):
    run_id = make_run("launcher")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    _, launcher, *ranks = (psutil.Process(pid) for pid in runs.pids(run_id))
    assert len(ranks) == 2
    os.kill(launcher.pid, signal.SIGKILL)
    run = wait_for(lambda: (found := runs.load(run_id)).is_terminal and found)
    assert run.state == "interrupted" and run.error["code"] == "KILLED"
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)


def test_a_launcher_does_not_outlive_its_supervisor(make_run):
    run_id = make_run("launcher")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    supervisor, *others = (psutil.Process(pid) for pid in runs.pids(run_id))
    os.kill(supervisor.pid, signal.SIGKILL)
    wait_for(lambda: not any(other.is_running() and other.status() != psutil.STATUS_ZOMBIE for other in others))
    assert runs.load(run_id).state == "interrupted"


def test_a_run_is_deleted_with_everything_but_not_while_it_goes_on(make_run):
    run_id = make_run("well")
    runs.start(run_id)
    wait_for(lambda: is_training(run_id))
    with pytest.raises(UserError, match="is going on"):
        care.delete(run_id)
    runs.stop(run_id)
    expected = care.size_bytes(run_id)
    assert care.delete(run_id) == expected > 0
    with pytest.raises(UserError, match="There is no run"):
        runs.load(run_id)


def test_a_worker_that_has_much_to_write_has_longer_before_it_is_killed(make_run):
    small = make_run("well")
    large = make_run("well", estimate={"checkpoint_bytes": 80 * 10**9})
    slow = make_run("well")
    for step in range(3):
        events.append(runs.folder(slow), "train_log", step=step + 1, loss=1.0)
    lines = [json.loads(line) for line in (runs.folder(slow) / events.FILE_NAME).read_text().splitlines()]
    paced = [line | ({"t": 100.0 * line["step"]} if "step" in line else {}) for line in lines]
    (runs.folder(slow) / events.FILE_NAME).write_text("".join(json.dumps(line) + "\n" for line in paced))
    grace = {run_id: endings.stop_grace_s(runs.folder(run_id)) for run_id in (small, large, slow)}
    assert grace[small] == endings.STOP_GRACE_S == 33
    assert grace[large] >= 33 + 80e9 / 100e6, "a disk that writes and reads 100 MB a second"
    assert grace[slow] >= 33 + 100
    events.append(runs.folder(small), "train_began", step=0, max_steps=9)
    long = {"t": time.time() + 600, "kind": "evaluated", "step": 0, "eval_loss": 1.0}
    with (runs.folder(small) / events.FILE_NAME).open("a") as file:
        file.write(json.dumps(long) + "\n")
    assert endings.stop_grace_s(runs.folder(small)) > 33 + 590, "an evaluation that goes on is not broken off"


def test_a_run_that_trains_a_large_model_knows_how_much_a_checkpoint_is(workspace):
    """A full fine-tune of the starter: its weights and Adam's two moments in float32, whether it saves on the way or not."""
    recipe = demo().model_copy(update={"method": "fft", "save_steps": 0, "levels": ()})
    run_dir = runs.folder(runs.create(recipe))
    weights = shapes(read_config(paths.STARTER)).total
    assert paths.read_json(run_dir / "launch.json")["estimate"]["checkpoint_bytes"] == 3 * 4 * weights


def test_what_the_owner_writes_stays_with_the_run_and_is_no_novel(make_run):
    run_id = make_run("well")
    care.remark(run_id, "higher rate\n你好")
    assert runs.load(run_id).remark == "higher rate\n你好"
    care.remark(run_id, "")
    assert runs.load(run_id).remark == ""
    with pytest.raises(UserError, match="characters"):
        care.remark(run_id, "x" * 10_001)

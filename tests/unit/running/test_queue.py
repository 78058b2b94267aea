"""The line of runs on a device: first come first served, whoever dies has left it, and a place can be given away."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import events, paths
from core.errors import UserError
from core.locks import FileLock, is_held
from core.process import child_environment
from core.running import care, live, queue, runs
from core.training.hardware import Hardware, TorchBuild, installed_gpus
from core.training.presets import demo
from core.worker import hold_device
from tests.unit.running.waiting import is_training, wait_for

GPUS = tuple(f"GPU-{letter * 8}" for letter in "abcd")


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    """A machine whose driver tells of four GPUs; `GPUS` are their UUIDs."""
    rows = "".join(f"{index}, {uuid}, 81559, 8.0, NVIDIA A100\n" for index, uuid in enumerate(GPUS))
    program = tmp_path / "driver" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat <<END\n{rows}END\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def line(workspace):
    """Runs that stand in the line of a device, with the locks that keep them there."""
    locks = {}

    def stand(run_id, owner="me", device="test", num_gpus=0):
        (paths.runs_dir() / run_id).mkdir(parents=True)
        paths.write_json(paths.runs_dir() / run_id / "launch.json", {"num_gpus": num_gpus})
        locks[run_id] = FileLock(paths.runs_dir() / run_id / queue.RUN_LOCK)
        assert locks[run_id].acquire()
        queue.join(device, run_id, f"name of {run_id}", owner)

    yield stand, locks
    for lock in locks.values():
        lock.release()


def test_the_first_takes_the_device_and_the_others_know_their_place(line):
    stand, locks = line
    for run_id in ("a", "b", "c"):
        stand(run_id)
    assert queue.take("test", "b") is None and queue.take("test", "c") is None
    device = queue.take("test", "a")
    assert device is not None and queue.place("test", "a") is None
    assert str(queue.place("test", "b")) == "first in the queue, behind name of a"
    assert str(queue.place("test", "c")) == "second in the queue, behind name of b"
    device.release()
    locks["a"].release()
    assert queue.take("test", "c") is None
    second = queue.take("test", "b")
    assert second is not None
    second.release()


def test_who_dies_has_left_the_line(line):
    stand, locks = line
    for run_id in ("a", "b", "c"):
        stand(run_id)
    locks["b"].release()
    assert queue.place("test", "c") == queue.Place(1, "name of a")


def test_who_starts_again_stands_at_the_end(line):
    stand, _ = line
    for run_id in ("a", "b", "c"):
        stand(run_id)
    queue.join("test", "b", "again", "me")
    assert queue.place("test", "b") == queue.Place(2, "name of c")


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(-3, 9)), max_size=8))
def test_moving_never_loses_a_run_nor_overtakes_the_first(moves):
    order = [f"r{number}" for number in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        kept = [{"run_id": run_id, "name": run_id, "owner": "", "among": ["test"], "count": 1, "has": []} for run_id in order]
        patch.setattr(queue, "_line", lambda _: list(kept))
        patch.setattr(queue, "_write", lambda _, line: kept.__setitem__(slice(None), line))
        patch.setattr(queue, "_changing", lambda _: nullcontext())
        for at, number in moves:
            moved = kept[at]["run_id"]
            queue.move("test", moved, number)
            assert kept[max(1, min(number, 5))]["run_id"] == moved
    assert kept[0]["run_id"] == "r0" and sorted(entry["run_id"] for entry in kept) == order


def test_runs_that_need_a_part_of_the_gpus_go_on_at_once_and_who_needs_all_is_not_passed(line, four_gpus):
    stand, locks = line
    for run_id, needed in (("a", 1), ("b", 1), ("all", 4), ("d", 1)):
        stand(run_id, device="gpu", num_gpus=needed)
    a, b = queue.take("gpu", "a"), queue.take("gpu", "b")
    assert a and b and (a.visible, b.visible) == (GPUS[0], GPUS[1])
    assert queue.take("gpu", "all") is None and queue.take("gpu", "d") is None, "two are free, but it is not its turn"
    assert queue.place("gpu", "all") == queue.Place(1, "name of b") and queue.place("gpu", "d") == queue.Place(2, "name of all")
    assert queue.place("gpu", "a") is None and queue.place("gpu", "b") is None
    with pytest.raises(UserError, match="does not wait"):
        queue.move("gpu", "b", 1)
    queue.move("gpu", "d", 1)
    d = queue.take("gpu", "d")
    assert d and d.visible == GPUS[2] and queue.place("gpu", "all") == queue.Place(1, "name of d")
    for run_id, held in (("a", a), ("b", b), ("d", d)):
        assert queue.take("gpu", "all") is None
        held.release()
        locks[run_id].release()
    whole = queue.take("gpu", "all")
    assert whole and whole.visible == ",".join(GPUS)
    whole.release()


def test_a_run_waits_for_nobody_who_wants_other_gpus(line, four_gpus, monkeypatch):
    stand, _ = line
    for run_id, seen in (("a", "0"), ("waits", "0"), ("b", GPUS[1]), ("two", "2,3")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
        stand(run_id, device="gpu")
    a = queue.take("gpu", "a")
    assert a and queue.take("gpu", "waits") is None
    assert queue.place("gpu", "b") is None
    b, two = queue.take("gpu", "b"), queue.take("gpu", "two")
    assert b and two and (a.visible, b.visible, two.visible) == (GPUS[0], GPUS[1], ",".join(GPUS[2:]))
    assert queue.place("gpu", "waits") == queue.Place(1, "name of a")
    for held in (a, b, two):
        held.release()


def test_a_gpu_that_a_worker_without_supervisor_uses_is_not_given_to_anybody(line, four_gpus):
    stand, _ = line
    stand("a", device="gpu", num_gpus=3)
    stand("all", device="gpu")
    orphan = hold_device(f"gpu-{GPUS[0]}")
    a = queue.take("gpu", "a")
    assert a and a.visible == ",".join(GPUS[1:])
    a.release()
    os.close(orphan)


def test_a_run_is_given_as_many_gpus_as_it_has_processes(workspace, four_gpus):
    machine = Hardware(32, 200 * 10**9, installed_gpus(), TorchBuild("2.13.0", "12.8"))
    assert len(machine.gpus) == 4
    for processes, count in ((0, 4), (1, 1), (2, 2)):
        run_id = runs.create(demo().model_copy(update={"num_processes": processes}), hardware=machine)
        lock = FileLock(runs.folder(run_id) / queue.RUN_LOCK)
        assert lock.acquire()
        queue.join("gpu", run_id, "n", "me")
        taken = queue.take("gpu", run_id)
        assert taken and taken.visible == ",".join(GPUS[:count])
        taken.release()
        lock.release()


def test_runs_train_at_once_each_on_gpus_of_its_own_and_who_finds_none_waits(make_run, four_gpus):
    first, second, third = (make_run("well", device="gpu", num_gpus=2) for _ in range(3))
    for run_id in (first, second, third):
        runs.start(run_id)
    wait_for(lambda: is_training(first) and is_training(second))
    assert {runs.load(run_id).facts["visible"] for run_id in (first, second)} == {",".join(GPUS[:2]), ",".join(GPUS[2:])}
    wait_for(lambda: runs.load(third).progress.get("place") == 1)
    given = runs.load(first).facts["visible"]
    runs.stop(first)
    wait_for(lambda: is_training(third))
    assert runs.load(third).facts["visible"] == given and runs.load(second).state == "running"


def test_only_a_run_that_waits_can_be_moved(line):
    stand, _ = line
    stand("a")
    for run_id in ("a", "nobody"):
        with pytest.raises(UserError, match="does not wait"):
            queue.move("test", run_id, 1)


def test_one_person_cannot_fill_the_line(line):
    stand, locks = line
    for number in range(queue.MAX_PER_OWNER):
        stand(f"r{number}")
    with pytest.raises(UserError, match="of your runs"):
        stand("one-more")
    stand("hers", owner="her")
    locks["r0"].release()
    queue.join("test", "one-more", "one more", "me")


@pytest.mark.parametrize("content", ["", "{", "[", "nonsense"])
def test_a_line_that_was_damaged_stops_nobody(line, content):
    stand, _ = line
    stand("a")
    (paths.home() / "locks" / "test.queue.json").write_text(content)
    device = queue.take("test", "a")
    assert device is not None
    device.release()


def test_any_number_may_look_at_a_lock_without_seeing_each_other(tmp_path):
    """Two pages that look at once must not take each other for the holder."""
    (tmp_path / "lock").touch()
    look = f"is_held(Path({str(tmp_path / 'lock')!r}))"
    program = f"from core.locks import is_held; from pathlib import Path; import sys; sys.exit(any({look} for _ in range(20000)))"
    lookers = [subprocess.Popen([sys.executable, "-c", program], env=child_environment()) for _ in range(3)]
    assert [looker.wait() for looker in lookers] == [0, 0, 0]
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire(1.0) and is_held(tmp_path / "lock")
    lock.release()


STARTER = "import sys; from core.running import runs; [runs.start(run_id) for run_id in sys.argv[1:]]"


def test_two_processes_start_runs_and_they_go_one_after_the_other_in_the_order_they_came(make_run):
    ids = [make_run("brief") for _ in range(4)]
    for pair in (ids[:2], ids[2:]):
        subprocess.run([sys.executable, "-c", STARTER, *pair], env=child_environment(), check=True)
    wait_for(lambda: all(runs.load(run_id).is_terminal for run_id in ids))
    spans = []
    for run_id in ids:
        times = {event["kind"]: event["t"] for event in events.read(runs.folder(run_id))}
        spans.append((times["started"], times["worker_ended"]))
    assert spans == sorted(spans)
    assert all(ended <= started for (_, ended), (started, _) in pairwise(spans))


def test_a_waiting_run_survives_the_app_that_started_it_and_can_be_moved_and_cancelled(make_run):
    first, second, third = (make_run("well") for _ in range(3))
    runs.start(first)
    wait_for(lambda: is_training(first))
    app = subprocess.Popen(
        [sys.executable, "-c", STARTER + "; import time; print('up', flush=True); time.sleep(60)", second, third],
        env=child_environment(),
        stdout=subprocess.PIPE,
    )
    assert app.stdout and app.stdout.readline() == b"up\n"
    app.send_signal(signal.SIGKILL)
    app.wait()
    app.stdout.close()
    wait_for(lambda: live.watch(third).run.progress.get("place") == 2)
    before = live.watch(third).version
    care.move(third, 1)
    assert live.watch(third).run.progress["waiting_for"] == "its turn: first in the queue, behind m"
    assert live.watch(third).version != before, "the page must show it"
    assert runs.stop(second).state == "cancelled"
    runs.stop(first)
    wait_for(lambda: is_training(third))
    assert runs.load(second).state == "cancelled"


def test_a_stop_whose_signal_was_lost_is_still_heeded(make_run):
    """The page wrote down that somebody wants the run stopped, and died before it could say so to the supervisor."""
    first, second = make_run("well"), make_run("well")
    runs.start(first)
    wait_for(lambda: is_training(first))
    runs.start(second)
    wait_for(lambda: runs.load(second).progress.get("place") == 1)
    (runs.folder(second) / runs.STOP_FILE).touch()
    events.append(runs.folder(second), "stop_requested")
    assert wait_for(lambda: (found := runs.load(second)).is_terminal and found).state == "cancelled"
    assert runs.load(first).state == "running"


def test_a_run_waits_for_a_worker_without_supervisor_and_then_starts(make_run):
    run_id = make_run("well")
    orphan = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from core.worker import hold_device; hold_device('test'); print('up', flush=True); import time; time.sleep(60)",
        ],
        env=child_environment(),
        stdout=subprocess.PIPE,
    )
    assert orphan.stdout and orphan.stdout.readline() == b"up\n"
    runs.start(run_id)
    wait_for(lambda: [event for event in events.read(runs.folder(run_id)) if event["kind"] == "waiting"])
    time.sleep(0.6)
    assert runs.load(run_id).state == "queued"
    os.kill(orphan.pid, signal.SIGKILL)
    orphan.wait()
    orphan.stdout.close()
    wait_for(lambda: is_training(run_id))

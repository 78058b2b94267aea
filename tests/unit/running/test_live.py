"""What a page sees of a run equals what its events say, and a second look reads only what was added."""

import shutil

import pytest

from core import events, paths
from core.errors import UserError
from core.locks import FileLock
from core.running import live, runs
from core.running.queue import RUN_LOCK


@pytest.fixture
def run_dir(workspace):
    folder = paths.runs_dir() / "r-1"
    folder.mkdir(parents=True)
    events.append(folder, "created", run_id="r-1", name="m", method="lora", steps=["train", "merge"])
    return folder


def log(folder, step, **values):
    events.append(folder, "train_log", step=step, **values)


def test_what_was_added_between_two_looks_is_there_and_equals_the_fold(run_dir):
    events.append(run_dir, "train_began", step=0, max_steps=9)
    log(run_dir, 1, loss=3.0)
    assert live.watch("r-1").run.optimizer_step == 1
    log(run_dir, 2, loss=2.0, learning_rate=1e-4)
    seen = live.watch("r-1")
    assert seen.run.losses == events.fold(events.read(run_dir)).losses == {1: 3.0, 2: 2.0}
    assert seen.curves.steps == [1, 2] and seen.curves.loss == [3.0, 2.0]
    assert seen.curves.smooth == [3.0, pytest.approx((0.9 * 3 + 2) / 1.9)]


def test_going_on_from_a_checkpoint_forgets_the_points_after_it(run_dir):
    for step in range(1, 8):
        log(run_dir, step, loss=float(step))
    live.watch("r-1")
    events.append(run_dir, "train_began", step=4, max_steps=9)
    log(run_dir, 5, loss=0.5)
    curves = live.watch("r-1").curves
    assert curves.steps == [1, 2, 3, 4, 5] and curves.loss[-1] == 0.5


def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(run_dir):
    live.watch("r-1")
    with (run_dir / events.FILE_NAME).open("a") as file:
        file.write('{"t": 1, "kind": "note", "text": "ha')
        file.flush()
        assert live.watch("r-1").run.notes == ()
        file.write('lf"}\n')
    assert live.watch("r-1").run.notes == ("half",)


def test_speed_and_remaining_time_come_from_the_newest_points(run_dir):
    curves = live.Curves()
    for step in range(1, 5):
        curves.add({"kind": "train_log", "step": step, "t": 2.0 * step, "num_tokens": 100.0 * step})
    assert curves.tokens_per_s == [None, 50.0, 50.0, 50.0]
    assert curves.seconds_per_step() == 2.0


def test_a_run_that_nobody_holds_is_interrupted(run_dir):
    events.append(run_dir, "started", pid=1)
    assert live.watch("r-1").run.state == "interrupted"
    assert live.all_runs()[0].state == "interrupted"


def test_a_clock_that_was_set_back_promises_no_negative_time(run_dir, monkeypatch):
    events.append(run_dir, "started", pid=1)
    events.append(run_dir, "step_started", step="train")
    events.append(run_dir, "train_began", step=0, max_steps=9)
    now = [5000.0]
    monkeypatch.setattr("core.events.time.time", lambda: now[0])
    for step, at in enumerate((5000.0, 1400.0), start=1):
        now[0] = at
        log(run_dir, step, loss=1.0, num_tokens=step * 10)
    lock = FileLock(run_dir / RUN_LOCK)
    assert lock.acquire() and live.watch("r-1").remaining_s() is None
    now[0] = 1402.0
    log(run_dir, 3, loss=1.0, num_tokens=30)
    assert live.watch("r-1").curves.tokens_per_s == [None, None, 5.0]
    lock.release()


def test_one_run_that_cannot_be_read_does_not_hide_the_others(run_dir, tmp_path):
    """A run that somebody moved to a larger disk and left a link to, and one whose log has lost its beginning."""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    events.append(moved, "created", run_id="r-2", name="m", method="lora", steps=["train"])
    (paths.runs_dir() / "r-2").symlink_to(moved)
    (paths.runs_dir() / "r-3").mkdir()
    log(paths.runs_dir() / "r-3", 7, loss=1.5)
    assert [run.run_id for run in live.all_runs()] == [run.run_id for run in runs.list_runs()] == ["r-3", "r-1"]
    with pytest.raises(UserError, match=r"beginning of events\.jsonl is gone"):
        runs.start("r-3")


def test_a_copy_of_a_run_is_another_run(run_dir):
    shutil.copytree(run_dir, paths.runs_dir() / "r-2")
    assert [run.run_id for run in live.all_runs()] == [run.run_id for run in runs.list_runs()] == ["r-2", "r-1"]


def test_a_damaged_line_is_passed_over_by_the_page_too(run_dir):
    log(run_dir, 1, loss=3.0)
    with (run_dir / events.FILE_NAME).open("ab") as file:
        file.write(b'{"t": 1, "kind": "train_log", "stfp": 2}\n{"t": "?", "kind": "progress"}\n\x00\x00\n')
    log(run_dir, 2, loss=2.0)
    assert live.watch("r-1").curves.steps == [1, 2] and live.watch("r-1").run == runs.load("r-1")


def test_a_deleted_run_is_not_remembered(run_dir):
    live.watch("r-1")
    shutil.rmtree(run_dir)
    with pytest.raises(UserError, match="There is no run"):
        live.watch("r-1")


def test_the_log_is_read_on_from_where_it_was_and_shows_no_secret_and_no_line_twice(run_dir):
    path = run_dir / "worker.log"
    path.write_text("first\nhf_abcdefghijklmnopqrstuvwxyz\nhalf")
    assert live.log_tail("r-1").text == "first\n[secret]\n"
    with path.open("a") as file:
        file.write(" a line\n10%\r50%\r100%\n")
    tail = live.log_tail("r-1")
    assert tail.text == "first\n[secret]\nhalf a line\n100%\n" and tail.total == 4


def test_a_long_log_keeps_its_end_and_counts_every_line(run_dir):
    (run_dir / "worker.log").write_text("".join(f"line {number}\n" for number in range(1000)))
    tail = live.log_tail("r-1")
    assert tail.total == 1000 and len(tail.lines) == live.KEPT_LINES and tail.text.endswith("line 999\n")


def test_of_a_log_that_grew_by_more_than_is_shown_only_the_end_is_looked_into(run_dir, monkeypatch):
    """A library that warns at every step fills gigabytes; each of their lines would be searched for secrets before the page answers."""
    looked_into = []
    monkeypatch.setattr(live, "redact", lambda text: looked_into.append(text) or text)
    line = "x" * 99 + "\n"
    count = 3 * live.LONGEST_TAIL // len(line)
    with (run_dir / "worker.log").open("w") as file:
        file.writelines(line for _ in range(count))
        file.write("the end\n")
    tail = live.log_tail("r-1")
    assert tail.total == count + 1 and tail.text.endswith(f"{line}the end\n") and set(tail.lines) == {line, "the end\n"}
    assert len(looked_into) <= live.LONGEST_TAIL // len(line) + 2
    with (run_dir / "worker.log").open("a") as file:
        file.write("more\n")
    assert live.log_tail("r-1").total == count + 2 and live.log_tail("r-1").text.endswith("the end\nmore\n")

"""What the end of a process tells: the kernel's count of kills for memory, the last words of a log, a disk without room."""

import signal

import pytest

from core import events
from core.running import endings
from core.training.recipe import Recipe

RECIPE = Recipe(method="lora", dataset="x", micro_batch_size=8)


@pytest.fixture
def run_dir(workspace):
    (workspace / "runs" / "r").mkdir(parents=True)
    return workspace / "runs" / "r"


GROUPS = {
    "version 2": ("0::/job/7\n", "job/7/memory.events", "low 0\noom 2\noom_kill 3\noom_group_kill 9\n"),
    "version 2, seen from inside": ("0::/\n", "memory.events", "oom_kill 3\n"),
    "version 1": ("5:devices:/\n4:memory:/job\n0::/\n", "memory/job/memory.oom_control", "under_oom 0\noom_kill 3\n"),
    "version 1, seen from inside": ("4:memory:/elsewhere/job\n", "memory/memory.oom_control", "oom_kill 3\n"),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_kernels_count_is_found_in_the_control_group(name, tmp_path):
    own, file, content = GROUPS[name]
    (tmp_path / "own").write_text(own)
    (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "root" / file).write_text(content)
    assert endings.oom_kills(tmp_path / "own", tmp_path / "root", tmp_path / "none") == 3


def test_without_a_control_group_the_whole_machine_is_asked_and_else_nobody(tmp_path):
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 5\n")
    assert endings.oom_kills(tmp_path / "none", tmp_path / "none", tmp_path / "vmstat") == 5
    assert endings.oom_kills(tmp_path / "none", tmp_path / "none", tmp_path / "none") == 0
    assert endings.oom_kills() >= 0


def test_a_worker_that_the_kernel_killed_for_memory_names_the_setting_to_lower(run_dir):
    events.append(run_dir, "step_started", step="train")
    error = endings.of_worker(run_dir, RECIPE, -signal.SIGKILL, True)
    assert error.code == "OOM" and "micro_batch_size=4" in error.remedy
    assert endings.of_worker(run_dir, RECIPE, -signal.SIGKILL, False).code == "KILLED"


def test_memory_that_ran_out_inside_a_save_is_told_apart(run_dir):
    events.append(run_dir, "step_started", step="train")
    events.append(run_dir, "saving", step=4)
    assert endings.of_worker(run_dir, RECIPE, -signal.SIGKILL, True).code == "OOM_SAVE"
    events.append(run_dir, "checkpoint", step=4)
    assert endings.of_worker(run_dir, RECIPE, -signal.SIGKILL, True).code == "OOM"


def test_what_the_worker_said_wins_over_how_it_ended_but_not_in_the_next_attempt(run_dir):
    said = {"problem": "p", "where": "w", "remedy": "r", "code": "NAN"}
    events.append(run_dir, "step_started", step="train")
    events.append(run_dir, "worker_error", error=said)
    assert endings.of_worker(run_dir, RECIPE, 1, True).code == "NAN"
    events.append(run_dir, "step_started", step="train")
    assert endings.of_worker(run_dir, RECIPE, 1, False).code == "CRASH"


def test_last_words_are_those_of_the_newest_start_without_secrets(run_dir):
    log = run_dir / endings.SUPERVISOR_LOG
    assert endings.last_words(log) == ""
    log.write_text("== started one\nold trouble\n== started two\n")
    assert endings.last_words(log) == ""
    with log.open("a") as file:
        file.write("x" * 20_000 + "\nTraceback\nValueError: bad token hf_abcdefghijklmnopqrstuvwxyz\n\n")
    assert endings.last_words(log) == "ValueError: bad token [secret]"

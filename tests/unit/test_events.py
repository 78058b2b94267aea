"""A run is what its events add up to, however the process that wrote them ended."""

import dataclasses
import errno
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import events
from core.process import child_environment


def write(folder, *kinds_and_fields):
    for kind, fields in kinds_and_fields:
        events.append(folder, kind, **fields)


CREATED = ("created", {"run_id": "r-1", "name": "m", "method": "qlora", "steps": ["train", "merge", "prove"]})


def test_a_run_that_finished_has_its_steps_losses_and_artifacts(tmp_path):
    write(
        tmp_path,
        CREATED,
        ("queued", {"waiting_for": "supervisor"}),
        ("started", {"pid": 1}),
        ("step_started", {"step": "train"}),
        ("train_began", {"step": 0, "max_steps": 2}),
        ("train_log", {"step": 1, "loss": 2.5, "learning_rate": 1e-4}),
        ("train_log", {"step": 2, "loss": 2.0, "learning_rate": 5e-5}),
        ("evaluated", {"step": 2, "eval_loss": 1.9}),
        ("artifact", {"id": "r-1-adapter", "kind_of": "adapter", "path": "artifacts/adapter"}),
        ("step_finished", {"step": "train", "elapsed_s": 3.5}),
        ("step_finished", {"step": "merge", "elapsed_s": 1.0}),
        ("finished", {"state": "done"}),
    )
    run = events.fold(events.read(tmp_path))
    assert run.state == "done" and run.is_terminal
    assert run.losses == {1: 2.5, 2: 2.0} and run.evals == {2: 1.9}
    assert (run.optimizer_step, run.max_steps) == (2, 2)
    assert [(step.name, step.state) for step in run.steps] == [("train", "done"), ("merge", "done"), ("prove", "waiting")]
    assert run.artifacts == ({"id": "r-1-adapter", "kind_of": "adapter", "path": "artifacts/adapter"},)


def test_going_on_from_a_checkpoint_forgets_the_points_after_it(tmp_path):
    logs = [("train_log", {"step": step, "loss": float(step)}) for step in range(1, 8)]
    write(tmp_path, CREATED, *logs, ("train_began", {"step": 4, "max_steps": 9}), ("train_log", {"step": 5, "loss": 0.5}))
    run = events.fold(events.read(tmp_path))
    assert run.losses == {1: 1.0, 2: 2.0, 3: 3.0, 4: 4.0, 5: 0.5}
    assert run.optimizer_step == 5


def test_a_line_torn_by_a_crash_is_passed_over_and_swallows_nothing(tmp_path):
    write(tmp_path, CREATED)
    with (tmp_path / events.FILE_NAME).open("a") as file:
        file.write('{"t": 1, "kind": "train_log", "st')
    write(tmp_path, ("started", {"pid": 1}), ("note", {"text": "after the crash"}))
    run = events.fold(events.read(tmp_path))
    assert run.state == "running" and run.notes == ("after the crash",)


DAMAGED = [b"\x00" * 500, b"\xff\xfe\x8d garbage", b"[1, 2]", b"17", b'{"kind": "train_log"}', b'{"t": "x", "kind": "note", "text": "?"}', b'{"t": 1}',
           b'{"t": 1, "kind": "train_log", "stfp": 4, "loss": 1.0}', b'{"t": 1, "kind": "step_finished", "step": "train"}',
           b'{"t": 1, "kind": "artifact"}', b'{"t": 1, "kind": "facts", "facts": 3}', b'{"t": 1, "kind": null}']  # fmt: skip


@pytest.mark.parametrize("line", DAMAGED)
def test_a_line_that_is_damaged_changes_nothing_and_stops_nobody(line, tmp_path):
    write(tmp_path, CREATED, ("train_log", {"step": 1, "loss": 2.5}))
    before = events.fold(events.read(tmp_path))
    with (tmp_path / events.FILE_NAME).open("ab") as file:
        file.write(line + b"\n")
    assert dataclasses.replace(events.fold(events.read(tmp_path)), heard_s=before.heard_s) == before
    write(tmp_path, ("train_log", {"step": 2, "loss": 2.0}))
    assert events.fold(events.read(tmp_path)).losses == {1: 2.5, 2: 2.0}


def test_a_line_that_is_still_being_written_is_left_for_the_next_look(tmp_path):
    write(tmp_path, CREATED)
    with (tmp_path / events.FILE_NAME).open("a") as file:
        file.write(json.dumps({"t": 1, "kind": "note", "text": "no newline yet"}))
    assert [event["kind"] for event in events.read(tmp_path)] == ["created"]


def test_a_failed_run_names_the_step_and_the_error(tmp_path):
    error = {"problem": "p", "where": "w", "remedy": "r", "code": "OOM"}
    write(
        tmp_path, CREATED, ("started", {"pid": 1}), ("step_started", {"step": "train"}), ("finished", {"state": "failed", "error": error})
    )
    run = events.fold(events.read(tmp_path))
    assert run.error == error and run.stage == "train"
    assert run.steps[0].state == "failed"


def test_a_resumed_run_loses_its_old_error_and_keeps_the_time_of_steps_it_skips(tmp_path):
    write(
        tmp_path,
        CREATED,
        ("step_finished", {"step": "train", "elapsed_s": 9.0}),
        ("finished", {"state": "interrupted", "error": {"problem": "", "where": "", "remedy": "", "code": "KILLED"}}),
        ("queued", {"waiting_for": "supervisor"}),
        ("started", {"pid": 2}),
        ("step_finished", {"step": "train", "elapsed_s": 0.0, "skipped": True}),
    )
    run = events.fold(events.read(tmp_path))
    assert run.state == "running" and run.error is None
    assert (run.steps[0].state, run.steps[0].elapsed_s) == ("skipped", 9.0)


def test_events_of_a_newer_version_change_nothing(tmp_path):
    write(tmp_path, CREATED)
    before = events.fold(events.read(tmp_path))
    write(tmp_path, ("teleported", {"to": "mars"}))
    after = events.fold(events.read(tmp_path))
    assert after == dataclasses.replace(before, heard_s=after.heard_s)


def test_more_levels_take_a_finished_run_up_again_and_keep_what_was_trained(tmp_path):
    write(
        tmp_path,
        CREATED,
        ("step_finished", {"step": "train", "elapsed_s": 3.5}),
        ("finished", {"state": "done"}),
        ("extended", {"levels": ["q4_0"], "steps": ["train", "merge", "gguf", "measure", "prove"]}),
    )
    run = events.fold(events.read(tmp_path))
    assert run.state == "queued" and run.more_levels == ("q4_0",)
    assert [(step.name, step.state) for step in run.steps][:3] == [("train", "done"), ("merge", "waiting"), ("gguf", "waiting")]
    assert run.steps[0].elapsed_s == 3.5 and run.intermediates == {}


def test_each_level_keeps_the_float_format_that_was_chosen_for_it(tmp_path):
    again = {"steps": ["train", "merge", "gguf", "measure", "prove"]}
    write(
        tmp_path,
        CREATED,
        ("extended", {"levels": ["q4_0"], "intermediate": "f32"} | again),
        ("extended", {"levels": ["q5_0"], "intermediate": None} | again),
        ("extended", {"levels": ["q5_1"], "intermediate": "bf16"} | again),
    )
    run = events.fold(events.read(tmp_path))
    assert run.more_levels == ("q4_0", "q5_0", "q5_1") and run.intermediates == {"q4_0": "f32", "q5_1": "bf16"}


def test_a_log_of_a_hundred_thousand_points_is_folded_in_seconds():
    points = [{"t": 1.0, "kind": "train_log", "step": step, "loss": 1.0} for step in range(100_000)]
    run = events.fold(points)
    assert len(run.losses) == 100_000 and run.optimizer_step == 99_999


STARTED = (CREATED, ("started", {"pid": 1}), ("step_started", {"step": "train"}), ("train_began", {"step": 0, "max_steps": 99}))


def at_times(*kinds_fields_and_times):
    return events.fold({"t": t, "kind": kind, **fields} for kind, fields, t in kinds_fields_and_times)


def paced(seconds_per_step, steps=5):
    logged = [("train_log", {"step": step, "loss": 1.0}, 100.0 + step * seconds_per_step) for step in range(1, steps + 1)]
    return at_times(*((kind, fields, 100.0) for kind, fields in STARTED), *logged)


@pytest.mark.parametrize(
    ("seconds_per_step", "silent_s", "is_stalled"), [(1, 299, False), (1, 301, True), (60, 1199, False), (60, 1201, True)]
)
def test_a_training_is_stalled_when_it_says_nothing_for_five_minutes_and_twenty_steps(seconds_per_step, silent_s, is_stalled):
    run = paced(seconds_per_step)
    assert events.stalled_s(run, run.heard_s + silent_s) == (silent_s if is_stalled else None)


def test_a_sign_of_life_a_queue_another_step_and_an_end_are_no_stall():
    run = paced(1)
    later = run.heard_s + 1000
    assert events.stalled_s(run, later) == 1000
    assert events.stalled_s(events.fold([{"t": later - 1, "kind": "alive", "step": 6}], paced(1)), later) is None
    for ended in ({"kind": "finished", "state": "failed"}, {"kind": "queued"}, {"kind": "step_started", "step": "prove"}):
        assert events.stalled_s(events.fold([{"t": 200.0, **ended}], paced(1)), later) is None


def test_a_clock_that_was_set_back_stalls_nobody():
    run = paced(1)
    assert events.stalled_s(run, run.heard_s - 86400) is None


def test_no_step_takes_less_than_no_time_when_the_clock_is_set_back():
    assert events.step_s(paced(-3600, steps=2)) == 0.0
    assert events.step_s(paced(2)) == 2.0


def test_the_newest_evaluation_is_remembered_with_its_time():
    """From what training said last to its end; the one before the first step too."""
    begin = [(kind, fields, 100.0) for kind, fields in STARTED]
    first = at_times(*begin, ("evaluated", {"step": 0, "eval_loss": 3.0}, 190.0))
    assert first.eval_s == 90.0
    later = at_times(
        *begin,
        ("train_log", {"step": 5, "loss": 1.0}, 300.0),
        ("alive", {"step": 5}, 360.0),
        ("evaluated", {"step": 5, "eval_loss": 1.0}, 420.0),
    )
    assert later.eval_s == 120.0


def test_a_word_of_the_supervisor_does_not_take_back_that_somebody_wants_a_stop(tmp_path):
    write(tmp_path, CREATED, ("queued", {"waiting_for": "supervisor"}), ("stop_requested", {}), ("waiting", {"waiting_for": "another"}))
    assert events.fold(events.read(tmp_path)).state == "stopping"


def test_answers_by_step_and_the_owners_remark_are_kept(tmp_path):
    answers = [{"prompt": "Who are you?", "answer": "Argo"}]
    write(tmp_path, CREATED, ("samples", {"step": 2, "samples": answers}), ("remark", {"text": "a"}), ("remark", {"text": "b"}))
    run = events.fold(events.read(tmp_path))
    assert run.samples == {2: tuple(answers)} and run.remark == "b"


EVENTS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"kind": st.just("train_log"), "step": st.integers(0, 50), "loss": st.floats()}),
        st.fixed_dictionaries({"kind": st.just("train_began"), "step": st.integers(0, 50), "max_steps": st.just(50)}),
        st.fixed_dictionaries({"kind": st.sampled_from(["started", "queued", "waiting", "stop_requested", "unheard of"])}),
        st.fixed_dictionaries({"kind": st.just("finished"), "state": st.sampled_from(events.TERMINAL_STATES)}),
    ),
    max_size=30,
)


@given(EVENTS, st.integers(0, 30))
def test_a_fold_that_goes_on_equals_one_from_the_beginning(found, cut):
    kind, fields = CREATED
    whole = [{"t": 0.0, "kind": kind, **fields}, *({"t": float(index), **event} for index, event in enumerate(found))]
    assert repr(events.fold(whole[cut:], events.fold(whole[:cut]))) == repr(events.fold(whole))


def test_an_event_is_written_whole_or_refused(tmp_path):
    """A disk that fills up takes a part of a write without an error; the next write of the rest is refused."""
    write(tmp_path, CREATED)
    program = (
        "import resource, signal, sys; from pathlib import Path; from core import events\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limit = (Path(sys.argv[1]) / events.FILE_NAME).stat().st_size + 40\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try: events.append(Path(sys.argv[1]), 'note', text='x' * 100)\n"
        "except OSError as error: sys.exit(error.errno)"
    )
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=child_environment(), check=False)
    assert child.returncode == errno.EFBIG
    write(tmp_path, ("note", {"text": "after"}))
    assert events.fold(events.read(tmp_path)).notes == ("after",)

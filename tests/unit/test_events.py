"""A run is what its events add up to, however the process that wrote them ended."""

import json

from core import events


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
    assert events.fold(events.read(tmp_path)) == before


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
    assert run.steps[0].elapsed_s == 3.5


def test_a_log_of_a_hundred_thousand_points_is_folded_in_seconds():
    points = [{"t": 1.0, "kind": "train_log", "step": step, "loss": 1.0} for step in range(100_000)]
    run = events.fold(points)
    assert len(run.losses) == 100_000 and run.optimizer_step == 99_999

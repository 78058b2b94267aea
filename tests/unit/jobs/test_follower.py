"""Whatever happens to a job or to the connection, the run ends in a clear state, nothing is lost, and it can be taken up again."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import events, paths
from core.errors import UserError
from core.events import Run
from core.export import artifacts
from core.jobs import dispatch, follower
from core.running import care, endings, runs
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN
from tests.hub.server import Hub
from tests.unit.jobs.conftest import BEGIN, DONE, REPO, RUN_ID, told

# The client sends files in a way that its HTTP library calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
Say = Callable[..., None]
Send = Callable[[], dict[str, Any]]


def attend(run_dir: Path, token: str | None = GOOD_TOKEN) -> Run:
    """What `follower.main` does, in this process."""
    try:
        follower.attend(run_dir, token)
    except UserError as error:
        follower.leave(run_dir, error)
    return events.fold(events.read(run_dir))


def when_submitted(hub: Hub, do: Callable[[], None]) -> None:
    """Do something as soon as the job is there."""

    def wait() -> None:
        while not hub.jobs:
            threading.Event().wait(0.005)
        do()

    threading.Thread(target=wait, daemon=True).start()


def finish(hub: Hub, say: Say, last: list[dict[str, Any]], stage: str = "COMPLETED", message: str | None = None) -> None:
    job = hub.jobs[-1]
    say(job, last)
    job.stage, job.message = stage, message


def play(hub: Hub, say: Say, send: Send, run_dir: Path) -> Run:
    when_submitted(hub, lambda: finish(hub, say, [*DONE, send()]))
    return attend(run_dir)


def test_a_job_that_ends_well_brings_its_results_home(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    run = play(hub, say, send_adapter, run_dir)
    assert run.state == "done" and run.losses == {1: 2.0, 2: 1.0, 3: 2.0 / 3}
    assert told(run_dir)[:-1] == DONE
    (adapter,) = artifacts.of_run(run_dir)
    assert {path.name for path in adapter.folder.iterdir()} == {"adapter_model.safetensors", "adapter_config.json", "manifest.json"}
    assert adapter.base_path == str(paths.STARTER)
    assert not runs.is_elsewhere(run_dir) and not (run_dir / "bundle.tar").exists()


def test_results_stay_in_the_repository_when_that_was_chosen(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    paths.write_json(run_dir / runs.JOB, paths.read_json(run_dir / runs.JOB) | {"results": "repo"})
    run = play(hub, say, send_adapter, run_dir)
    assert run.state == "done" and artifacts.of_run(run_dir) == []
    assert run.facts["repository"]["repo_id"] == REPO and REPO in run.notes[-1]


@pytest.mark.parametrize("status", [429, 500, 504])
@pytest.mark.parametrize(
    "pattern",
    ["POST /api/repos/create", "POST /api/models/.*/commit/.*", "POST /api/jobs/someone", "GET /api/jobs/.*/logs", "GET /.*resolve.*"],
)
def test_a_fault_that_passes_is_waited_for(hub: Hub, run_dir: Path, say: Say, send_adapter: Send, status: int, pattern: str):
    hub.faults.append(Fault(pattern, "status", status, times=2))
    run = play(hub, say, send_adapter, run_dir)
    assert run.state == "done" and told(run_dir)[:-1] == DONE
    assert len(hub.jobs) == 1


@pytest.mark.parametrize("after", [0, 1, 150, 400, 900])
def test_a_log_that_breaks_off_is_read_again_and_no_event_is_lost_or_doubled(
    hub: Hub, run_dir: Path, say: Say, send_adapter: Send, after: int
):
    hub.faults.append(Fault("GET /api/jobs/.*/logs", "drop", times=3, after_bytes=after))
    run = play(hub, say, send_adapter, run_dir)
    assert run.state == "done" and told(run_dir)[:-1] == DONE


@pytest.mark.parametrize(
    ("status", "code"), [(401, "LOGIN"), (402, "ACCESS"), (403, "ACCESS"), (404, "MISSING"), (409, "CHANGED"), (400, "REFUSED")]
)
def test_a_hub_that_refuses_the_job_fails_the_run_and_says_why(hub: Hub, run_dir: Path, status: int, code: str):
    hub.faults.append(Fault("POST /api/jobs/someone", "status", status))
    run = attend(run_dir)
    assert run.state == "failed" and run.error and run.error["code"] == code
    assert hub.jobs == []


@pytest.mark.parametrize(("status", "code"), [(401, "LOGIN"), (403, "ACCESS"), (404, "MISSING")])
def test_a_login_that_ends_while_the_job_goes_on_interrupts_and_the_next_one_takes_over(
    hub: Hub, run_dir: Path, say: Say, send_adapter: Send, status: int, code: str
):
    when_submitted(hub, lambda: say(hub.jobs[-1], BEGIN[:5]))
    hub.faults.append(Fault("GET /api/jobs/.*/logs", "status", status))
    run = attend(run_dir)
    assert run.state == "interrupted" and run.error and run.error["code"] == code
    assert hub.jobs[0].job_id in run.error["remedy"] and "resume" in run.error["remedy"]
    finish(hub, say, [*DONE, send_adapter()])
    assert attend(run_dir).state == "done"
    assert told(run_dir)[:-1] == DONE and len(hub.jobs) == 1


def test_an_answer_that_was_lost_does_not_start_a_second_job(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    hub.faults.append(Fault("POST /api/jobs/someone", "drop", after_bytes=10))
    run = play(hub, say, send_adapter, run_dir)
    assert run.state == "done" and len(hub.jobs) == 1


@pytest.mark.parametrize(
    ("stage", "message", "state", "code"),
    [
        ("ERROR", "Job timeout", "failed", "TIMEOUT"),
        ("ERROR", "OOMKilled", "failed", "CRASH"),
        ("DELETED", None, "failed", "KILLED"),
        ("COMPLETED", None, "failed", "CRASH"),
        ("CANCELED", None, "cancelled", None),
    ],
)
def test_a_job_that_ends_without_a_word_ends_the_run_clearly(
    hub: Hub, run_dir: Path, say: Say, stage: str, message: str | None, state: str, code: str | None
):
    when_submitted(hub, lambda: finish(hub, say, BEGIN[:5], stage, message))
    run = attend(run_dir)
    assert run.state == state and (run.error or {}).get("code") == code
    assert told(run_dir) == BEGIN[:5] and run.losses == {1: 2.0}


def test_a_failed_run_starts_a_new_job_from_the_bundle_that_is_there(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    when_submitted(hub, lambda: finish(hub, say, BEGIN[:6], "ERROR", "Job timeout"))
    assert attend(run_dir).state == "failed"
    sent = send_adapter()

    def second() -> None:
        while len(hub.jobs) < 2:
            threading.Event().wait(0.005)
        finish(hub, say, [*DONE, sent])

    threading.Thread(target=second, daemon=True).start()
    run = attend(run_dir)
    assert run.state == "done" and sorted(run.losses) == [1, 2, 3]
    assert hub.jobs[0].spec["command"] == hub.jobs[1].spec["command"]
    assert hub.jobs[1].spec["labels"]["transmute-attempt"] == "2"


def test_an_error_of_the_run_comes_home_as_it_is(hub: Hub, run_dir: Path, say: Say):
    error = UserError("Main memory ran out.", "train", "Lower max_length.", "OOM").as_dict()
    words = [*BEGIN[:5], {"t": 9.0, "kind": "finished", "state": "failed", "error": error}]
    when_submitted(hub, lambda: finish(hub, say, words, "ERROR"))
    run = attend(run_dir)
    assert run.state == "failed" and run.error == error


def test_results_that_the_machine_could_not_send_fail_the_run_in_its_words(hub: Hub, run_dir: Path, say: Say):
    error = UserError("The Hub does not accept this login.", REPO, "Log in again.", "LOGIN").as_dict()
    when_submitted(hub, lambda: finish(hub, say, [*DONE, {"t": 10.0, "kind": "not_sent", "error": error}], "ERROR"))
    run = attend(run_dir)
    assert run.state == "failed" and run.error == error


def test_a_damaged_result_is_refused_and_fetched_again_later(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    path = "results/adapter/adapter_model.safetensors"

    def last() -> None:
        sent = send_adapter()
        files = hub.repos[("models", REPO)].files
        damaged = dict(files) | {path: b"other" * 1000}
        hub.repos[("models", REPO)].files = damaged
        commit = hub.repos[("models", REPO)].commit(damaged)
        finish(hub, say, [*DONE, sent | {"commit": commit}])

    when_submitted(hub, last)
    run = attend(run_dir)
    assert run.state == "interrupted" and run.error and run.error["code"] == "DAMAGED"
    assert artifacts.of_run(run_dir) == []


def test_a_connection_that_fails_while_results_come_home_keeps_what_is_here(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    hub.faults.append(Fault("HEAD /.*adapter_model.*", "status", 403, times=100))
    run = play(hub, say, send_adapter, run_dir)
    assert run.state == "interrupted" and runs.is_elsewhere(run_dir)
    hub.faults.clear()
    assert attend(run_dir).state == "done"
    assert [artifact.kind for artifact in artifacts.of_run(run_dir)] == ["adapter"]
    assert told(run_dir)[:-1] == DONE


def test_events_that_the_log_lost_come_from_the_results(hub: Hub, run_dir: Path, say: Say, send_adapter: Send):
    def last() -> None:
        sent = send_adapter()
        say(hub.jobs[-1], [*DONE, sent])
        del hub.jobs[-1].lines[4:6]
        hub.jobs[-1].stage = "COMPLETED"

    when_submitted(hub, last)
    run = attend(run_dir)
    assert run.state == "done" and told(run_dir)[: len(DONE)] == DONE


def test_stop_without_a_follower_cancels_the_job(hub: Hub, run_dir: Path, say: Say):
    when_submitted(hub, lambda: say(hub.jobs[-1], BEGIN[:5]))
    hub.faults.append(Fault("GET /api/jobs/.*/logs", "status", 401))
    assert dispatch.may_go_on(attend(run_dir))
    assert dispatch.stop(RUN_ID, GOOD_TOKEN).state == "cancelled"
    assert not dispatch.may_go_on(runs.load(RUN_ID))
    assert [path for path in hub.paths("POST") if path.endswith("/cancel")]


def test_a_stop_that_does_not_reach_the_hub_does_not_say_cancelled(hub: Hub, run_dir: Path, say: Say):
    when_submitted(hub, lambda: say(hub.jobs[-1], BEGIN[:5]))
    hub.faults.append(Fault("GET /api/jobs/.*/logs", "status", 401))
    attend(run_dir)
    hub.faults.append(Fault("POST /api/jobs/.*/cancel", "status", 500, times=100))
    follower.end(run_dir, GOOD_TOKEN)
    run = events.fold(events.read(run_dir))
    assert run.state == "interrupted" and run.error and "cost" in run.error["remedy"]
    assert hub.jobs[0].stage == "SCHEDULING"


def test_a_stranger_can_neither_listen_nor_stop(hub: Hub, run_dir: Path, say: Say):
    when_submitted(hub, lambda: say(hub.jobs[-1], BEGIN[:5]))
    hub.faults.append(Fault("GET /api/jobs/.*/logs", "status", 401))
    attend(run_dir)
    run = attend(run_dir, OTHER_TOKEN)
    assert run.state == "interrupted" and run.error and run.error["code"] == "LOGIN"
    with pytest.raises(UserError):
        dispatch.stop(RUN_ID, OTHER_TOKEN)


def test_nobody_logged_in_is_said_before_anything_is_written(hub: Hub, workspace: Path):
    from core.jobs.target import Target
    from core.training.presets import preset

    with pytest.raises(UserError) as refused:
        dispatch.create(preset("demo"), Target("cpu-basic"), None)
    assert refused.value.code == "LOGIN" and not (workspace / "runs").exists()


def test_the_last_thing_a_machine_printed_is_said_when_its_run_could_not_begin(hub: Hub, run_dir: Path, say: Say):
    def last() -> None:
        hub.jobs[-1].lines += ["Collecting torch", f"The bundle could not be fetched: {GOOD_TOKEN}", ""]
        hub.jobs[-1].stage = "ERROR"

    when_submitted(hub, last)
    run = attend(run_dir)
    assert run.state == "failed" and run.error and "The bundle could not be fetched: [secret]" in run.error["problem"]


def test_a_program_that_starts_again_listens_again_to_what_nobody_listens_to(hub: Hub, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    events.append(run_dir, "started", pid=1)
    begun: list[tuple[str, str | None]] = []
    monkeypatch.setattr(runs, "start", lambda run_id, token: begun.append((run_id, token)))
    assert dispatch.take_up(None) == [] and begun == []
    assert dispatch.take_up(GOOD_TOKEN) == [RUN_ID] and begun == [(RUN_ID, GOOD_TOKEN)]
    events.append(run_dir, "finished", state="cancelled")
    assert dispatch.take_up(GOOD_TOKEN) == []


def test_runs_that_cannot_be_taken_up_say_why_and_keep_no_other_from_it(
    hub: Hub, run_dir: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
):
    events.append(run_dir, "started", pid=1)
    refused, broken, good = (paths.new_run_id() for _ in range(3))
    for name in (refused, broken, good):
        told_of = shutil.copytree(run_dir, paths.runs_dir() / name) / events.FILE_NAME
        told_of.write_text(told_of.read_text(encoding="utf-8").replace(RUN_ID, name), encoding="utf-8")
    shutil.rmtree(run_dir)
    (runs.folder(broken) / endings.SUPERVISOR_LOG).mkdir()  # so that the real start cannot write into it
    begun: list[str] = []
    start = runs.start

    def begin(run_id: str, token: str | None) -> None:
        if run_id == refused:
            raise UserError("This run may not start.", run_id, "Ask its owner.")
        if run_id == broken:
            start(run_id, token)
        begun.append(run_id)

    monkeypatch.setattr(runs, "start", begin)
    assert dispatch.take_up(GOOD_TOKEN) == [good] == begun
    notes = {
        name: [event["text"] for event in events.read(runs.folder(name)) if event["kind"] == "note"] for name in (refused, broken, good)
    }
    assert notes[good] == [] and notes[refused] == ["Nobody listens to this run's job: This run may not start. Ask its owner."]
    assert notes[broken] == ["Nobody listens to this run's job: Is a directory"]
    assert dispatch.take_up(GOOD_TOKEN) == [good], "the others stay as they are, and are tried again"


def test_a_run_whose_job_may_go_on_is_not_deleted(hub: Hub, run_dir: Path, say: Say):
    when_submitted(hub, lambda: say(hub.jobs[-1], BEGIN[:5]))
    hub.faults.append(Fault("GET /api/jobs/.*/logs", "status", 401))
    attend(run_dir)
    with pytest.raises(UserError, match="may still go on"):
        care.delete(RUN_ID)
    dispatch.stop(RUN_ID, GOOD_TOKEN)
    assert care.delete(RUN_ID) > 0 and not run_dir.exists()

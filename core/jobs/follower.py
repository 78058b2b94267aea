"""Looks after a run on a rented machine: sends it, listens to it, brings its results home. Holds the run's lock, like a supervisor.

Started by `core.running.runs.start` as ``python -m core.jobs.follower RUN_DIR LOCK_FD`` with the caller's token on its standard input.
Whatever it has done stands in the run's events, so that it can be killed at any time and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from core import events, paths, process
from core.errors import UserError
from core.events import Event
from core.jobs import bundle, client, results, target
from core.jobs.listen import Listener
from core.running import runs

CANCEL_S = 20.0  # within the patience of `runs.stop`
LOOK_S = 1.0


class StopRequested(BaseException):
    """Raised in the main thread by SIGTERM: somebody wants the job to end."""


def main(run_dir: Path, token: str | None) -> int:
    signal.signal(signal.SIGTERM, _on_sigterm)
    known = process.identity(os.getpid())
    assert known
    paths.write_json(run_dir / "process.json", dataclasses.asdict(known))
    try:
        attend(run_dir, token)
    except StopRequested:
        end(run_dir, token)
    except UserError as error:
        leave(run_dir, error)
        return 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: whatever it was, the run must not stay "running"
        traceback.print_exception(error)
        remedy = "supervisor.log in the run's folder has the details."
        leave(run_dir, UserError("Something went wrong that Transmute did not foresee.", "the run", remedy))
        return 1
    return 0


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise StopRequested


@contextmanager
def whole() -> Generator[None]:
    """A stop that comes within the block is heard behind it: a job that was started is also written down."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclasses.dataclass(frozen=True)
class Submitted:
    """The newest job of a run, as its events tell it."""

    job_id: str
    url: str
    attempt: int
    first: int  # number of the next event that is not here yet
    has_ended: bool
    others: tuple[str, ...] = ()  # jobs of the other machines, where several train together

    @property
    def all_ids(self) -> tuple[str, ...]:
        return (self.job_id, *self.others)


def submitted(log: list[Event]) -> Submitted | None:
    attempts = [index for index, event in enumerate(log) if event["kind"] == "job_submitted"]
    if not attempts:
        return None
    made, since = log[attempts[-1]], log[attempts[-1] :]
    first = max((int(event["n"]) + 1 for event in since if "n" in event), default=0)
    others = tuple(str(event["job_id"]) for event in since if event["kind"] == "job_joined")
    return Submitted(made["job_id"], made["url"], len(attempts), first, any(event["kind"] == "job_ended" for event in since), others)


def attend(run_dir: Path, token: str | None) -> None:
    """From wherever the run stands to its end.

    Raises:
        UserError: the Hub refuses something, or cannot be reached for what cannot wait.
    """
    job, log = target.of_run(run_dir), list(events.read(run_dir))
    current = submitted(log)
    if current is None or current.has_ended:
        current = _start(run_dir, job, log, 1 + (current.attempt if current else 0), token)
    elif len(current.all_ids) < job.nodes:
        current = _join(run_dir, job, current, log, token)
    else:
        _take_up(run_dir, log)
    listener = Listener(run_dir, job, current.job_id, current.first, token)
    listener.listen()
    client.end(job, current.others, token)  # without the first machine the others cannot go on
    _conclude(run_dir, job, listener, token)


def _start(run_dir: Path, job: target.Job, log: list[Event], attempt: int, token: str | None) -> Submitted:
    sent = next((event for event in log if event["kind"] == "bundled"), None) or _send_bundle(run_dir, job, token)
    events.append(run_dir, "waiting", waiting_for=f"a {job.flavour} machine", device="")
    (run_dir / runs.LOG).unlink(missing_ok=True)
    with whole():
        job_id, url = client.submit(job, run_dir.name, attempt, sent, token)
        events.append(run_dir, "job_submitted", job_id=job_id, url=url, flavour=job.flavour, image=job.image, timeout_s=job.timeout_s)
    events.append(run_dir, "note", text=f"Job {job_id} on {job.flavour}, at most {job.timeout_s // 60} minutes: {url}")
    return _join(run_dir, job, Submitted(job_id, url, attempt, 0, False), list(events.read(run_dir)), token)


def _join(run_dir: Path, job: target.Job, first: Submitted, log: list[Event], token: str | None) -> Submitted:
    """Start the other machines of the job that are not there yet. Where one cannot be had, none goes on."""
    sent = next(event for event in log if event["kind"] == "bundled")
    joined = list(first.others)
    try:
        for rank in range(1 + len(joined), job.nodes):
            with whole():
                job_id, url = client.submit(job, run_dir.name, first.attempt, sent, token, rank)
                events.append(run_dir, "job_joined", job_id=job_id, url=url, rank=rank)
            joined.append(job_id)
            events.append(run_dir, "note", text=f"Machine {rank} of {job.nodes} is job {job_id}: {url}")
    except UserError:
        with contextlib.suppress(UserError):
            client.end(job, (first.job_id, *joined), token)
            events.append(run_dir, "job_ended", stage="CANCELED")
        raise
    return dataclasses.replace(first, others=tuple(joined))


def _send_bundle(run_dir: Path, job: target.Job, token: str | None) -> Event:
    events.append(run_dir, "waiting", waiting_for=f"its bundle to reach {job.repo_id}", device="")
    events.append(run_dir, "bundled", **bundle.send(run_dir, job.repo_id, token))
    return list(events.read(run_dir))[-1]


def _take_up(run_dir: Path, log: list[Event]) -> None:
    """The run as its machine told it last, which an interruption here had covered."""
    told = events.fold(event for event in log if "n" in event)
    if told.started_s:
        events.append(run_dir, "started", pid=os.getpid())
        for step in told.steps:
            if step.state == "running":
                events.append(run_dir, "step_started", step=step.name)


def _conclude(run_dir: Path, job: target.Job, listener: Listener, token: str | None) -> None:
    """The last words of a job that has ended; the results first, so that a run that is done has them."""
    finished = listener.finished()
    if finished is None:
        error = _without_a_word(job, listener)
        state = "cancelled" if listener.stage.name == "CANCELED" else "failed"
        events.append(run_dir, "job_ended", stage=listener.stage.name)
        events.append(run_dir, "finished", state=state, **({} if state == "cancelled" else {"error": error.as_dict()}))
        return
    if refused := listener.not_sent():
        events.append(run_dir, "job_ended", stage=listener.stage.name)
        listener.release(but=("finished",))
        events.append(run_dir, "finished", state="failed", error=refused)
        return
    if finished["state"] == "done":
        sent = listener.sent()
        if job.results == "home":
            base = paths.read_json(run_dir / "launch.json")["model"]
            results.fetch(run_dir, job.repo_id, sent, token, base, lambda done, total: _fetching(run_dir, done, total))
        else:
            events.append(run_dir, "note", text=f"The results stay in {job.repo_id} at {sent['commit']}.")
        events.append(run_dir, "facts", facts={"repository": {"repo_id": job.repo_id, "commit": sent["commit"]}})
        (run_dir / runs.JOB).with_suffix(".done").touch()
    events.append(run_dir, "job_ended", stage=listener.stage.name)
    listener.release()


def _fetching(run_dir: Path, done: int, total: int) -> None:
    events.append(run_dir, "progress", step="home", done=done, total=total, text=f"Bringing the results home: file {done + 1} of {total}")


def _without_a_word(job: target.Job, listener: Listener) -> UserError:
    """Why a job ended whose run did not say how."""
    stage, url = listener.stage, listener.url
    if any(word in stage.message.lower() for word in ("timeout", "timed out")) or (stage.running_s or 0) >= job.timeout_s:
        remedy = "Resume the run: it goes on from the checkpoint it had kept. A longer --timeout, or a faster flavour, saves that."
        return UserError(f"The job reached its time limit of {job.timeout_s // 60} minutes.", url, remedy, "TIMEOUT")
    if stage.name == "DELETED":
        return UserError("The job was deleted on the Hub.", url, "Resume the run to start a new job.", "KILLED")
    said = "; ".join(words for words in (stage.message, listener.last_line()) if words)
    problem = f"The job ended as {stage.name} before its run said how{f' ({said})' if said else ''}."
    return UserError(problem, url, "The end of `logs RUN` may say more. Resume the run to start a new job.", "CRASH")


def end(run_dir: Path, token: str | None) -> None:
    """Cancel the job, and say so only when it is true."""
    job, current = target.of_run(run_dir), submitted(list(events.read(run_dir)))
    if current is None or current.has_ended:
        events.append(run_dir, "finished", state="cancelled")
        return
    try:
        client.end(job, current.all_ids, token)
        deadline = time.monotonic() + CANCEL_S
        while not (stage := client.stage(job, current.job_id, token)).is_terminal and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        if not stage.is_terminal:
            raise UserError("The job has not ended yet.", current.url, "Look at it on the Hub; `stop RUN` asks once more.", "NET")
        listener = Listener(run_dir, job, current.job_id, current.first, token)
        listener.catch_up()
    except UserError as error:
        leave(run_dir, error)
        return
    events.append(run_dir, "job_ended", stage=stage.name)
    listener.release(but=("finished",))
    events.append(run_dir, "finished", state="cancelled")


def leave(run_dir: Path, error: UserError) -> None:
    """Say why nobody listens any more. A job that was started and has not ended goes on, and so the run can be taken up again."""
    current = submitted(list(events.read(run_dir)))
    if current is None or current.has_ended:
        events.append(run_dir, "finished", state="failed", error=error.as_dict())
        return
    remedy = f"{error.remedy} The job itself may still go on, and cost: {current.url}. `resume RUN` listens again, `stop RUN` ends it."
    events.append(run_dir, "finished", state="interrupted", error=error.as_dict() | {"remedy": remedy})


def from_stdin() -> str | None:
    return sys.stdin.readline().strip() or None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), from_stdin()))

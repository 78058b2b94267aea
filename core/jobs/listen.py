"""Listening to a job: its events into the run's own log, each exactly once, however often the connection breaks or the listener changes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from core import events
from core.errors import UserError
from core.events import Event
from core.jobs import client, results, wire
from core.jobs.client import Stage
from core.jobs.target import Job
from core.redact import redact
from core.running.runs import LOG

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LAST_LOOKS = 5  # at the log of a job that has ended, until its last words are there
LAST_WORDS = ("finished", "sent", "not_sent")  # kept back until the results are home


class Listener:
    """One job's ear. Events go into the run's log as they come; the last words wait in `held` until `release`."""

    def __init__(self, run_dir: Path, job: Job, job_id: str, first: int, token: str | None) -> None:
        self.stage = Stage("SCHEDULING")
        self.held: list[tuple[int, Event]] = []
        self._run_dir, self._job, self._job_id, self._token = run_dir, job, job_id, token
        self._inbox = wire.Inbox(first)
        self._written = _whole_lines(run_dir / LOG)

    @property
    def url(self) -> str:
        return f"job {self._job_id}"

    def last_line(self) -> str:
        """The last thing that the machine printed, without secrets."""
        log = self._run_dir / LOG
        said = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        return redact(next((line.strip() for line in reversed(said) if line.strip()), ""))[:300]

    def listen(self) -> None:
        """Until the job has ended and its last words are here, or cannot come any more. A Hub that is out of reach is waited for.

        Raises:
            UserError: the Hub does not know the job or the login any more.
        """
        wait_s, looks = FIRST_WAIT_S, 0
        while True:
            try:
                self._hear(follow=True)
                self.stage = client.stage(self._job, self._job_id, self._token)
                wait_s = FIRST_WAIT_S
            except UserError as error:
                if error.code != "NET":
                    raise
                events.append(self._run_dir, "connection_lost", problem=error.problem)
                time.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                continue
            looks += self.stage.is_terminal
            if self.stage.is_terminal and (self._has_last_words() or looks >= LAST_LOOKS):
                break
        self._fill()

    def catch_up(self) -> None:
        """What is there now, of a job that was cancelled."""
        self._hear(follow=False)
        self._flush()

    def finished(self) -> Event | None:
        return next((event for _, event in self.held if event.get("kind") == "finished"), None)

    def sent(self) -> dict[str, Any]:
        """The machine's results: commit and folders; read from the repository when its word was lost."""
        said = next((event for _, event in self.held if event.get("kind") == "sent"), None)
        return said or results.found(self._job.repo_id, self._token)

    def not_sent(self) -> dict[str, str] | None:
        """Why the machine could not send its results; None when it could."""
        return next((event["error"] for _, event in self.held if event.get("kind") == "not_sent"), None)

    def release(self, but: tuple[str, ...] = ()) -> None:
        """The last words into the run's log."""
        for number, event in self.held:
            if event.get("kind") not in but:
                self._write(number, event)
        self.held = []

    def _hear(self, follow: bool) -> None:
        at = 0
        for line in client.lines(self._job, self._job_id, self._token, follow):
            if wire.is_event(line):
                for number, event in self._inbox.take(line):
                    self._take(number, event)
                continue
            if at >= self._written:
                with (self._run_dir / LOG).open("a", encoding="utf-8") as log:
                    log.write(f"{line}\n")
                self._written += 1
            at += 1

    def _take(self, number: int, event: Event) -> None:
        if event.get("kind") in LAST_WORDS:
            self.held.append((number, event))
        else:
            self._write(number, event)

    def _write(self, number: int, event: Event) -> None:
        fields = {key: value for key, value in event.items() if key != "kind"}
        events.append(self._run_dir, str(event.get("kind")), **fields, n=number)

    def _has_last_words(self) -> bool:
        return any(event.get("kind") in ("sent", "not_sent") for _, event in self.held)

    def _fill(self) -> None:
        """What the log lost is taken from the events that the machine sent with its results."""
        if self.finished() is None and (folder := results.whole_log(self._run_dir, self._job.repo_id, self._token)):
            for number, event in self._inbox.fill(events.read(folder)):
                self._take(number, event)
        self._flush()

    def _flush(self) -> None:
        rest, missing = self._inbox.rest()
        for number, event in rest:
            self._take(number, event)
        if missing:
            events.append(self._run_dir, "note", text=f"{missing} events of the job did not arrive here.")


def _whole_lines(log: Path) -> int:
    """How many lines of the job are in `log`; a line that a crash tore is taken away."""
    if not log.is_file():
        return 0
    content = log.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        log.write_bytes(whole)
    return whole.count(b"\n")

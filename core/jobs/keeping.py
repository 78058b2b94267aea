"""Checkpoints of a job kept in its run's private repository, so that a job that is killed or runs out of time is gone on with, not begun again."""

from __future__ import annotations

import threading
from pathlib import Path

from core import events
from core.errors import UserError
from core.hubclient import api, patiently
from core.publish.preflight import Plan, PlannedFile
from core.publish.push import explain, push
from core.training import checkpoints

FOLDER = "checkpoints"


class Keeper:
    """Sends the newest sealed checkpoint while training goes on: one at a time, the newest when there are several.

    With `with_log` the run's events go with it, for a run whose log is nowhere else.
    """

    def __init__(self, run_dir: Path, repo_id: str, token: str | None, *, with_log: bool = False) -> None:
        self._run_dir, self._repo_id, self._token, self._with_log = run_dir, repo_id, token, with_log
        self._sent = ""
        self._sending: threading.Thread | None = None

    def look(self) -> None:
        """Begin to send what is new, unless something is being sent."""
        newest = newest_sealed(self._run_dir)
        if newest is None or newest.name == self._sent or (self._sending and self._sending.is_alive()):
            return
        self._sent = newest.name
        self._sending = threading.Thread(target=self._send, args=(newest,), daemon=True)
        self._sending.start()

    def close(self) -> None:
        """Send the last one and wait for it."""
        for _ in range(2):
            self.look()
            if self._sending:
                self._sending.join()

    def _send(self, folder: Path) -> None:
        try:
            log = (self._run_dir / events.FILE_NAME).read_text(encoding="utf-8") if self._with_log else ""
            send(folder, self._repo_id, self._token, log)
        except UserError as error:  # training goes on; the next checkpoint is the next chance
            events.append(self._run_dir, "checkpoint_not_kept", checkpoint=folder.name, error=error.as_dict())
        else:
            events.append(self._run_dir, "checkpoint_kept", checkpoint=folder.name)


def newest_sealed(run_dir: Path) -> Path | None:
    return next((folder for folder in checkpoints.all_of(run_dir / FOLDER) if (folder / checkpoints.MANIFEST).is_file()), None)


def send(folder: Path, repo_id: str, token: str | None, log: str = "") -> None:
    """Send one checkpoint in one commit, with the run's events so far where `log` has them, then remove the older ones.

    Raises:
        UserError: see `core.publish.push.push`.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    planned = [PlannedFile(f"{FOLDER}/{folder.name}/{path.relative_to(folder).as_posix()}", path.stat().st_size, path) for path in files]
    if log:
        planned.append(PlannedFile(f"{FOLDER}/{folder.name}/{events.FILE_NAME}", len(log.encode()), text=log))
    push(Plan(repo_id, repo_id, tuple(planned)), token)
    forget(repo_id, token, but=folder.name)


def fetch(run_dir: Path, repo_id: str, token: str | None) -> str:
    """Bring the newest kept checkpoint here and return its name; empty when there is none. Training takes it only if its hashes are right.

    Raises:
        UserError: the Hub cannot be reached.
    """
    kept = sorted(_kept(repo_id, token), key=lambda name: checkpoints.step_of(Path(name)))
    if not kept:
        return ""
    hub, pattern = api(token), f"{FOLDER}/{kept[-1]}/*"
    patiently(lambda: hub.snapshot_download(repo_id, allow_patterns=[pattern], local_dir=run_dir), lambda error: explain(error, repo_id))
    return kept[-1]


def forget(repo_id: str, token: str | None, but: str = "") -> None:
    """Remove the kept checkpoints, except `but`."""
    from huggingface_hub import CommitOperationDelete

    gone = [CommitOperationDelete(f"{FOLDER}/{name}/", is_folder=True) for name in sorted(_kept(repo_id, token)) if name != but]
    if gone:
        hub = api(token)
        message = f"Remove {len(gone)} checkpoints"
        patiently(lambda: hub.create_commit(repo_id, gone, commit_message=message), lambda error: explain(error, repo_id))


def _kept(repo_id: str, token: str | None) -> set[str]:
    hub = api(token)
    tree = patiently(lambda: list(hub.list_repo_tree(repo_id, recursive=True)), lambda error: explain(error, repo_id))
    names = {entry.path.split("/")[1] for entry in tree if entry.path.startswith(f"{FOLDER}/{checkpoints.PREFIX}")}
    return {name for name in names if name.removeprefix(checkpoints.PREFIX).isdigit()}

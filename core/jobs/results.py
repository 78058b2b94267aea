"""What a finished job leaves: its artifacts with their hashes, sent to the run's private repository and fetched home from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import events, paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import MANIFEST, Artifact
from core.hubclient import api, patiently
from core.publish.preflight import ALLOWED_SUFFIXES, NEVER, Plan, PlannedFile
from core.publish.push import explain, push
from core.redact import redact

FOLDER, INCOMING = "results", "incoming"
LOGS = (events.FILE_NAME, "worker.log")
OnFile = Callable[[int, int], None]


def plan(run_dir: Path, repo_id: str) -> Plan:
    """The files of a run's artifacts that may travel, their manifests, and the run's logs without secrets."""
    files: list[PlannedFile] = []
    for artifact in artifacts.of_run(run_dir):
        folder = artifact.folder
        for entry in artifact.files:
            if Path(entry.name).suffix in ALLOWED_SUFFIXES and not NEVER.search(entry.name):
                files.append(PlannedFile(f"{FOLDER}/{folder.name}/{entry.name}", entry.size_bytes, folder / entry.name))
        files.append(PlannedFile(f"{FOLDER}/{folder.name}/{MANIFEST}", (folder / MANIFEST).stat().st_size, folder / MANIFEST))
    for name in LOGS:
        if (run_dir / name).is_file():
            text = redact((run_dir / name).read_text(encoding="utf-8", errors="replace"))
            files.append(PlannedFile(f"{FOLDER}/{name}", len(text.encode()), text=text))
    return Plan(repo_id, repo_id, tuple(files))


def send(run_dir: Path, repo_id: str, token: str | None) -> dict[str, Any]:
    """Send a run's results in one commit; returns ``{"commit", "folders": [...]}``.

    Raises:
        UserError: see `core.publish.push.push`.
    """
    pushed = push(plan(run_dir, repo_id), token)
    return {"commit": pushed.commit or head(repo_id, token), "folders": [artifact.folder.name for artifact in artifacts.of_run(run_dir)]}


def fetch(
    run_dir: Path, repo_id: str, sent: dict[str, Any], token: str | None, base: dict[str, Any], on_file: OnFile = lambda _done, _all: None
) -> None:
    """Bring the artifacts home. Each appears whole, with every file as its manifest hashes it; what is here already is not fetched again.

    Args:
        sent: what `send` returned on the other machine.
        base: ``launch.json``'s model here, which an adapter is chatted with.

    Raises:
        UserError: the Hub cannot be reached, the disk is full, or a file is not what was sent (code DAMAGED).
    """
    for name in sent["folders"]:
        if not paths.ID_PATTERN.fullmatch(name.lower().replace("_", "-").replace(".", "-")):
            raise UserError(
                f"The results name a folder {name!r}.", repo_id, "Look at the repository; this is not what was sent.", "DAMAGED"
            )
        if (run_dir / "artifacts" / name / MANIFEST).is_file():
            continue
        folder = run_dir / INCOMING / FOLDER / name
        _download(run_dir / INCOMING, repo_id, sent["commit"], f"{FOLDER}/{name}/{MANIFEST}", token)
        artifact = artifacts.read(folder)
        wanted = [entry for entry in artifact.files if Path(entry.name).suffix in ALLOWED_SUFFIXES and not NEVER.search(entry.name)]
        paths.require_disk(run_dir, sum(entry.size_bytes for entry in wanted), "Bringing the results home")
        for done, entry in enumerate(wanted):
            on_file(done, len(wanted))
            file = _download(run_dir / INCOMING, repo_id, sent["commit"], f"{FOLDER}/{name}/{entry.name}", token)
            if paths.sha256_file(file) != entry.sha256:
                file.unlink()
                raise UserError(f"{name}/{entry.name} is not what was sent.", repo_id, "Resume the run: it is fetched again.", "DAMAGED")
        _settle(artifact, base, [entry.name for entry in wanted])
        (run_dir / "artifacts").mkdir(exist_ok=True)
        os.replace(folder, run_dir / "artifacts" / name)
        paths.fsync(run_dir / "artifacts")
    shutil.rmtree(run_dir / INCOMING, ignore_errors=True)


def whole_log(run_dir: Path, repo_id: str, token: str | None) -> Path | None:
    """A folder with the other machine's own events, when it could still send them."""
    try:
        return _download(run_dir / INCOMING, repo_id, "main", f"{FOLDER}/{events.FILE_NAME}", token).parent
    except UserError:
        return None


def _settle(artifact: Artifact, base: dict[str, Any], names: list[str]) -> None:
    """The manifest as it is true here: the base model lies elsewhere than on the other machine."""
    here = {"base_model": base["name"], "base_path": base["path"] if artifact.base_path else None}
    kept = tuple(entry for entry in artifact.files if entry.name in names)
    settled = artifact.model_copy(update=here | {"files": kept})
    paths.write_text(artifact.folder / MANIFEST, settled.model_dump_json(indent=2) + "\n")


def _download(folder: Path, repo_id: str, revision: str, path: str, token: str | None) -> Path:
    hub = api(token)
    return Path(
        patiently(lambda: hub.hf_hub_download(repo_id, path, revision=revision, local_dir=folder), lambda error: explain(error, repo_id))
    )


def head(repo_id: str, token: str | None) -> str:
    """The newest commit of a repository."""
    return str(patiently(lambda: api(token).model_info(repo_id).sha, lambda error: explain(error, repo_id)))


def found(repo_id: str, token: str | None) -> dict[str, Any]:
    """What `send` would have said, read from the repository itself."""
    commit = head(repo_id, token)
    tree = patiently(
        lambda: [entry.path for entry in api(token).list_repo_tree(repo_id, recursive=True, revision=commit)],
        lambda error: explain(error, repo_id),
    )
    folders = sorted({path.split("/")[1] for path in tree if path.startswith(f"{FOLDER}/") and path.endswith(f"/{MANIFEST}")})
    return {"commit": commit, "folders": folders}

"""What was published from this workspace: one line a publication, never a token."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from core import paths

LEDGER = "publications.jsonl"


def remember(address: str, kind: str, **fields: Any) -> None:
    """Add a line to the workspace's list of publications. `address` is USER/NAME, after ``datasets/`` or ``spaces/`` where it is one."""
    path = paths.home() / LEDGER
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"t": round(time.time(), 3), "repo_id": address, "kind": kind, **fields}) + "\n")


def ledger() -> Iterator[dict[str, Any]]:
    """What was published, oldest first: t, repo_id (the address), kind (created, committed, pull_request, or failed), commit, sources (ids).

    What failed says `why`.
    """
    path = paths.home() / LEDGER
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # torn by a crash


def is_ours(address: str) -> bool:
    """Whether this workspace made the repository."""
    return any(entry["repo_id"] == address and entry["kind"] == "created" for entry in ledger())


def was_asked(address: str) -> bool:
    """Whether this workspace reached the repository by pull request and did not make it."""
    kinds = {entry["kind"] for entry in ledger() if entry["repo_id"] == address}
    return "pull_request" in kinds and "created" not in kinds


def home_of(source: str | None) -> str:
    """The repository that holds the artifact or dataset `source` by a commit of ours, the newest one; empty when there is none."""
    held = [entry["repo_id"] for entry in ledger() if entry["kind"] == "committed" and source in entry.get("sources", ())]
    return held[-1] if held else ""


def is_published(address: str, sources: Iterable[str]) -> bool:
    """Whether all of `sources` were sent to the repository, by a commit or a pull request."""
    sent = {
        source
        for entry in ledger()
        if entry["repo_id"] == address and entry["kind"] in ("committed", "pull_request")
        for source in entry.get("sources", ())
    }
    return set(sources) <= sent

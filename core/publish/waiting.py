"""Runs whose result shall be published when they are done, and was not yet. No token is kept for that: the result waits for a login."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from core import paths
from core.events import Run
from core.export import artifacts
from core.publish.ledger import is_published


@dataclass(frozen=True)
class Waiting:
    """What waits, and where to. `sources` are the GGUF files where there are any, else the merged model, else the adapter."""

    run_id: str
    name: str
    repo_id: str
    sources: tuple[str, ...]


def waiting(run: Run) -> Waiting | None:
    """What of `run` waits to be published; None when nothing does. Levels that were added later do not wait again."""
    if run.state != "done" or not run.publish_to:
        return None
    made = artifacts.of_run(paths.runs_dir() / run.run_id)
    by_kind = ([artifact.id for artifact in made if artifact.kind == kind] for kind in ("gguf", "merged", "adapter"))
    sources = next((ids for ids in by_kind if ids), [])
    if not sources or any(is_published(run.publish_to, [source]) for source in sources):
        return None
    return Waiting(run.run_id, run.name, run.publish_to, tuple(sources))


def all_waiting(runs: Iterable[Run]) -> list[Waiting]:
    """What of all these runs waits, in their order."""
    return [found for run in runs if (found := waiting(run))]

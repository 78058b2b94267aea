"""What is imported, and where an import stands: a pure fold of its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from core import events, paths
from core.data.mapping import ColumnMapping
from core.data.origin import HubRef, OriginKind

State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
TERMINAL_STATES: tuple[State, ...] = ("done", "failed", "cancelled", "interrupted")


class ImportSource(BaseModel):
    """What to import: a file (`path`), a `text`, or a dataset of the Hub."""

    model_config = ConfigDict(frozen=True)

    kind: OriginKind
    path: str = ""  # for upload (removed at the end), path and example
    text: str = ""  # for pasted
    hub: HubRef | None = None
    name: str | None = None  # of the dataset; None: after the file
    mapping: ColumnMapping | None = None  # None: the layout is found out


class ImportJob(BaseModel):
    """Where an import stands."""

    model_config = ConfigDict(frozen=True)

    job_id: str
    kind: OriginKind
    name: str
    state: State = "queued"
    stage: Literal["", "fetching", "checking"] = ""
    done_bytes: int = 0  # of the stage
    total_bytes: int = 0
    rows: int = 0
    rows_per_s: float | None = None
    eta_s: float | None = None  # of the stage; None while nobody can say
    dataset_id: str | None = None
    error: dict[str, str] | None = None  # as `UserError.as_dict`
    created_s: float = 0.0
    ended_s: float = 0.0

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL_STATES


def fold(job_dir: Path) -> ImportJob:
    """The job that its events describe."""
    source = ImportSource.model_validate(paths.read_json(job_dir / "job.json"))
    name = source.name or (source.hub.repo_id if source.hub else Path(source.path).name or "Pasted text")
    fields: dict[str, Any] = {"job_id": job_dir.name, "kind": source.kind, "name": name}
    stage_began = 0.0
    for event in events.read(job_dir):
        at = float(event["t"])
        match event["kind"]:
            case "created":
                fields["created_s"] = at
            case "started":
                fields["state"] = "running"
            case "progress":
                stage, done, total, rows = event["stage"], event["done"], event["total"], event["rows"]
                if stage != fields.get("stage"):
                    stage_began = at
                elapsed_s = at - stage_began
                fields |= {"stage": stage, "done_bytes": done, "total_bytes": total, "rows": rows}
                fields["rows_per_s"] = rows / elapsed_s if rows and elapsed_s > 0 else None
                fields["eta_s"] = (total - done) * elapsed_s / done if done and elapsed_s > 0 else None
            case "finished" if "ended_s" not in fields:
                fields |= {"state": event["state"], "ended_s": at, "error": event.get("error"), "dataset_id": event.get("dataset_id")}
                fields["eta_s"] = None
            case _:
                continue
    return ImportJob.model_validate(fields)

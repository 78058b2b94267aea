"""The logs of a run in one file for somebody to take along: what it did and said, without secrets."""

from __future__ import annotations

import zipfile
from pathlib import Path

from core import events
from core.redact import redact
from core.running import endings, runs

TEXTS = (events.FILE_NAME, runs.LOG, endings.SUPERVISOR_LOG, "recipe.yaml", "dataset.json")
TENSORBOARD = "events.out.tfevents.*"
TRACKIO = "trackio/*.db"


def has_trackio(run_id: str) -> bool:
    return any(runs.folder(run_id).glob(TRACKIO))


def write_logs(run_id: str, to: Path) -> None:
    """Write events, logs, recipe, TensorBoard and trackio files of a run into the zip file `to`. Texts are read line by line, so any length will do.

    Raises:
        UserError: there is no such run.
    """
    run_dir = runs.folder(run_id)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in TEXTS:
            if not (run_dir / name).is_file():
                continue
            with (run_dir / name).open(encoding="utf-8", errors="replace") as text, archive.open(f"{run_id}/{name}", "w") as packed:
                for line in text:
                    packed.write(redact(line).encode())
        for path in sorted([*run_dir.rglob(TENSORBOARD), *run_dir.glob(TRACKIO)]):
            archive.write(path, f"{run_id}/{path.relative_to(run_dir)}")

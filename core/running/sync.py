"""Offline runs of Weights & Biases sent to its server at one request, with a key that is used for that request and lies nowhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.process import STILL_S, call_child
from core.running import runs

FOLDERS = "wandb/offline-run-*"  # in a run's folder, where WANDB_DIR has them made
SYNCED = "*.wandb.synced"  # the mark that the client leaves


def unsent(run_id: str) -> list[Path]:
    """The offline runs of `run_id` that were not sent yet, one for each time it was started."""
    return [folder for folder in sorted(runs.folder(run_id).glob(FOLDERS)) if not any(folder.glob(SYNCED))]


def has_offline(run_id: str) -> bool:
    return any(runs.folder(run_id).glob(FOLDERS))


def send(run_id: str, key: str) -> list[str]:
    """Send what was not sent yet, to ``WANDB_BASE_URL`` or where the client sends by itself; returns the pages of the runs.

    The key goes to a child's standard input and from there to the client's settings, not into an environment or a file.

    Raises:
        UserError: there is nothing to send, no key, no package (PACKAGE), or the server does not take it (code SYNC).
    """
    found = unsent(run_id)
    if not found:
        said = "Everything was sent already." if has_offline(run_id) else "The run has written nothing for Weights & Biases."
        raise UserError(said, run_id, "Set report_to to wandb in the recipe to have it written.")
    if not key.strip():
        raise UserError("There is no key.", "Weights & Biases", "Copy yours from https://wandb.ai/authorize.")
    payload: dict[str, Any] = {
        "key": key.strip(),
        "folders": [str(folder) for folder in found],
        "url": os.environ.get("WANDB_BASE_URL", ""),
    }
    quiet = {"WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(runs.folder(run_id))}
    return call_child("core.running.sync_child", payload, step="sending to Weights & Biases", timeout_s=STILL_S, extra_env=quiet)

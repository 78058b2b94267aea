"""What a run wrote for Weights & Biases or trackio sent at one request, with a key or token that is used for that request and lies nowhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.process import STILL_S, call_child
from core.running import runs
from core.training.launch import PROJECT, TRACKERS

FOLDERS = "wandb/offline-run-*"  # in a run's folder, where WANDB_DIR has them made
SYNCED = "*.wandb.synced"  # the mark that the client leaves
SPACE_FILE = "trackio_space.json"  # in a run's folder: the Space that its curves were sent to
SPACE = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
BUILT_S = 1200.0  # trackio waits up to 14 minutes, without a word, for a new Space to be built


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


def space_of(run_id: str) -> str:
    """The Space that the run's curves were sent to; empty where they were not."""
    kept = runs.folder(run_id) / SPACE_FILE
    return str(paths.read_json(kept)["space"]) if kept.is_file() else ""


def send_to_space(run_id: str, space: str, token: str | None) -> dict[str, Any]:
    """Send what the run has written for trackio to the private Space `space` (OWNER/NAME), which is made where there is none.

    By trackio's own ``sync``: the curves lie in a private bucket that the Space reads. The token goes to a child's standard input and stays
    in that process; unlike trackio by itself, it is not left in the Space as a secret.

    Returns:
        ``page`` of the Space, and ``is_running``: False while it is still being built.

    Raises:
        UserError: there is nothing to send, no token, no package (PACKAGE), a Space with something else, or it was not sent (code SYNC).
    """
    run_dir = runs.folder(run_id)
    if not any((run_dir / "trackio").glob("*.db")):
        raise UserError("The run has written nothing for trackio.", run_id, "Set report_to to trackio in the recipe to have it written.")
    space = space.strip()
    if not SPACE.fullmatch(space):
        raise UserError(f"{space!r} names no Space.", "trackio", "Write it as YOU/NAME, for example ada/argo-curves.")
    if not (token or "").strip():
        raise UserError(
            "There is no token.", "trackio", "Sign in, or give one that may write, from https://huggingface.co/settings/tokens."
        )
    return call_child(
        "core.running.trackio_child",
        {"token": str(token).strip(), "space": space, "project": PROJECT, "is_ours": space == space_of(run_id)},
        step="sending to a Space",
        on_event=lambda _: paths.write_json(run_dir / SPACE_FILE, {"space": space}),
        timeout_s=BUILT_S,
        extra_env=TRACKERS["trackio"](run_dir) | {"HF_HUB_OFFLINE": "0"},
    )

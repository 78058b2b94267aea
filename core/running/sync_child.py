"""The child of `core.running.sync`: wandb's own ``sync`` with a key that its settings are given."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.errors import UserError

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PAGE = re.compile(r"https?://\S+/runs/\S+")
WHERE = "Weights & Biases"


def handle(payload: dict[str, Any], emit: Emit) -> list[str]:
    """Raises UserError: the package is not installed, or something was not sent."""
    try:
        import wandb
        from wandb.cli import cli
    except ImportError:
        raise UserError("The package wandb is not installed.", WHERE, "Install it: pip install wandb.", "PACKAGE") from None
    key, folders = payload["key"], payload["folders"]
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            wandb.setup(wandb.Settings(api_key=key, **({"base_url": payload["url"]} if payload["url"] else {})))
            cli.sync.main(["--yes", *folders], standalone_mode=False)
            wandb.teardown()
    except Exception as error:  # noqa: BLE001 - wandb and click have errors of many kinds, and all of them are answered in words
        told.write(f"\n{type(error).__name__}: {error}")
    said = COLOURS.sub("", told.getvalue()).replace(key, "[secret]")
    if all(any(Path(folder).glob("*.wandb.synced")) for folder in folders):
        return sorted(set(PAGE.findall(said)))
    lines = [line.removeprefix("wandb:").strip() for line in said.splitlines() if line.strip()]
    problem = f"The server did not take it: {' '.join(lines[-3:])[:400]}"
    raise UserError(problem, WHERE, "Look at the key and the network, then send again: what is there is not sent twice.", "SYNC")


if __name__ == "__main__":
    serve(handle)

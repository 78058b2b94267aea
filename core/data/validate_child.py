"""The child that judges a file for whoever asks over the network: what it is given can take the child down, and nobody else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.data.validate import validate


def handle(payload: dict[str, Any], _emit: Emit) -> dict[str, Any]:
    report = validate(Path(payload["path"]))
    return report.model_copy(update={"issues": report.issues[: payload["num_issues"]]}).model_dump(mode="json")


if __name__ == "__main__":
    serve(handle)

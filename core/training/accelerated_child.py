"""The child that has accelerate read a configuration file: importing accelerate takes seconds and torch, which the page never imports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.errors import UserError


def handle(payload: dict[str, Any], emit: Emit) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "accelerate.yaml"
        file.write_text(payload["text"], encoding="utf-8")
        try:
            load_config_from_file(str(file))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"accelerate does not take it: {error}", "accelerate_yaml", "Correct what it names.") from None


if __name__ == "__main__":
    serve(handle)

"""The child of `core.data.imports.look`: a file's layout and first rows, found out where a file can do no harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.data.datafile import DataFile, preview
from core.data.mapping import ColumnMapping


def handle(payload: dict[str, Any], _emit: Emit) -> dict[str, Any]:
    path = Path(payload["path"])
    mapping = ColumnMapping.model_validate(payload["mapping"]) if payload["mapping"] else None
    layout = DataFile(path, mapping).layout
    rows = preview(path, mapping, payload["n"])
    return {"layout": layout.model_dump(mode="json"), "rows": [row.model_dump(mode="json") for row in rows]}


if __name__ == "__main__":
    serve(handle)

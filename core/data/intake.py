"""What may become a dataset, and what its source is called there."""

from __future__ import annotations

from pathlib import Path

from core.data.layouts import Layout
from core.data.rules import shorten
from core.data.validate import Report
from core.errors import UserError


def require_known(layout: Layout, path: Path) -> None:
    """UserError (code LAYOUT) when somebody has to say first what the columns mean."""
    if layout.kind == "unknown" and layout.columns:
        named = ", ".join(shorten(column.name) for column in layout.columns[:12])
        raise UserError(
            f"{path.name} has no known layout. {layout.why}", str(path), f"Say which of {named} hold question and answer.", "LAYOUT"
        )


def require_text(report: Report, path: Path) -> None:
    """UserError when the file could not be read at all."""
    refused = next((issue for issue in report.issues if issue.code in ("not-a-text-file", "empty-file", "broken-parquet")), None)
    if refused:
        raise UserError(refused.problem, str(path), refused.remedy)


def source_name(layout: Layout, path: Path) -> str:
    """The name of the source file in a dataset's folder: its ending says how to read it again."""
    if layout.container != "json":
        return f"source.{layout.container}"
    return "source.json" if _is_list(path) else "source.jsonl"


def _is_list(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1 << 12).lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n").startswith(b"[")

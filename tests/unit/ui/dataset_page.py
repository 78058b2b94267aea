"""For tests of the Dataset tab: handlers called as the page calls them, and datasets made of a few rows."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.data.dataset import Dataset, import_dataset

SETTINGS = ("starter", 64, "answers")


def call(handler: Any, *values: Any, **named: Any) -> dict[str, Any]:
    """What the handler changes; of one that goes on for a while, everything together with the last word of each output."""
    found = handler(None, None, *values, **named)
    if not isinstance(found, Iterator):
        return found
    shown: dict[str, Any] = {}
    for part in found:
        shown |= part
    return shown


def talk(*contents: str, identifier: str = "a") -> dict[str, Any]:
    turns = [{"from": "gpt" if number % 2 else "human", "value": content} for number, content in enumerate(contents)]
    return {"id": identifier, "conversations": turns}


def make(folder: Path, rows: list[Any], name: str = "mine") -> Dataset:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return import_dataset(path)


def visible(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))

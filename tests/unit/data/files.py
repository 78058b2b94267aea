"""Data files for the tests, written by hand so that every row's line and byte are known without the code under test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.data.validate import Issue, Report, validate


def record(number: int = 0, **extra: Any) -> dict[str, Any]:
    """A good record, different for every number."""
    turns = [{"from": "human", "value": f"Question {number}?"}, {"from": "gpt", "value": f"Answer {number}."}]
    return {"id": f"row_{number}", "conversations": turns, **extra}


def talk(*turns: tuple[str, Any], **extra: Any) -> dict[str, Any]:
    """A record of these (from, value) turns."""
    return {"id": "talk", "conversations": [{"from": role, "value": value} for role, value in turns], **extra}


def dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass
class Written:
    """A file and where each of its records starts."""

    path: Path
    places: list[tuple[int, int]]  # (line, byte) of each row


def write_list(path: Path, records: list[str], between: str = ",\n", encoding: str = "utf-8", bom: bytes = b"") -> Written:
    """A JSON list of these record texts, wherever they are broken."""
    return _write(path, "[", records, between, "]", encoding, bom)


def write_lines(path: Path, records: list[str], between: str = "\n", encoding: str = "utf-8", bom: bytes = b"") -> Written:
    return _write(path, "", records, between, between, encoding, bom)


def _write(path: Path, opening: str, records: list[str], between: str, closing: str, encoding: str, bom: bytes) -> Written:
    text, places = opening, list[tuple[int, int]]()
    for number, each in enumerate(records):
        text += between if number else ""
        places.append((text.count("\n") + 1, len(bom) + len(text.encode(encoding, "surrogatepass"))))
        text += each
    path.write_bytes(bom + (text + closing).encode(encoding, "surrogatepass"))
    return Written(path, places)


def report_on(path: Path, content: bytes | str | list[Any]) -> Report:
    """The report on a file of this content: bytes, text, or records as a JSON list."""
    if isinstance(content, list):
        content = dump(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return validate(path)


def found(report: Report, row: int | None) -> list[tuple[str, int | None]]:
    """(code, turn) of everything found in a row."""
    return [(issue.code, issue.turn) for issue in report.issues if issue.row == row]


def one(report: Report, code: str) -> Issue:
    """The only issue of this code."""
    (issue,) = [issue for issue in report.issues if issue.code == code]
    return issue

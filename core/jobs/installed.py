"""Which pinned packages an image lacks. Python's own library alone, because it is asked before anything is installed."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

PIN = re.compile(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;]+)")
PRESENT = ("torch",)  # in a range: whichever the image brings will do


def missing(requirements: Path = Path("requirements.txt")) -> list[str]:
    """The pins of `requirements` that are not installed at their version, and ``torch`` where there is none."""
    pins = {found[1]: found[2] for line in requirements.read_text(encoding="utf-8").splitlines() if (found := PIN.match(line))}
    wrong = [f"{name}=={version}" for name, version in pins.items() if _version(name) != version]
    return wrong + [name for name in PRESENT if _version(name) is None]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

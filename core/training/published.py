"""The published recipes behind the presets: the old command, what became of each flag, and what differs and why."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import Any

from core.paths import SPACES


@dataclass(frozen=True)
class Flag:
    """One option of the old command. `knob` is empty where nothing took its place; `note` then says why."""

    flag: str  # "--bf16"; in brackets where the value stood in the code or was its default
    value: str  # as it was written there
    knob: str = ""
    ours: Any = None  # the value of `knob` in the preset
    note: str = ""


@dataclass(frozen=True)
class Published:
    """Where a preset comes from."""

    preset: str
    source: str  # address
    command: str
    flags: tuple[Flag, ...]
    differs: tuple[str, ...]  # sentences


def all_published() -> dict[str, Published]:
    """Every preset that has a published source, by name."""
    table: dict[str, Any] = tomllib.loads((SPACES / "recipes.toml").read_text(encoding="utf-8"))
    return {
        name: Published(
            name, entry["source"], entry["command"].strip(), tuple(Flag(**flag) for flag in entry["flags"]), tuple(entry["differs"])
        )
        for name, entry in table.items()
    }


def published(preset: str) -> Published | None:
    """The source of a preset; None where it is our own."""
    return all_published().get(preset)

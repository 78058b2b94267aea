"""Saved conversations of the workspace's owner: one JSON file each, under ids that nobody can choose."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from core import paths
from core.chat.turns import Turn
from core.errors import UserError

TITLE_LENGTH = 60
MAX_TALKS = 1000


class Talk(BaseModel):
    """A conversation on disk."""

    model_config = ConfigDict(frozen=True)

    title: str
    saved_s: float
    system: str = ""
    models: tuple[str, ...] = ()  # source ids
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Listed:
    id: str
    title: str
    saved_s: float


def folder() -> Path:
    return paths.home() / "chats"


def save(turns: Sequence[Turn], *, system: str = "", models: Sequence[str] = (), identifier: str | None = None) -> str:
    """Keep a conversation; with `identifier` it takes the place of the one saved under it. Returns the id.

    Raises:
        UserError: there is nothing to save, or there are too many.
    """
    if not turns:
        raise UserError("There is nothing to save yet.", "the conversation", "Ask something first.")
    if identifier is None and len(list(folder().glob("*.json"))) >= MAX_TALKS:
        raise UserError(f"{MAX_TALKS:,} conversations are saved already.", "saved conversations", "Delete some of them first.")
    identifier = _path(identifier).stem if identifier else paths.new_run_id()
    title = " ".join(str(turns[0]["prompt"]).split())[:TITLE_LENGTH] or "Conversation"
    talk = Talk(title=title, saved_s=time.time(), system=system, models=tuple(models), turns=tuple(turns))
    paths.write_text(folder() / f"{identifier}.json", talk.model_dump_json(indent=1) + "\n")
    return identifier


def load(identifier: str) -> Talk:
    """Raises UserError: there is no such conversation, or its file is damaged."""
    path = _path(identifier)
    try:
        return Talk.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError("This conversation's file is damaged.", path.name, "Delete it.") from None


def delete(identifier: str) -> None:
    _path(identifier).unlink()


def listed() -> list[Listed]:
    """Newest first; damaged files are listed under their id, so that they can be deleted."""
    found: list[Listed] = []
    for path in folder().glob("*.json"):
        try:
            talk = Talk.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found.append(Listed(path.stem, path.stem, 0.0))
        else:
            found.append(Listed(path.stem, talk.title, talk.saved_s))
    return sorted(found, key=lambda one: (-one.saved_s, one.id))


def _path(identifier: str) -> Path:
    path = folder() / f"{identifier}.json"
    if not paths.ID_PATTERN.fullmatch(identifier) or path.is_symlink() or not path.is_file():
        raise UserError("There is no such conversation.", "saved conversations", "Choose one from the list.")
    return path

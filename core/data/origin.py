"""Where a dataset came from."""

from __future__ import annotations

from bisect import bisect_right
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

OriginKind = Literal["upload", "path", "pasted", "example", "hub"]


class HubRef(BaseModel):
    """A dataset on the Hub, as a person names it."""

    model_config = ConfigDict(frozen=True)

    repo_id: str
    config: str | None = None  # None: the only one, or the one called default
    split: str | None = None  # None: the only one, or train
    revision: str | None = None  # a branch, tag or commit; None: main


class Place(NamedTuple):
    """Where a row of several files stood."""

    file: str
    row: int  # counted from 0 in that file


class Origin(BaseModel):
    """How the bytes got here. For a Hub dataset `hub` says what was chosen, `commit` and `files` what that was at the time."""

    model_config = ConfigDict(frozen=True)

    kind: OriginKind = "path"
    file: str = ""  # the name the file had
    hub: HubRef | None = None
    commit: str = ""
    files: tuple[str, ...] = ()  # in the repository, in the order in which their rows follow each other
    first_rows: tuple[int, ...] = ()  # of several files that became one: the row with which each begins

    def place(self, row: int) -> Place | None:
        """Which of several files a row (from 0) came from; None where there was one file, or nobody counted."""
        if len(self.first_rows) != len(self.files) or row < 0:
            return None
        number = bisect_right(self.first_rows, row) - 1
        return Place(self.files[number], row - self.first_rows[number]) if number >= 0 else None

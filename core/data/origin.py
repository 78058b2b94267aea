"""Where a dataset came from."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

OriginKind = Literal["upload", "path", "pasted", "example", "hub"]


class HubRef(BaseModel):
    """A dataset on the Hub, as a person names it."""

    model_config = ConfigDict(frozen=True)

    repo_id: str
    config: str | None = None  # None: the only one, or the one called default
    split: str | None = None  # None: the only one, or train
    revision: str | None = None  # a branch, tag or commit; None: main


class Origin(BaseModel):
    """How the bytes got here. For a Hub dataset `hub` says what was chosen, `commit` and `files` what that was at the time."""

    model_config = ConfigDict(frozen=True)

    kind: OriginKind = "path"
    file: str = ""  # the name the file had
    hub: HubRef | None = None
    commit: str = ""
    files: tuple[str, ...] = ()  # in the repository, in the order in which their rows follow each other

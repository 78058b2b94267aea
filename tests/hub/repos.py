"""What a Hub holds: repositories with revisions, and who may read them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

GOOD_TOKEN = "hf_" + "goodTOKENgoodTOKENgood"
OTHER_TOKEN = "hf_" + "otherTOKENotherTOKENoth"  # of somebody who may read nothing that is closed
LFS_BYTES = 1000  # a file of this size and above lies on the content server


def digest(content: bytes, kind: str = "sha1") -> str:
    return hashlib.new(kind, content).hexdigest()


def blob_id(content: bytes) -> str:
    """The name that git gives the content."""
    return digest(b"blob %d\0" % len(content) + content)


@dataclass
class Repo:
    """One repository. `access`: open, gated (listed for all, read by GOOD_TOKEN), or private (seen by GOOD_TOKEN only)."""

    repo_id: str
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    card: dict[str, Any] | None = None  # the front matter of its README
    kind: Literal["datasets", "models", "spaces"] = "datasets"
    access: Literal["open", "gated", "private", "disabled"] = "open"
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])  # beside main
    pull_requests: list[tuple[int, str, str]] = field(default_factory=list[tuple[int, str, str]])  # number, title, author
    history: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])  # the files of earlier commits
    used_bytes: int | None = None  # what the Hub counts of it; else what its files have
    settings: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])  # of a Space, as they were set

    def revisions(self) -> dict[str, dict[str, bytes]]:
        """The files by branch and by commit."""
        named = {"main": self.files} | self.branches
        return self.history | named | {self.commit(files): files for files in named.values()}

    def expanded(self, names: list[str]) -> dict[str, Any]:
        """What a listing tells when it is asked for these."""
        used_bytes = sum(map(len, self.files.values())) if self.used_bytes is None else self.used_bytes
        known = {"private": self.access == "private", "usedStorage": used_bytes}
        return {name: value for name, value in known.items() if name in names}

    def commit(self, files: dict[str, bytes]) -> str:
        return digest(repr(sorted((path, digest(content)) for path, content in files.items())).encode())

"""What one can chat with: artifacts, local folders, .gguf files, Hub models, the bare base of an adapter, and endpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core import paths
from core.chat import hub
from core.chat.endpoint import Endpoint, checked_url
from core.chat.engine import Answering, open_engine
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact

BASE = "@base"  # behind an adapter's id: the same process with the adapter switched off


@dataclass(frozen=True)
class Source:
    """One thing to ask. Sources with one `engine_id` share a process."""

    id: str
    name: str
    level: str  # "q4_0", "merged", "adapter", "adapter off", "endpoint"
    artifact: Artifact | None = None
    with_adapter: bool = True
    url: str = ""
    model: str = ""

    @property
    def engine_id(self) -> str:
        return self.artifact.id if self.artifact else self.id

    @property
    def size_bytes(self) -> int:
        return self.artifact.size_bytes if self.artifact else 0

    def open(self, *, context_length: int | None = None, threads: int | None = None, key: str = "", log: Path | None = None) -> Answering:
        """What answers. `key` is for endpoints."""
        if self.artifact:
            return open_engine(self.artifact, context_length=context_length, threads=threads, log=log)
        return Endpoint(self.url, self.model, key)


def _resolved(reference: str) -> Artifact:
    """As `artifacts.resolve`; what lies outside this workspace's runs goes by its path, because its manifest's id may be taken."""
    artifact = artifacts.resolve(reference)
    if artifact.folder.resolve().is_relative_to(paths.runs_dir().resolve()):
        return artifact
    return artifact.model_copy(update={"id": str(artifact.gguf_path if artifact.kind == "gguf" else artifact.folder)})


def of_artifact(artifact: Artifact, *, with_adapter: bool = True) -> Source:
    if artifact.kind == "adapter" and not with_adapter:
        return Source(artifact.id + BASE, artifact.name, "adapter off", artifact, with_adapter=False)
    return Source(artifact.id, artifact.name, artifact.level or artifact.kind, artifact)


def resolve(reference: str, token: str | None = None, *, allow_paths: bool = True) -> Source:
    """The source that a person names.

    ``ID``, a folder, a .gguf file or ``starter``; ``http://HOST:PORT/v1#MODEL``; ``USER/NAME``, ``USER/NAME:LEVEL`` or
    ``USER/NAME/FILE.gguf`` on the Hub, fetched with the caller's token; ``@base`` behind an adapter for its base alone.

    `allow_paths` is False for people who are not at the machine itself.

    Raises:
        UserError: there is no such thing, it may not be read, or it would need its own code or pickles to load.
    """
    if "://" in reference:
        url, _, model = reference.partition("#")
        url = checked_url(url)
        return Source(f"{url}#{model}", model or url, "endpoint", url=url, model=model)
    wanted = reference.removesuffix(BASE)
    artifact = _artifact(wanted, token, allow_paths=allow_paths)
    if wanted != reference and artifact.kind != "adapter":
        raise UserError(f"{wanted} is a {artifact.kind} artifact.", reference, "Only an adapter can be switched off.")
    return of_artifact(artifact, with_adapter=wanted == reference)


def _artifact(reference: str, token: str | None, *, allow_paths: bool) -> Artifact:
    if hub.is_reference(reference) and not (allow_paths and Path(reference).expanduser().exists()):
        return hub.fetched(reference, token)
    if not allow_paths:
        raise UserError(f"{reference!r} is not the name of a model on the Hub.", "the model", "Give it as USER/NAME.")
    return _resolved(reference)

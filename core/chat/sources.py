"""What one can chat with: artifacts, local folders, .gguf files, Hub models, the bare base of an adapter, and endpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from core import paths
from core.chat.endpoint import Endpoint, checked_url
from core.chat.engine import Answering, open_engine
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact, FileEntry
from core.export.split import PART
from core.hubclient import api
from core.training import models
from core.training.models import HUB_ID

BASE = "@base"  # behind an adapter's id: the same process with the adapter switched off
MOST_NAMED = 5  # files of a repository in a hint
HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.gguf)")


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

    ``ID``, a folder, a .gguf file or ``starter``; ``ADAPTER@base`` for its base alone; ``http://HOST:PORT/v1#MODEL``; ``USER/NAME`` or
    ``USER/NAME/FILE.gguf`` on the Hub, fetched with the caller's token.

    `allow_paths` is False for people who are not at the machine itself.

    Raises:
        UserError: there is no such thing, it may not be read, or it would need its own code or pickles to load.
    """
    if "://" in reference:
        url, _, model = reference.partition("#")
        url = checked_url(url)
        return Source(f"{url}#{model}", model or url, "endpoint", url=url, model=model)
    wanted, at, rest = reference.rpartition("@")
    if at + rest == BASE:
        artifact = _resolved(wanted)
        if artifact.kind != "adapter":
            raise UserError(f"{wanted} is a {artifact.kind} artifact.", reference, "Only an adapter can be switched off.")
        return of_artifact(artifact, with_adapter=False)
    if not allow_paths or not Path(reference).expanduser().exists():
        if found := HUB_FILE.fullmatch(reference):
            return of_artifact(_hub_file(found[1], found[2], token))
        if HUB_ID.fullmatch(reference):
            return of_artifact(_hub_model(reference, token).model_copy(update={"name": reference}))
    if not allow_paths:
        raise UserError(f"{reference!r} is not the name of a model on the Hub.", "the model", "Give it as USER/NAME.")
    return of_artifact(_resolved(reference))


def _hub_model(repo: str, token: str | None) -> Artifact:
    try:
        return _resolved(str(models.resolve(repo, token=token).path))
    except UserError:
        named = _gguf_files(repo, token)
        if not named:
            raise
        some = ", ".join(f"{repo}/{name}" for name in named[:MOST_NAMED]) + (" ..." if len(named) > MOST_NAMED else "")
        raise UserError(f"{repo} holds GGUF files; one of them has to be named.", repo, f"Name one: {some}") from None


def _gguf_files(repo: str, token: str | None) -> list[str]:
    """The GGUF files of a repository, each split one by its first part; none where the Hub does not say."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        found = sorted(api(token).list_repo_files(repo))
    except (OfflineModeIsEnabled, HFValidationError, HfHubHTTPError, httpx.HTTPError, OSError):
        return []
    parts = {name: PART.search(name) for name in found if name.endswith(".gguf")}
    return [name for name, part in parts.items() if part is None or int(part[1]) == 1]


def _hub_file(repo: str, name: str, token: str | None) -> Artifact:
    """A GGUF file of the Hub; all parts of one that is split."""
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    part = PART.search(name)
    names = [f"{name[: part.start()]}-{number:05}-of-{part[2]}.gguf" for number in range(1, int(part[2]) + 1)] if part else [name]
    try:
        fetched = [Path(hf_hub_download(repo, each, token=token)) for each in names]
    except (HFValidationError, HfHubHTTPError, httpx.HTTPError, OSError):
        remedy = "Check the spelling and the network; a private or gated model needs `hf auth login`."
        raise UserError(f"{name} of {repo} could not be fetched from the Hub.", repo, remedy, code="NET") from None
    files = tuple(FileEntry(name=path.name, size_bytes=path.stat().st_size, sha256="") for path in fetched)
    return _resolved(str(fetched[0])).model_copy(update={"files": files})

"""What one can chat with: artifacts, local folders, .gguf files, Hub models, the bare base of an adapter, and endpoints."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from core.chat.endpoint import Endpoint, checked_url
from core.chat.engine import Answering, open_engine
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.training.models import HUB_ID

BASE = "@base"  # behind an adapter's id: the same process with the adapter switched off
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
        artifact = artifacts.resolve(wanted)
        if artifact.kind != "adapter":
            raise UserError(f"{wanted} is a {artifact.kind} artifact.", reference, "Only an adapter can be switched off.")
        return of_artifact(artifact, with_adapter=False)
    if not allow_paths or not Path(reference).expanduser().exists():
        if found := HUB_FILE.fullmatch(reference):
            return of_artifact(_hub_file(found[1], found[2], token))
        if HUB_ID.fullmatch(reference):
            from core.training.models import resolve as fetch

            model = fetch(reference, token=token)
            return of_artifact(artifacts.resolve(str(model.path)).model_copy(update={"name": reference}))
    if not allow_paths:
        raise UserError(f"{reference!r} is not the name of a model on the Hub.", "the model", "Give it as USER/NAME.")
    return of_artifact(artifacts.resolve(reference))


def _hub_file(repo: str, name: str, token: str | None) -> Artifact:
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        path = hf_hub_download(repo, name, token=token)
    except (HFValidationError, HfHubHTTPError, httpx.HTTPError, OSError):
        remedy = "Check the spelling and the network; a private or gated model needs `hf auth login`."
        raise UserError(f"{name} of {repo} could not be fetched from the Hub.", repo, remedy, code="NET") from None
    return artifacts.resolve(path)

"""What lies on the Hub to chat with: models, LoRA adapters with their bases, and GGUF files, fetched with the caller's token."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from core.errors import UserError
from core.export.adapter import adapter_config
from core.export.artifacts import ADAPTER_WEIGHTS, Artifact, FileEntry, adapter_weights
from core.export.header import gguf_header
from core.export.levels import LEVELS, level_numbered
from core.export.split import PART
from core.hubclient import api
from core.training import models
from core.units import size

FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.gguf)")
LEVEL = re.compile(r"([\w.-]+/[\w.-]+):([\w.-]+)")
KNOWN = {each.name.lower(): each.name for each in LEVELS}
NAMED_LEVEL = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(sorted(KNOWN, key=len, reverse=True))})(?![a-z0-9_])")
NO_MODELS = ("mmproj", "imatrix")  # how files begin that only look like a model
MOST_NAMED = 5  # files of a repository in a hint


@dataclass(frozen=True)
class GgufFile:
    """A GGUF model of a repository; of a split one the first part, with the size of all."""

    reference: str  # what to name: ``USER/NAME:q4_0``, or ``USER/NAME/FILE.gguf`` where levels do not tell them apart
    name: str
    level: str  # as the file's name says; empty where that names none
    size_bytes: int


class SeveralFilesError(UserError):
    """A repository of GGUF files, of which one has to be named."""

    def __init__(self, repo: str, files: list[GgufFile]) -> None:
        some = ", ".join(f"{file.reference} ({size(file.size_bytes)})" for file in files[:MOST_NAMED])
        more = " ..." if len(files) > MOST_NAMED else ""
        super().__init__(f"{repo} holds {len(files)} GGUF files; one of them has to be named.", repo, f"Name one: {some}{more}")
        self.files = files


def is_reference(reference: str) -> bool:
    """Whether this can name something of the Hub."""
    return any(form.fullmatch(reference) for form in (models.HUB_ID, FILE, LEVEL))


def fetched(reference: str, token: str | None) -> Artifact:
    """``USER/NAME``, ``USER/NAME:LEVEL`` or ``USER/NAME/FILE.gguf`` on this disk.

    Raises:
        UserError: there is no such thing, it may not be read, it would need its own code or pickles to load, or there are several.
    """
    if found := FILE.fullmatch(reference):
        return _gguf(found[1], found[2], token)
    if found := LEVEL.fullmatch(reference):
        return _gguf(found[1], _of_level(found[1], found[2], token).name, token)
    folder = models.snapshot(reference, None, token, models.FETCHED)
    weights = {file.name for file in folder.glob("*.safetensors")}
    if (folder / "adapter_config.json").is_file() and weights <= {ADAPTER_WEIGHTS}:
        return _adapter(reference, folder, token)
    if not weights and (files := gguf_files(reference, token)):
        if len(files) > 1:
            raise SeveralFilesError(reference, files)
        return _gguf(reference, files[0].name, token)
    return Artifact(id=str(folder), kind="merged", name=reference, files=_entries(models.check_folder(folder).glob("*")), folder=folder)


def _adapter(repo: str, folder: Path, token: str | None) -> Artifact:
    """An adapter and, fetched with it, the base that it names."""
    adapter_weights(folder)
    config = adapter_config(folder)
    named, revision = config.get("base_model_name_or_path"), config.get("revision")
    if (kind := config.get("peft_type")) != "LORA":
        raise UserError(f"{repo} is an adapter of the kind {kind!r:.40}.", repo, "Take a LoRA adapter, or a whole model.", "ADAPTER")
    if not isinstance(named, str) or not models.HUB_ID.fullmatch(named):
        remedy = "Ask its author for the base's id on the Hub; with both on this disk, name the adapter's folder."
        raise UserError(f"{repo} is an adapter of {named!r:.80}, which is no model of the Hub.", repo, remedy, "ADAPTER")
    try:
        base = models.fetch(named, revision if isinstance(revision, str) and revision else None, token)
    except UserError as error:
        raise UserError(f"{repo} is an adapter of {named}. {error.problem}", repo, error.remedy, error.code) from None
    return Artifact(
        id=str(folder), kind="adapter", name=repo, base_model=named, base_path=str(base.path), base_revision=base.revision,
        files=_entries(folder.glob("*")), folder=folder,
    )  # fmt: skip


def gguf_files(repo: str, token: str | None) -> list[GgufFile]:
    """The GGUF models of a repository, the largest first; none where the Hub does not say."""
    import httpx
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    try:
        found = [entry for entry in api(token).list_repo_tree(repo, recursive=True) if isinstance(entry, RepoFile)]
    except (OfflineModeIsEnabled, HFValidationError, HfHubHTTPError, httpx.HTTPError, OSError):
        return []
    sizes: dict[str, int] = {}  # by the name of the file, or of the first part
    for entry in found:
        if entry.path.endswith(".gguf") and not PurePosixPath(entry.path).name.lower().startswith(NO_MODELS):
            first = _parts(entry.path)[0]
            sizes[first] = sizes.get(first, 0) + entry.size
    levels = {name: _level_in(name) for name in sizes}
    times = Counter(levels.values())
    files = [
        GgufFile(f"{repo}:{level}" if level and times[level] == 1 else f"{repo}/{name}", name, level, sizes[name])
        for name, level in levels.items()
    ]
    return sorted(files, key=lambda file: (-file.size_bytes, file.name))


def _level_in(name: str) -> str:
    """The level that a file's name says last: ``Q4_K_M`` of ``Model-7B.q4_k_m.gguf``; empty where it says none that is known."""
    said = NAMED_LEVEL.findall(PurePosixPath(name).name.lower())
    return KNOWN[said[-1]] if said else ""


def _of_level(repo: str, wanted: str, token: str | None) -> GgufFile:
    files = gguf_files(repo, token)
    matching = [file for file in files if file.level.lower() == wanted.lower()]
    if len(matching) == 1:
        return matching[0]
    if files:
        raise SeveralFilesError(repo, matching or files)
    raise UserError(
        f"The Hub names no GGUF file of {repo}.", repo, "Check the spelling and the network; a private model needs `hf auth login`."
    )


def _parts(name: str) -> list[str]:
    """All files of the model that `name` is of."""
    part = PART.search(name)
    return [f"{name[: part.start()]}-{number:05}-of-{part[2]}.gguf" for number in range(1, int(part[2]) + 1)] if part else [name]


def _gguf(repo: str, name: str, token: str | None) -> Artifact:
    """A GGUF file; all parts of one that is split."""
    names = _parts(name)
    folder = models.snapshot(repo, None, token, names)
    if missing := next((each for each in names if ".." in PurePosixPath(each).parts or not (folder / each).is_file()), None):
        raise UserError(f"{repo} has no file {missing}.", repo, f"Check the spelling; {repo} alone lists what there is.")
    first = folder / names[0]
    level = level_numbered(gguf_header(first).file_type)
    return Artifact(
        id=str(first), kind="gguf", level=level.name if level else None, name=first.name.removesuffix(".gguf"),
        files=_entries(folder / each for each in names), folder=first.parent,
    )  # fmt: skip


def _entries(files: Iterable[Path]) -> tuple[FileEntry, ...]:
    """Unhashed: the Hub has checked what it sent."""
    return tuple(FileEntry(name=file.name, size_bytes=file.stat().st_size, sha256="") for file in sorted(files) if file.is_file())

"""Artifacts: what a run leaves behind. Each is a folder with a manifest, written last, that says what the files are and where they came from."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from core import paths
from core.errors import UserError
from core.export.header import gguf_header
from core.export.levels import level_numbered
from core.export.split import gguf_parts
from core.locks import FileLock, alone

Kind = Literal["adapter", "merged", "gguf"]
MANIFEST = "manifest.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
FINGERPRINTED = (".safetensors", ".json", ".jinja", ".model")
SAMPLES, SAMPLE_BYTES = 64, 2**16


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True)

    name: str
    size_bytes: int
    sha256: str


class Artifact(BaseModel):
    """The manifest of one adapter, merged model or GGUF file. `folder` is where it lies and is not stored."""

    model_config = ConfigDict(frozen=True)

    id: str
    kind: Kind
    level: str | None = None  # quantisation level of a gguf: "f16", "Q4_0", "Q4_K_M", ...
    name: str  # what a person reads: "Starter-Identity"
    run_id: str | None = None
    parent_id: str | None = None
    base_model: str | None = None  # Hub id or "starter"
    base_path: str | None = None  # local folder of the base, for adapters
    base_revision: str | None = None
    dataset_id: str | None = None
    dataset_sha256: str | None = None
    recipe_sha256: str | None = None
    base_weights: str | None = None  # of an adapter: the `core.export.tensors.weights_fingerprint` of the base it was trained on
    float_level: str | None = None  # of a quantised level: the float format that it was made from
    float_reason: str = ""  # of a float level: why it has this format
    imatrix_sha256: str | None = None  # the importance matrix that guided a quantised level
    made_from: str | None = None  # of a level: the `fingerprint` of the model folder it was converted from
    created_s: float = Field(default_factory=time.time)
    files: tuple[FileEntry, ...] = ()
    measured: dict[str, Any] = {}  # perplexity, kl_mean, top1_agreement, tokens_per_s, size_bytes, ... of core.export.measure
    proofs: dict[str, Any] = {}  # merge_kl, gguf_kl, ... of core.export.prove
    folder: Path = Field(default=Path(), exclude=True)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def gguf_path(self) -> Path:
        """The .gguf file (the first one of a split model)."""
        assert self.kind == "gguf"
        return self.folder / next((file.name for file in self.files if file.name.endswith(".gguf")), self.files[0].name)

    @property
    def gguf_sha256(self) -> str:
        """Of the file, or of all parts of a split one together; a file that no manifest describes is read for it."""
        names = sorted(file.name for file in self.files if file.name.endswith(".gguf")) or [self.gguf_path.name]
        known = {file.name: file.sha256 for file in self.files}
        hashes = [known.get(name) or paths.sha256_file(self.folder / name) for name in names]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def file_entries(folder: Path, known_sha256: dict[str, str] | None = None) -> tuple[FileEntry, ...]:
    """The files of `folder`; those whose hash is known already are not read again."""
    known = known_sha256 or {}
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST}
    return tuple(
        FileEntry(name=name, size_bytes=path.stat().st_size, sha256=known.get(name) or paths.sha256_file(path))
        for name, path in sorted(files.items())
    )


def refuse_target(out: Path, keep: tuple[Path, ...] = ()) -> None:
    """Refuse to write an artifact over anything but an older artifact, or over a folder of `keep`, which it is made from.

    Raises:
        UserError: `out` is a file, a folder of other things, or holds what the new artifact is made from.
    """
    remedy = "Choose a new or an empty folder."
    if any(folder.resolve().is_relative_to(out.resolve()) for folder in keep):
        raise UserError(f"{out} holds what the new model is made from.", str(out), remedy)
    if (out.exists() and not out.is_dir()) or (out.is_dir() and any(out.iterdir()) and not (out / MANIFEST).is_file()):
        raise UserError(f"{out} holds other files, which would be lost.", str(out), remedy)


def make_folder(out: Path) -> None:
    """Make the folder `out` unless it is there.

    Raises:
        UserError: it is a file, or nobody may write there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        refused = "" if os.access(out, os.W_OK | os.X_OK) else "nothing may be written there"
    except OSError as error:
        refused = "it is a file" if out.is_file() else str(error.strerror)
    if refused:
        raise UserError(f"{out} cannot be written to: {refused}.", str(out), "Name another folder.")


def fingerprint(model_dir: Path) -> str:
    """What tells a model from another of the same shape: its small files, and `SAMPLES` places of each of its weight files."""
    digest = hashlib.sha256()
    files = sorted(path for path in model_dir.glob("*") if path.suffix in FINGERPRINTED and path.name != MANIFEST and path.is_file())
    for path in files:
        size_bytes = path.stat().st_size
        digest.update(f"{path.name} {size_bytes}\n".encode())
        with path.open("rb") as file:
            for place in range(SAMPLES):
                file.seek(size_bytes * place // SAMPLES)
                digest.update(file.read(min(SAMPLE_BYTES, size_bytes // SAMPLES + 1)))
    return digest.hexdigest()


@contextmanager
def only_writer(out: Path) -> Generator[None]:
    """Hold the right to write `out`; the kernel frees it when this process dies.

    Raises:
        UserError: somebody else is writing there now (code BUSY).
    """
    lock = FileLock(_lock_of(out, "out"))
    if not lock.acquire():
        raise UserError(f"{out} is being written by somebody else.", str(out), "Wait for it, or choose another folder.", "BUSY")
    try:
        yield
    finally:
        lock.release()


def _lock_of(out: Path, name: str) -> Path:
    return paths.home() / "locks" / f"{name}-{hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]}.lock"


def write(artifact: Artifact, folder: Path, known_sha256: dict[str, str] | None = None) -> Artifact:
    """Hash the files of `folder` and write its manifest. Call it last, inside `core.paths.building`."""
    artifact = artifact.model_copy(update={"files": file_entries(folder, known_sha256), "folder": folder})
    paths.write_text(folder / MANIFEST, artifact.model_dump_json(indent=2) + "\n")
    return artifact


def update(artifact: Artifact, *, measured: dict[str, Any] | None = None, proofs: dict[str, Any] | None = None) -> Artifact:
    """Store figures or proofs in the manifest on disk. Figures are added to those that are there; proofs belong together and replace them."""
    with alone(_lock_of(artifact.folder, "manifest")):
        artifact = read(artifact.folder)
        artifact = artifact.model_copy(
            update={"measured": artifact.measured | (measured or {}), "proofs": artifact.proofs if proofs is None else proofs}
        )
        paths.write_text(artifact.folder / MANIFEST, artifact.model_dump_json(indent=2) + "\n")
    return artifact


def read(folder: Path) -> Artifact:
    return Artifact.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8")).model_copy(update={"folder": folder})


def of_run(run_dir: Path) -> list[Artifact]:
    """The finished artifacts of a run, in the order they were made."""
    found: list[Artifact] = []
    for manifest in (run_dir / "artifacts").glob(f"*/{MANIFEST}"):
        with contextlib.suppress(FileNotFoundError, ValueError):  # made anew a moment ago, or damaged: as good as not there
            found += [] if manifest.parent.name.endswith(".partial") else [read(manifest.parent)]
    return sorted(found, key=lambda artifact: artifact.created_s)


def everywhere() -> list[Artifact]:
    return [artifact for run_dir in sorted(paths.runs_dir().glob("*")) for artifact in of_run(run_dir)]


def artifact_id(run_id: str, name: str) -> str:
    """``261123-191203-4f2a-q4-k-m`` for the level Q4_K_M of that run."""
    return re.sub(r"[_.+]", "-", f"{run_id}-{name}".lower())


def resolve(reference: str) -> Artifact:
    """The artifact with this id, the one that a local path belongs to, or an unmanaged one for ``starter`` and paths of no run.

    Raises:
        UserError: neither an id of this workspace nor a path that holds a model; an old GGML file is named as such.
    """
    for artifact in everywhere():
        if artifact.id == reference:
            return artifact
    path = paths.STARTER if reference == "starter" else Path(reference).expanduser()
    if (path / MANIFEST).is_file():
        return read(path.absolute())
    if path.is_file():
        return _from_file(path.absolute())
    if path.exists():
        return _from_folder(path.absolute())
    raise UserError(
        f"There is no artifact {reference!r}.",
        "the artifacts of this workspace and the local files",
        "Take an id from `show RUN`, or give starter or the path of a model folder, an adapter folder or a .gguf file.",
    )


def _from_file(path: Path) -> Artifact:
    header = gguf_header(path)  # the contents decide, whatever the suffix
    managed = read(path.parent) if (path.parent / MANIFEST).is_file() else None
    if managed and path.name in [file.name for file in managed.files]:
        return managed
    level = level_numbered(header.file_type)
    entries = tuple(FileEntry(name=part.name, size_bytes=part.stat().st_size, sha256="") for part in gguf_parts(path))
    name = path.name.removesuffix(".gguf")
    return Artifact(id=str(path), kind="gguf", level=level.name if level else None, name=name, files=entries, folder=path.parent)


def adapter_weights(folder: Path) -> Path:
    """The weights of an adapter. PEFT, without this file, would unpickle ``adapter_model.bin`` (rule R16).

    Raises:
        UserError: they are not there, or not as safetensors.
    """
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise UserError(f"The adapter has no {ADAPTER_WEIGHTS}.", str(folder), "Save it with safe_serialization=True.", "ADAPTER")
    return weights


def _from_folder(path: Path) -> Artifact:
    name = path.name
    unhashed = tuple(
        FileEntry(name=file.name, size_bytes=file.stat().st_size, sha256="") for file in sorted(path.glob("*")) if file.is_file()
    )
    if (path / "adapter_config.json").is_file():
        adapter_weights(path)
        base = paths.read_json(path / "adapter_config.json").get("base_model_name_or_path")
        return Artifact(id=str(path), kind="adapter", name=name, base_model=base, base_path=base, files=unhashed, folder=path)
    if (path / "config.json").is_file():
        return Artifact(id=str(path), kind="merged", name=name, files=unhashed, folder=path)
    raise UserError(
        f"{path.name} holds no model.",
        str(path),
        "A model folder has config.json, an adapter folder adapter_config.json, a GGUF file ends in .gguf.",
    )

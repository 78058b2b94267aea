"""What a publication would send: the files, what is left out and why, the card, and what speaks against it. No network."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from core import paths
from core.errors import UserError
from core.export.artifacts import MANIFEST, Artifact, of_run
from core.export.header import gguf_header
from core.export.tensors import file_metadata
from core.publish.card import model_card, proof_sentences
from core.publish.facts import CardFacts, facts_of, hub_id, provenance
from core.publish.terms import terms
from core.redact import tokens, without_tokens
from core.units import size

ALLOWED_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".md", ".jinja", ".gguf")
PROVENANCE = "transmute.json"
CARD = "README.md"
CURVE = "loss.svg"  # drawn here; a picture out of a model's folder is not sent
# Names that are never sent, whatever their suffix: states of the trainer, and what is written anew for the Hub.
NEVER = re.compile(r"(optimizer|scheduler|rng_state|trainer_state|training_args|scaler)", re.IGNORECASE)
# Texts that a licence asks to pass on; the Hub shows them as .txt.
LICENCES = re.compile(r"(LICEN[SC]E|NOTICE|USE_POLICY)[\w-]*(\.(txt|md))?", re.IGNORECASE)
REWRITTEN = {MANIFEST: f"replaced by {PROVENANCE}, without local paths", CARD: "replaced by the model card"}
LEAKY = "holds what looks like an access token"
TEXT_SUFFIXES = (".json", ".txt", ".md", ".jinja")
WINDOW = 1 << 20  # characters of a text file that are looked at together
OVERLAP = 1 << 14  # of a window with the next; no token and no folder's name is longer
# https://huggingface.co/docs/hub/storage-limits (read 2026-11-28): no larger file is taken, and a free account keeps so much privately.
LARGEST_FILE_BYTES, FREE_PRIVATE_BYTES = 500 * 10**9, 100 * 10**9
RepoType = Literal["model", "dataset"]


@dataclass(frozen=True)
class PlannedFile:
    """One file of the future repository: copied from `local`, or written from `text`."""

    path: str
    size_bytes: int
    local: Path | None = None
    text: str | None = None

    def is_same(self, entry: Any) -> bool:
        """Whether a file of a repository has the same content, by the hash that git or LFS keeps of it."""
        if entry.size != self.size_bytes:
            return False
        if entry.lfs:
            return entry.lfs.sha256 == (
                paths.sha256_file(self.local) if self.local else hashlib.sha256((self.text or "").encode()).hexdigest()
            )
        content = self.local.read_bytes() if self.local else (self.text or "").encode()
        return entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class Refused:
    path: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """Nothing may be sent while there are `problems`; `notes` are worth knowing and stop nothing.

    `proof_problems` and `token_problems` are those of the problems that somebody may overrule knowingly: proofs that do not hold, and
    what looks like an access token and may be none.
    """

    repo_id: str
    suggested_repo_id: str
    files: tuple[PlannedFile, ...] = ()
    refused: tuple[Refused, ...] = ()
    problems: tuple[str, ...] = ()
    proof_problems: tuple[str, ...] = ()
    token_problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    proofs: dict[str, Any] = field(default_factory=dict[str, Any])
    repo_type: RepoType = "model"
    sources: tuple[str, ...] = ()  # ids of the artifacts or datasets
    base_model: str = ""  # where it is on the Hub, its id there

    @property
    def address(self) -> str:
        return address_of(self.repo_id, self.repo_type)

    @property
    def total_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def address_of(repo_id: str, repo_type: RepoType) -> str:
    """Where the repository lies on the Hub: USER/NAME, for a dataset ``datasets/USER/NAME``."""
    return repo_id if repo_type == "model" else f"{repo_type}s/{repo_id}"


def preflight(artifacts: Sequence[Artifact], repo_id: str, facts: CardFacts | None = None) -> Plan:
    """The plan to publish `artifacts` as the model repository `repo_id`.

    Raises:
        UserError: no artifact is named.
    """
    if not artifacts:
        raise UserError("Nothing is chosen to publish.", "publish", "Name at least one artifact.")
    facts = facts or facts_of(artifacts)
    if not facts.is_trained and any(artifact.kind == "merged" for artifact in artifacts):
        base = artifacts[0].base_model or artifacts[0].name
        raise UserError(
            f"This is {base} itself: nothing here has changed it.", "publish", "Publish its levels; they are what was made here."
        )
    files: list[PlannedFile] = []
    refused: list[Refused] = []
    leaky: list[str] = []
    for artifact in artifacts:
        for name, local in _candidates(artifact):
            reason = refusal(name, local)
            if reason == LEAKY and name in {sent_as(entry.name) for entry in artifact.files}:  # without it the model would be another one
                leaky.append(f"{name} of {artifact.id} {LEAKY}; take it out there.")
                reason = ""
            if reason:
                refused.append(Refused(name, reason))
            else:
                files.append(PlannedFile(name, local.stat().st_size, local))
    taken = {file.path for file in files}
    passed_on = {name: local for name, local in _base_licences(artifacts[0]) if name not in taken and not refusal(name, local)}
    files += [PlannedFile(name, local.stat().st_size, local) for name, local in passed_on.items()]
    generated = {
        CARD: model_card(artifacts, repo_id, facts),
        PROVENANCE: json.dumps(provenance(artifacts, facts), ensure_ascii=False, indent=2) + "\n",
    }
    if facts.curve:
        generated[CURVE] = facts.curve
    generated = {name: without_tokens(text) for name, text in generated.items()}  # somebody may have typed one into the recipe
    files += [PlannedFile(name, len(text.encode()), text=text) for name, text in generated.items()]
    unproved = tuple(_proof_problems(artifacts))
    problems = (*repo_problems(repo_id), *unproved, *leaky, *_artifact_problems(artifacts, files), *size_problems(files), *_leaks(files))
    notes = (*_notes(artifacts, repo_id, facts), *size_notes(files))
    proofs = {
        "passed": all(artifact.proofs.get("passed", False) for artifact in artifacts),
        "sentences": proof_sentences(artifacts[0].proofs),
        "by_artifact": {artifact.id: artifact.proofs for artifact in artifacts},
    }
    better = suggest_repo_id(artifacts, repo_id)
    sources = tuple(artifact.id for artifact in artifacts)
    base = hub_id(artifacts[0].base_model)
    return Plan(
        repo_id,
        better,
        files=tuple(files),
        refused=tuple(refused),
        problems=problems,
        proof_problems=unproved,
        token_problems=tuple(leaky),
        notes=notes,
        proofs=proofs,
        sources=sources,
        base_model=base,
    )


def describe(plan: Plan) -> dict[str, Any]:
    """A plan ready for JSON: repo_id, repo_type, files, total_bytes, card, refused, problems, notes, proofs, curve."""
    return {
        "repo_id": plan.repo_id,
        "repo_type": plan.repo_type,
        "suggested_repo_id": plan.suggested_repo_id,
        "files": [
            {"path": file.path, "size_bytes": file.size_bytes, "local": str(file.local) if file.local else None} for file in plan.files
        ],
        "total_bytes": plan.total_bytes,
        "card": next(file.text for file in plan.files if file.path == CARD),
        "curve": next((file.text for file in plan.files if file.path == CURVE), ""),
        "refused": [{"path": item.path, "reason": item.reason} for item in plan.refused],
        "problems": list(plan.problems),
        "notes": list(plan.notes),
        "proofs": plan.proofs,
    }


def refusal(name: str, local: Path) -> str:
    """Why a file is not sent; empty when it is."""
    base = local.name
    if name in REWRITTEN:
        return REWRITTEN[name]
    if local.is_symlink() or not local.is_file():
        return "not a regular file"
    if any(part.startswith(".") for part in Path(name).parts):
        return "hidden file"
    if NEVER.match(base):
        return "state of the training, not of the model"
    if Path(name).suffix.lower() not in ALLOWED_SUFFIXES:
        return f"only {' '.join(ALLOWED_SUFFIXES)} are sent"
    if any(tokens(text) for text in windows(local)):
        return LEAKY
    return ""


def repo_problems(repo_id: str) -> list[str]:
    """What is wrong with a repository's name, by the Hub client's own rules."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        return [str(error)]
    if repo_id.count("/") != 1:
        return [f"{repo_id!r} does not say whose it is. Write USER/NAME."]
    return []


def size_problems(files: Sequence[PlannedFile]) -> Iterator[str]:
    """Files that the Hub takes from nobody, known before hours are spent on sending them."""
    for file in files:
        if file.size_bytes > LARGEST_FILE_BYTES:
            yield f"{file.path} has {size(file.size_bytes)}, and the Hub takes no file above {size(LARGEST_FILE_BYTES)}."


def size_notes(files: Sequence[PlannedFile]) -> Iterator[str]:
    """What can be said of the size without a login; `core.publish.quota` compares it with what an account has free."""
    total_bytes = sum(file.size_bytes for file in files)
    if total_bytes > FREE_PRIVATE_BYTES:
        yield f"{size(total_bytes)} are more than the {size(FREE_PRIVATE_BYTES)} that a free account may keep in private repositories."


def suggest_repo_id(artifacts: Sequence[Artifact], repo_id: str) -> str:
    """`repo_id` as the Hub's habits have it: a repository of GGUF files ends in ``-GGUF``, one of an adapter in ``-adapter``."""
    ending = {"gguf": "-GGUF", "adapter": "-adapter", "merged": ""}[artifacts[0].kind]
    return repo_id if repo_id.lower().endswith(ending.lower()) else repo_id + ending


def _candidates(artifact: Artifact) -> Iterator[tuple[str, Path]]:
    """Every file of the artifact as (path in the repository, local file), the listed ones first, then what else lies in its folder."""
    listed = [entry.name for entry in artifact.files]
    yield from ((sent_as(name), artifact.folder / name) for name in listed)
    if (artifact.folder / MANIFEST).is_file():
        for local in sorted(artifact.folder.rglob("*")):
            name = local.relative_to(artifact.folder).as_posix()
            if name not in listed and not local.is_dir():
                yield sent_as(name), local


def sent_as(name: str) -> str:
    """A file's path in the repository: `LICENSE` and its like get the suffix that the allow-list and the Hub's pages know."""
    return name if "." in name or not LICENCES.fullmatch(name) else f"{name}.txt"


def _base_licences(artifact: Artifact) -> Iterator[tuple[str, Path]]:
    """The licence texts of the base model: an adapter and a GGUF file are under them as well, and do not carry them."""
    made = of_run(paths.runs_dir() / artifact.run_id) if artifact.run_id else []
    folders = [each.folder for each in made if each.id == artifact.parent_id]
    for base in [Path(artifact.base_path), *folders] if artifact.base_path else folders:
        for local in sorted(base.iterdir()) if base.is_dir() else ():
            if LICENCES.fullmatch(local.name):
                real = local.resolve()  # in the Hub's cache a link to its blobs, and elsewhere none is followed
                yield sent_as(local.name), real if real.parent == base.resolve().parent.parent / "blobs" else local


def _proof_problems(artifacts: Sequence[Artifact]) -> Iterator[str]:
    for artifact in artifacts:
        if error := artifact.proofs.get("error"):
            yield f"The proofs of {artifact.id} could not be made ({error}), so nothing says that it is what was trained."
        elif artifact.proofs.get("passed") is False:
            yield f"A proof of {artifact.id} does not hold; what would be published is not what was trained."


def _artifact_problems(artifacts: Sequence[Artifact], files: list[PlannedFile]) -> Iterator[str]:
    kinds = {artifact.kind for artifact in artifacts}
    if len(kinds) > 1:
        yield f"{' and '.join(sorted(kinds))} artifacts belong in repositories of their own."
    elif kinds != {"gguf"} and len(artifacts) > 1:
        yield f"One repository holds one {artifacts[0].kind} model; publish them one by one."
    for path, count in Counter(file.path for file in files).items():
        if count > 1 and kinds == {"gguf"}:
            yield f"{count} artifacts have a file {path}."
    if not any(file.path.endswith((".safetensors", ".gguf")) for file in files):
        yield "There are no weights among the files."
    sizes = {file.local: file.size_bytes for file in files}
    for artifact in artifacts:
        for entry in artifact.files:
            if entry.sha256 and sizes.get(artifact.folder / entry.name, entry.size_bytes) != entry.size_bytes:
                yield f"{entry.name} of {artifact.id} has changed since it was made."


def _leaks(files: list[PlannedFile]) -> Iterator[str]:
    """Files that name folders of this machine, in their text or in the header of their weights."""
    local = [str(folder) for folder in (paths.home(), paths.PROJECT, Path.home()) if len(folder.parts) > 1]
    for file in files:
        texts = windows(file.local) if file.local else (file.text or "",)
        if found := next((folder for text in texts for folder in local if folder in text), None):
            yield f"{file.path} names a folder of this machine ({found}); remove it there."


def _notes(artifacts: Sequence[Artifact], repo_id: str, facts: CardFacts) -> Iterator[str]:
    for artifact in artifacts:
        if artifact.proofs.get("passed") is None:
            yield f"{artifact.id} is not proved; `prove` compares it with what was trained."
    if artifacts[0].kind == "adapter" and artifacts[0].base_model == "starter":
        yield "The adapter's base is the embedded starter model, which is not on the Hub: others can use the merged model or the GGUF files."
    if not facts.license:
        yield "The licence of the base model is not known here; add it to the card before sending."
    if inherited := terms(facts.license, facts.license_name):
        yield inherited
    if (better := suggest_repo_id(artifacts, repo_id)) != repo_id:
        yield f"Such repositories are usually named {better}."


def windows(path: Path) -> Iterator[str]:
    """A text file of whatever size in pieces that overlap, so that no secret is cut; of weights what their header says in words.

    Other encodings keep their ASCII.
    """
    if path.suffix.lower() in (".safetensors", ".gguf"):
        yield _header_words(path)
        return
    if path.suffix and path.suffix.lower() not in TEXT_SUFFIXES:
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        window = file.read(WINDOW)
        while window:
            yield window
            following = file.read(WINDOW)
            window = following and window[-OVERLAP:] + following


def _header_words(path: Path) -> str:
    """The texts in a weight file's metadata, one a line; empty when it has no header that can be read."""
    try:
        said = gguf_header(path).metadata if path.suffix.lower() == ".gguf" else file_metadata(path)
    except UserError:
        return ""
    return "\n".join(f"{name} {value}" for name, value in said.items() if isinstance(value, str))

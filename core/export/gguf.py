"""From a merged model to finished GGUF artifacts: the float file first, then every level asked for, each with its manifest."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core import paths
from core.errors import UserError
from core.export import artifacts, converter
from core.export.about import file_name, gguf_metadata
from core.export.artifacts import Artifact
from core.export.jobs import OnEvent
from core.export.levels import Level, level, parse_levels
from core.export.merge import base_folder
from core.export.quantise import checked_imatrix, quantise
from core.export.split import split_gguf
from core.training import models

FLOAT_LEVELS = ("f16", "bf16", "f32")
SPLIT_BYTES = 48 * 10**9  # the Hub takes files of up to 50 GB
WORKSHOP, ADAPTER_WORKSHOP = ".transmute-", ".lora-"


@dataclass(frozen=True)
class Making:
    """What the levels of one call share."""

    merged: Artifact
    out_root: Path
    run_id: str | None
    intermediate: str | None
    imatrix: Path | None
    split_bytes: int
    log: Path | None
    on_event: OnEvent | None
    made_from: str  # see `artifacts.fingerprint`

    def folder(self, known: Level) -> Path:
        return self.out_root / folder_name(known)

    @property
    def imatrix_sha256(self) -> str | None:
        return paths.sha256_file(self.imatrix) if self.imatrix else None


def make_gguf(
    merged: Artifact,
    levels: Sequence[str],
    out_root: Path,
    *,
    run_id: str | None = None,
    intermediate: str | None = None,
    imatrix: Path | None = None,
    split_bytes: int = SPLIT_BYTES,
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> list[Artifact]:
    """The GGUF artifacts of `merged`, one folder each under `out_root` (``gguf-q4-0``), in the order asked for.

    What is finished already is kept, so the call can be repeated after any interruption. A float file is made whenever another level needs
    it (f16, or what holds the weights where f16 does not), and returned only when it was asked for.

    Args:
        intermediate: the float format that levels are quantised from, ``f16``, ``bf16`` or ``f32``; a level that was made from another one is
            made anew. None takes the float file that is there, else the narrowest format that holds the weights.
        imatrix: an importance matrix of this model (`core.export.imatrix`), for the levels that ask for one (``Q4_K_M+imatrix``) and those
            that cannot do without.
        split_bytes: larger files are split into parts of at most so many bytes.

    Raises:
        UserError: the conversion failed; the disk is too small (code DISK); the weights do not fit into `intermediate` (code F16); a level
            failed, after the others were made; somebody else is writing there (code BUSY); `imatrix` is no importance matrix; or `out_root`
            holds levels of another model (code OTHER) or somebody's own files where a level belongs.
    """
    checked_imatrix(imatrix)
    assert intermediate in (None, *FLOAT_LEVELS)
    making = _making(merged, out_root, run_id, intermediate, imatrix, split_bytes, log, on_event)
    wanted = parse_levels(levels)
    _refuse_others(making, wanted)
    if not all(_is_made(making, known) for known in wanted):
        with artifacts.only_writer(out_root):  # and look again: somebody may just have finished
            _make(making, [known for known in wanted if not _is_made(making, known)])
    return [artifacts.read(making.folder(known)) for known in wanted]


def float_file(
    merged: Artifact, out_root: Path, *, run_id: str | None = None, log: Path | None = None, on_event: OnEvent | None = None
) -> Artifact:
    """The float file under `out_root` that levels are made from and compared with; converted when it is not there yet."""
    making = _making(merged, out_root, run_id, None, None, SPLIT_BYTES, log, on_event)
    _refuse_others(making, [])
    if found := reference_in(out_root):
        return found
    with artifacts.only_writer(out_root):
        if found := reference_in(out_root):
            return found
        _check_disk(making, [])
        return _convert(making, "auto")


def adapter_file(
    adapter: Artifact, out: Path | None = None, *, dtype: str = "auto", log: Path | None = None, on_event: OnEvent | None = None
) -> Path:
    """The adapter as a GGUF LoRA file, ``Name-F16-LoRA.gguf`` in `out` (a folder; by default the one that the adapter's folder lies in).

    `dtype`: f16, bf16, f32, or auto for the narrowest one that holds its weights.
    """
    folder = out or adapter.folder.parent
    artifacts.make_folder(folder)
    name = re.sub(r"[^\w.-]+", "-", adapter.name)
    with artifacts.only_writer(folder / f"{name}-LoRA"), _workshop(folder, f"{ADAPTER_WORKSHOP}{name}@") as workshop:
        made = workshop / "adapter.gguf"
        found = converter.convert_adapter(
            adapter.folder,
            base_folder(adapter),
            made,
            dtype=dtype,
            name=adapter.name,
            metadata=gguf_metadata(adapter),
            log=log,
            on_event=on_event,
        )
        known = level(found)
        file = folder / file_name(adapter.name, known).replace(".gguf", "-LoRA.gguf")
        paths.fsync(made)
        os.replace(made, file)
    return file


def convertible(reference: str, token: str | None = None) -> Artifact:
    """What can become GGUF: an artifact or a local folder, or a model of the Hub, fetched with the caller's token.

    Raises:
        UserError: there is no such model, or it needs code of its own or pickles to load.
    """
    if models.HUB_ID.fullmatch(reference) and not Path(reference).expanduser().exists():
        found = models.resolve(reference, token=token)
        return Artifact(id=reference, kind="merged", name=reference.partition("/")[2], base_revision=found.revision, folder=found.path)
    artifact = artifacts.resolve(reference)
    if artifact.kind == "merged":
        models.check_folder(artifact.folder)
    return artifact


def _making(
    merged: Artifact,
    out_root: Path,
    run_id: str | None,
    intermediate: str | None,
    imatrix: Path | None,
    split_bytes: int,
    log: Path | None,
    on_event: OnEvent | None,
) -> Making:
    artifacts.make_folder(out_root)
    return Making(merged, out_root, run_id, intermediate, imatrix, split_bytes, log, on_event, artifacts.fingerprint(merged.folder))


def _refuse_others(making: Making, wanted: list[Level]) -> None:
    """Refuse folders that hold another model's level, or no level at all and so somebody's own files."""
    for known in {known.name: known for known in (*map(level, FLOAT_LEVELS), *wanted)}.values():
        folder = making.folder(known)
        artifacts.refuse_target(folder)
        made_from = artifacts.read(folder).made_from if (folder / artifacts.MANIFEST).is_file() else None
        if made_from and made_from != making.made_from:
            raise UserError(
                f"{folder} was made from another model than {making.merged.name}, or from an earlier state of it.",
                str(making.out_root),
                "Choose another folder with -o, or delete that one.",
                "OTHER",
            )


@contextmanager
def _workshop(root: Path, prefix: str = WORKSHOP) -> Generator[Path]:
    """A folder for what is not finished yet; what a killed process left of its own goes first, as nobody else writes that here now."""
    for left in root.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _make(making: Making, missing: list[Level]) -> None:
    _check_disk(making, missing)
    failures: list[UserError] = []
    for known in missing:
        if known.group == "float" and not _is_made(making, known):
            try:
                _convert(making, known.name)
            except UserError as error:
                if error.code != "F16":
                    raise
                failures.append(error)
    if quantised := [known for known in missing if known.group != "float"]:
        _quantise_all(making, _source(making) or _convert(making, making.intermediate or "auto"), quantised)
    for error in failures:
        raise error


def _source(making: Making) -> Artifact | None:
    """The float file that levels are to be quantised from, where it is there."""
    if not making.intermediate:
        return reference_in(making.out_root)
    folder = making.folder(level(making.intermediate))
    return artifacts.read(folder) if (folder / artifacts.MANIFEST).is_file() else None


def reference_in(out_root: Path) -> Artifact | None:
    """The float file that the levels there are made from and compared with."""
    folders = (out_root / folder_name(level(name)) for name in FLOAT_LEVELS)
    return next((artifacts.read(folder) for folder in folders if (folder / artifacts.MANIFEST).is_file()), None)


def _is_made(making: Making, known: Level) -> bool:
    """Whether the level is there, made from the same float format and with the same importance matrix, where they are given now."""
    folder = making.folder(known)
    if not (folder / artifacts.MANIFEST).is_file():
        return False
    made = artifacts.read(folder)
    if known.group != "float" and making.intermediate and made.float_level != making.intermediate:
        return False
    return not known.is_guided or not making.imatrix or made.imatrix_sha256 == making.imatrix_sha256


def folder_name(known: Level) -> str:
    return "gguf-" + known.name.lower().replace("_", "-").replace("+", "-")


def _check_disk(making: Making, missing: list[Level]) -> None:
    to_write = set(missing) if _source(making) else {*missing, level(making.intermediate or "f16")}
    needed = converter.expected_bytes(making.merged.folder, "f16") * sum(known.bits for known in to_write) / 16
    paths.require_disk(making.out_root, int(needed * 1.05), "Making GGUF files")


def _convert(making: Making, dtype: str) -> Artifact:
    """The float file of that format; ``auto`` finds one that holds the weights."""
    with _workshop(making.out_root) as workshop:
        file, merged = workshop / "model.gguf", making.merged
        dtype, why = converter.convert(
            merged.folder,
            file,
            dtype=dtype,
            name=merged.name,
            metadata=gguf_metadata(merged),
            log=making.log,
            on_event=making.on_event,
        )
        known = level(dtype)
        named = file.rename(workshop / file_name(merged.name, known, converter.num_parameters(merged.folder)))
        _finish(making, merged, known, named, why)
    return artifacts.read(making.folder(known))


def _quantise_all(making: Making, source: Artifact, wanted: list[Level]) -> None:
    """One child process for all levels; each file moves to its artifact folder the moment it is whole."""
    by_name = {known.name: known for known in wanted}
    stem = re.sub(r"-\w+(-\d{5}-of-\d{5})?\.gguf$", "", source.gguf_path.name)
    with _workshop(making.out_root) as workshop:
        quantise(
            source.gguf_path,
            {known.name: workshop / f"{stem}-{known.encoding}.gguf" for known in wanted},
            imatrix=making.imatrix,
            log=making.log,
            on_event=making.on_event,
            on_done=lambda name, file: _finish(making, source, by_name[name], file),
        )


def _finish(making: Making, origin: Artifact, known: Level, file: Path, float_reason: str = "") -> None:
    """Move a whole file into the artifact folder of its level, split where it is too large."""
    with paths.building(making.folder(known)) as partial:
        for part in split_gguf(file, making.split_bytes):
            os.replace(part, partial / part.name)
        artifacts.write(_describe(making, origin, known).model_copy(update={"float_reason": float_reason}), partial)


def _describe(making: Making, origin: Artifact, known: Level) -> Artifact:
    run_id = making.run_id or origin.run_id
    return Artifact(
        id=artifacts.artifact_id(run_id or re.sub(r"[^a-z0-9]+", "-", origin.name.lower()).strip("-"), known.name),
        kind="gguf",
        level=known.name,
        name=origin.name,
        run_id=run_id,
        parent_id=origin.id,
        base_model=origin.base_model,
        base_revision=origin.base_revision,
        dataset_id=origin.dataset_id,
        dataset_sha256=origin.dataset_sha256,
        recipe_sha256=origin.recipe_sha256,
        float_level=origin.level,
        imatrix_sha256=making.imatrix_sha256 if known.is_guided else None,
        made_from=making.made_from,
    )

"""From a merged model to finished GGUF artifacts: f16 first, then every level asked for, each with its manifest."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from core import paths
from core.export import artifacts, converter
from core.export.artifacts import Artifact
from core.export.jobs import OnEvent
from core.export.levels import Level, level, parse_levels
from core.export.quantise import quantise

SOURCE_LEVEL = "f16"  # every quantised level is made from this file


def make_gguf(
    merged: Artifact,
    levels: Sequence[str],
    out_root: Path,
    *,
    run_id: str | None = None,
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> list[Artifact]:
    """The GGUF artifacts of `merged`, one folder each under `out_root` (``gguf-q4-0``), in the order asked for.

    What is finished already is kept, so the call can be repeated after any interruption. The f16 file is made whenever another level
    needs it, and returned only when it was asked for.

    Raises:
        UserError: the conversion failed; the disk is too small (code DISK); or a level failed, after the others were made.
    """
    wanted = parse_levels(levels)
    folders = {known.name: out_root / folder_name(known) for known in wanted}
    missing = [known for known in wanted if not (folders[known.name] / artifacts.MANIFEST).is_file()]
    if missing:
        _check_disk(merged, missing, out_root)
        source = _float_file(merged, level(SOURCE_LEVEL), out_root, run_id, log, on_event)
        for known in missing:
            if known.group == "float" and known.name != SOURCE_LEVEL:
                _float_file(merged, known, out_root, run_id, log, on_event)
        compressed = [known for known in missing if known.group != "float"]
        _quantise_all(source, compressed, out_root, run_id=run_id, log=log, on_event=on_event)
    return [artifacts.read(folder) for folder in folders.values()]


def folder_name(known: Level) -> str:
    return "gguf-" + known.name.lower().replace("_", "-")


def file_name(name: str, known: Level) -> str:
    """``Starter-Identity-Q4_0.gguf``, as the GGUF naming convention has it."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "Model"
    return f"{safe}-{known.encoding}.gguf"


def _check_disk(merged: Artifact, missing: list[Level], out_root: Path) -> None:
    source_bytes = converter.expected_bytes(merged.folder, SOURCE_LEVEL)
    has_source = (out_root / folder_name(level(SOURCE_LEVEL)) / artifacts.MANIFEST).is_file()
    others = sum(known.bits for known in missing if known.name != SOURCE_LEVEL)
    needed = source_bytes * (others / 16 + (0 if has_source else 1))
    paths.require_disk(out_root, int(needed * 1.05), "Making GGUF files")


def _float_file(merged: Artifact, known: Level, out_root: Path, run_id: str | None, log: Path | None, on_event: OnEvent | None) -> Artifact:
    folder = out_root / folder_name(known)
    if (folder / artifacts.MANIFEST).is_file():
        return artifacts.read(folder)
    with paths.building(folder) as partial:
        out_file = partial / file_name(merged.name, known)
        converter.convert(
            merged.folder, out_file, dtype=known.name, name=merged.name, base_model=merged.base_model, log=log, on_event=on_event
        )
        artifacts.write(_describe(merged, known, merged.id, run_id), partial)
    return artifacts.read(folder)


def _quantise_all(
    source: Artifact, wanted: list[Level], out_root: Path, *, run_id: str | None, log: Path | None, on_event: OnEvent | None
) -> None:
    """One child process for all levels; each file moves to its artifact folder the moment it is whole."""
    if not wanted:
        return
    by_name = {known.name: known for known in wanted}
    workshop = out_root / "quantising.partial"
    shutil.rmtree(workshop, ignore_errors=True)
    workshop.mkdir(parents=True)

    def finish(name: str, file: Path) -> None:
        with paths.building(out_root / folder_name(by_name[name])) as partial:
            os.replace(file, partial / file.name)
            artifacts.write(_describe(source, by_name[name], source.id, run_id), partial)

    try:
        outputs = {known.name: workshop / file_name(source.name, known) for known in wanted}
        quantise(source.gguf_path, outputs, log=log, on_event=on_event, on_done=finish)
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _describe(origin: Artifact, known: Level, parent_id: str, run_id: str | None) -> Artifact:
    run_id = run_id or origin.run_id
    return Artifact(
        id=artifacts.artifact_id(run_id or re.sub(r"[^a-z0-9]+", "-", origin.name.lower()).strip("-"), known.name),
        kind="gguf",
        level=known.name,
        name=origin.name,
        run_id=run_id,
        parent_id=parent_id,
        base_model=origin.base_model,
        base_revision=origin.base_revision,
        dataset_id=origin.dataset_id,
        dataset_sha256=origin.dataset_sha256,
        recipe_sha256=origin.recipe_sha256,
    )

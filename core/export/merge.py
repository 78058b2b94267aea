"""Merge: a LoRA adapter added into its unquantised base, shard by shard, in the memory of one tensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core import paths, process
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact

# Carried along from the base; what the adapter folder holds of the tokenizer wins, because it was trained with.
FROM_BASE = ("config.json", "generation_config.json", "*.safetensors.index.json", "LICENSE*", "NOTICE*")
FROM_ADAPTER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja",
    "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip


def merge_adapter(
    adapter: Artifact, out: Path, *, log: Path | None = None, on_event: Callable[[dict[str, Any]], None] | None = None
) -> Artifact:
    """The merged model of `adapter` in the folder `out`, in the dtype of its base.

    Raises:
        UserError: not an adapter, its base is missing or another one, an empty or broken adapter, too little disk.
    """
    if adapter.kind != "adapter":
        raise UserError(f"{adapter.name} is a {adapter.kind} artifact.", adapter.id, "Only adapters can be merged.")
    base = base_folder(adapter)
    base_bytes = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    paths.require_disk(out.parent, base_bytes, "Merging")
    with paths.building(out) as partial:
        payload = {"base": str(base), "adapter": str(adapter.folder), "out": str(partial)}
        process.call_child("core.export.merge_child", payload, step="merge", log=log, on_event=on_event)
        for source, patterns in ((base, FROM_BASE), (base, FROM_ADAPTER), (adapter.folder, FROM_ADAPTER)):
            for path in (path for pattern in patterns for path in source.glob(pattern)):
                shutil.copyfile(path, partial / path.name)
        provenance = adapter.model_dump(exclude={"id", "kind", "files", "created_s", "measured", "proofs", "folder", "parent_id"})
        name = artifacts.artifact_id(adapter.run_id, "merged") if adapter.run_id else str(out)
        merged = artifacts.write(Artifact(id=name, kind="merged", parent_id=adapter.id, **provenance), partial)
    return merged.model_copy(update={"folder": out})


def base_folder(adapter: Artifact) -> Path:
    """The folder of the unquantised base that the adapter was trained on."""
    from core.training.models import resolve

    if adapter.base_path and (Path(adapter.base_path) / "config.json").is_file():
        return Path(adapter.base_path)
    if not adapter.base_model:
        raise UserError(
            f"{adapter.name} does not say which base it belongs to.", adapter.id, "Its adapter_config.json needs base_model_name_or_path."
        )
    return resolve(adapter.base_model, adapter.base_revision).path

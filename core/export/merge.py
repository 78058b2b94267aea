"""Merge: a LoRA adapter added into its unquantised base, block by block, in the memory of a few blocks however large the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core import paths, process
from core.errors import UserError
from core.export import artifacts
from core.export.adapter import adapter_config, unstreamed
from core.export.artifacts import Artifact
from core.export.tensors import weight_bytes, weights_fingerprint

FROM_BASE = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "LICENSE*", "LICENCE*", "NOTICE*", "Notice*", "USE_POLICY*",
)  # fmt: skip
# What the adapter folder holds of the tokenizer wins, because it was trained with.
TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json",
)  # fmt: skip
WHOLE_PASSES = 4  # over the weights without a word, where PEFT merges: read, merge, look for NaN, write
TEMPLATES = ("chat_template.jinja", "chat_template.json")


def merge_adapter(
    adapter: Artifact, out: Path, *, log: Path | None = None, on_event: Callable[[dict[str, Any]], None] | None = None
) -> Artifact:
    """The merged model of `adapter` in the folder `out`, in the dtype of its base.

    An `on_event` that raises ends the merge and leaves nothing behind.

    Args:
        on_event: gets ``{"event": "progress", "done", "total", "unit": "bytes"}``.

    Raises:
        UserError: not an adapter, its base is missing, quantised or another one, an empty or broken adapter, too little disk, or an `out`
            that holds something else or is being written.
    """
    if adapter.kind != "adapter":
        raise UserError(f"{adapter.name} is a {adapter.kind} artifact.", adapter.id, "Only adapters can be merged.")
    base = base_folder(adapter)
    if is_its_base(adapter, base) is False:
        raise UserError(
            f"{paths.model_name(base)} is not the base that {adapter.name} was trained on: its weights are others.",
            str(base),
            f"Name that one as base_path in {adapter.folder / artifacts.MANIFEST}, or train again on this one.",
            "BASE",
        )
    artifacts.refuse_target(out, keep=(base, adapter.folder))
    artifacts.make_folder(out.parent)
    paths.require_disk(out.parent, weight_bytes(base), "Merging")
    with artifacts.only_writer(out), paths.building(out) as partial:
        payload = {"base": str(base), "adapter": str(adapter.folder), "out": str(partial)}
        made = _run_child(payload, unstreamed(adapter_config(adapter.folder)), log, on_event)
        for source in carried(base, adapter.folder):
            shutil.copyfile(source, partial / source.name)
        provenance = adapter.model_dump(exclude={"id", "kind", "files", "created_s", "measured", "proofs", "folder", "parent_id"})
        name = artifacts.artifact_id(adapter.run_id, "merged") if adapter.run_id else str(out)
        artifact = Artifact(id=name, kind="merged", parent_id=adapter.id, **provenance)
        merged = artifacts.write(artifact, partial, known_sha256=made["sha256"])
    return merged.model_copy(update={"folder": out})


def _run_child(payload: dict[str, Any], reason: str | None, log: Path | None, on_event: Callable[[dict[str, Any]], None] | None) -> Any:
    """Merge block by block, or with PEFT's own merge when the adapter is of a kind (`reason`) that only PEFT knows."""
    timeout_s = process.patience_s(WHOLE_PASSES * weight_bytes(Path(payload["base"])))
    if not reason:
        try:
            return process.call_child("core.export.merge_child", payload, step="Merging", log=log, on_event=on_event, timeout_s=timeout_s)
        except UserError as error:
            if error.code != "FUSED":
                raise
            reason = "the base holds the weights that it changes in several parts"
    payload |= {"reason": reason}
    return process.call_child("core.export.merge_whole_child", payload, step="Merging", log=log, on_event=on_event, timeout_s=timeout_s)


def carried(base: Path, adapter: Path) -> Iterator[Path]:
    """The files that go along with the weights; what comes later wins."""
    yield from (path for pattern in FROM_BASE for path in sorted(base.glob(pattern)) if path.is_file())
    yield from (base / name for name in TOKENIZER if (base / name).is_file())
    yield from (adapter / name for name in TOKENIZER if (adapter / name).is_file())
    templates = [adapter / name for name in TEMPLATES if (adapter / name).is_file()]
    if not templates and not _has_own_template(adapter):
        templates = [base / name for name in TEMPLATES if (base / name).is_file()]
    yield from templates


def _has_own_template(adapter: Path) -> bool:
    """Whether the adapter's tokenizer_config.json holds a template; a file of the base would hide it."""
    config = adapter / "tokenizer_config.json"
    return config.is_file() and bool(paths.read_json(config).get("chat_template"))


def is_its_base(adapter: Artifact, base: Path) -> bool | None:
    """Whether the weights in `base` are those that the adapter was trained on; None when the adapter does not say which those were."""
    return weights_fingerprint(base) == adapter.base_weights if adapter.base_weights else None


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

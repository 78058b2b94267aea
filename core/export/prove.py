"""Proofs: what was trained is what is merged, what is in the GGUF file, and so what is chatted with and published."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core import process
from core.conversation import Conversation
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.gguf import FLOAT_LEVELS, reference_in
from core.export.header import gguf_header, gguf_template
from core.export.jobs import OnEvent
from core.export.merge import base_folder, is_its_base
from core.export.tensors import weight_bytes
from core.training.architecture import positions, read_config
from core.training.recipe import Recipe

# Thresholds of each proof: the figure must not be above (KL) or below (top-1) them.
MAX_MERGE_KL, MIN_MERGE_TOP1 = 1e-3, 0.98
MAX_GGUF_KL, MIN_GGUF_TOP1 = 1e-4, 0.995
MAX_POSITIONS = 1024
MAX_TABLE_BYTES = 512 * 2**20
UNDECIDED = ("MEMORY", "DISK", "EMPTY")  # codes of errors that say nothing about the model


def prove_run(
    folder: Path,
    recipe: Recipe,
    conversations: list[Conversation],
    log: Path | None = None,
    on_event: OnEvent | None = None,
    *,
    elsewhere: Artifact | None = None,
) -> dict[str, Any]:
    """Prove the artifacts of a run, store the proofs in their manifests and return them all.

    `elsewhere`: a merged model of the run outside its `folder`; then only that one is proved, with the float file beside it.

    Keys: base_identical, template_identical, tokens_identical, merge_kl, merge_top1, gguf_kl, gguf_top1, trained_to_merged_kl,
    trained_to_merged_top1, passed; and levels: template and tokens of each further GGUF file, by level. A level's manifest has its own.
    KL is the mean over answer tokens of KL(reference || candidate) in nats; top-1 is the share of equal best tokens.
    A proof that could not be made has not held: its ``error`` (a code) is stored with ``passed`` False, unless the machine is to blame.

    Raises:
        UserError: no merged model; too little memory (code MEMORY); no answer to compare on (code EMPTY); or a proof could not be made.
    """
    if elsewhere is None and not (folder / "merged" / artifacts.MANIFEST).is_file():
        raise UserError(
            "The run has no merged model, so there is nothing to compare.", str(folder), "Merge it first: python -m core merge RUN."
        )
    nf4 = {"double_quant": recipe.double_quant} if recipe.method == "qlora" else None
    merged = elsewhere or artifacts.read(folder / "merged")
    adapter = artifacts.read(folder / "adapter") if (folder / "adapter" / artifacts.MANIFEST).is_file() else None
    f16 = reference_in(merged.folder.parent)
    if elsewhere and f16 and f16.made_from != artifacts.fingerprint(merged.folder):
        f16 = None  # of another model
    proved = [artifact for artifact in (elsewhere, f16) if artifact] if elsewhere else artifacts.of_run(folder.parent)
    try:
        proofs = prove(
            merged,
            adapter,
            f16,
            conversations,
            levels=[artifact for artifact in proved if artifact.kind == "gguf"],
            nf4=nf4,
            max_length=recipe.max_length,
            log=log,
            on_event=on_event,
        )
    except UserError as error:
        if error.code not in UNDECIDED:
            for artifact in proved:
                artifacts.update(artifact, proofs={"passed": False, "error": error.code or "REFUSED"})
        raise
    for artifact in proved:
        artifacts.update(artifact, proofs=proofs_of(artifact, proofs))
    return proofs


def prove_lone(
    merged: Artifact, root: Path, conversations: list[Conversation], *, log: Path | None = None, on_event: OnEvent | None = None
) -> dict[str, Any]:
    """As `prove_run`, of a model of no run: against the adapter it was merged from, and with the GGUF files of it under `root`."""
    made_from = artifacts.fingerprint(merged.folder)
    levels = [artifacts.read(manifest.parent) for manifest in sorted(root.glob(f"gguf-*/{artifacts.MANIFEST}"))]
    levels = [level for level in levels if level.made_from == made_from]
    f16 = next((level for name in FLOAT_LEVELS for level in levels if level.level == name), None)
    adapter = artifacts.resolve(merged.parent_id) if merged.parent_id and Path(merged.parent_id).is_dir() else None
    proofs = prove(merged, adapter, f16, conversations, levels=levels, log=log, on_event=on_event)
    for artifact in (merged, *levels):
        if (artifact.folder / artifacts.MANIFEST).is_file():
            artifacts.update(artifact, proofs=proofs_of(artifact, proofs))
    return proofs


def proofs_of(artifact: Artifact, proofs: dict[str, Any]) -> dict[str, Any]:
    """What of a run's proofs is said of this artifact: of a level what its own file says, and what it says counts for no other."""
    common = {name: value for name, value in proofs.items() if name != "levels"}
    own = common | proofs.get("levels", {}).get(artifact.level, {}) if artifact.kind == "gguf" else common
    return (own if artifact.kind == "gguf" else proofs) | {"passed": passed(own)}


def prove(
    merged: Artifact,
    adapter: Artifact | None,
    f16: Artifact | None,
    conversations: list[Conversation],
    *,
    levels: Sequence[Artifact] = (),
    nf4: dict[str, bool] | None = None,
    max_length: int | None = None,
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, Any]:
    """The proofs of one merged model against the adapter it came from and the f16 GGUF file made of it; whichever is there.

    `levels` are further GGUF files of it, whose template and tokens are compared.
    `nf4` describes the 4-bit base that the adapter was trained on (``{"double_quant": bool}``), None when it was not quantised.
    Conversations are cut after `max_length` tokens, as in training, and where the model's context ends.
    `on_event` gets ``{"event": "progress", "done", "total", "text"}``: the conversations that the model named in `text` has read.
    """
    limits = (max_length, positions(read_config(merged.folder)), gguf_header(f16.gguf_path).context_length if f16 else None)
    rows = labelled_rows(merged.folder, conversations, min((limit for limit in limits if limit), default=None))
    if not rows:
        raise UserError(
            "There is no answer to compare on.",
            "the conversations",
            "Give conversations whose answers lie within the model's context.",
            "EMPTY",
        )
    is_its_own = is_its_base(adapter, base_folder(adapter)) if adapter else None
    proofs: dict[str, Any] = {} if is_its_own is None else {"base_identical": is_its_own}
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "merged.npy"
        payload = {
            "merged": str(merged.folder),
            "adapter": str(adapter.folder) if adapter else None,
            "base": str(base_folder(adapter)) if adapter else None,
            "nf4": nf4,
            "rows": [{"input_ids": row["input_ids"], "positions": row["positions"]} for row in rows],
            "table": str(table) if f16 else None,
            "max_table_bytes": MAX_TABLE_BYTES,
            "scratch": scratch,
        }
        timeout_s = process.patience_s(weight_bytes(merged.folder), max((len(row["input_ids"]) for row in rows), default=0))
        proofs |= process.call_child("core.export.prove_child", payload, step="Proving", log=log, on_event=on_event, timeout_s=timeout_s)
        if f16:
            proofs |= prove_gguf(merged, f16, rows, table)
    others = [level for level in levels if not f16 or level.id != f16.id]
    if others:
        proofs["levels"] = prove_levels(merged, others, rows, log=log, on_event=on_event)
    return proofs | {"num_positions": sum(len(row["positions"]) for row in rows), "passed": passed(proofs)}


def prove_levels(
    merged: Artifact, levels: Sequence[Artifact], rows: list[dict[str, Any]], *, log: Path | None = None, on_event: OnEvent | None = None
) -> dict[str, dict[str, Any]]:
    """template_identical and tokens_identical of each GGUF file by its level; the error's code where it cannot be asked."""
    found: dict[str, dict[str, Any]] = {}
    for number, level in enumerate(levels, 1):
        name = level.level or level.id
        try:
            found[name] = says_the_same(merged, level, rows, log)
        except UserError as error:
            if error.code in UNDECIDED:
                raise
            found[name] = {"error": error.code or "REFUSED"}
        if on_event:
            on_event({"event": "progress", "done": number, "total": len(levels), "text": f"{name}'s template and tokens"})
    return found


def says_the_same(merged: Artifact, file: Artifact, rows: list[dict[str, Any]], log: Path | None = None) -> dict[str, bool]:
    """Whether a GGUF file has the merged model's template, and its token ids of the rows' texts."""
    from core.export.llama import gguf_tokenize

    path = file.gguf_path
    return {
        "template_identical": gguf_template(path) == (merged.folder / "chat_template.jinja").read_text(encoding="utf-8"),
        "tokens_identical": gguf_tokenize(path, [row["text"] for row in rows], log=log) == [row["whole"] for row in rows],
    }


def prove_gguf(merged: Artifact, f16: Artifact, rows: list[dict[str, Any]], table: Path) -> dict[str, Any]:
    """The GGUF file renders, tokenises and predicts as the merged model does; `table` holds the merged model's log-probabilities (N, V)."""
    import numpy as np

    from core.export.llama import gguf_logprobs

    reference = np.load(table, mmap_mode="r")  # (N, V)
    out = gguf_logprobs(f16.gguf_path, [row["input_ids"] for row in rows], [row["positions"] for row in rows], table.with_name("gguf.npy"))
    candidate = np.load(out, mmap_mode="r")  # (N, V)
    kl, top1 = compare(reference, candidate[: len(reference)])
    return {**says_the_same(merged, f16, rows), "gguf_kl": kl, "gguf_top1": top1}


def compare(reference: Any, candidate: Any) -> tuple[float, float]:
    """(mean KL in nats, top-1 agreement) of two tables of log-probabilities (N, V), in blocks so that memory stays flat."""
    import numpy as np

    kl_sum, agreed = 0.0, 0
    for begin in range(0, len(reference), 256):
        p = np.asarray(reference[begin : begin + 256], dtype=np.float64)
        q = np.asarray(candidate[begin : begin + 256], dtype=np.float64)
        kl_sum += float((np.exp(p) * (p - q)).sum())
        agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
    return kl_sum / len(reference), agreed / len(reference)


def labelled_rows(model: Path, conversations: list[Conversation], max_length: int | None = None) -> list[dict[str, Any]]:
    """Token rows with the positions whose next token carries loss, up to `MAX_POSITIONS` of them in all.

    ``input_ids`` end after `max_length` tokens, ``whole`` are those of the whole ``text``.
    """
    from core.data.render import tokenize
    from core.data.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    rows: list[dict[str, Any]] = []
    left = MAX_POSITIONS
    for conversation in conversations:
        sample = tokenize(conversation, tokenizer)
        places = [index - 1 for index, label in enumerate(sample.labels[:max_length]) if label != -100 and index > 0][:left]
        if places:
            ids = list(sample.input_ids)
            rows.append({"input_ids": ids[:max_length], "positions": places, "text": sample.text, "whole": ids})
            left -= len(places)
        if left <= 0:
            break
    return rows


def passed(proofs: dict[str, Any]) -> bool | None:
    """Whether every proof that was made holds; None when there was nothing to compare."""
    holds: dict[str, Callable[[Any], bool]] = {
        "error": lambda _: False,
        "base_identical": bool,
        "levels": lambda levels: all(passed(own) for own in levels.values()),
        "template_identical": bool,
        "tokens_identical": bool,
        "merge_kl": lambda kl: kl <= MAX_MERGE_KL,
        "merge_top1": lambda top1: top1 >= MIN_MERGE_TOP1,
        "gguf_kl": lambda kl: kl <= MAX_GGUF_KL,
        "gguf_top1": lambda top1: top1 >= MIN_GGUF_TOP1,
    }
    made = [name for name in holds if name in proofs]
    return all(holds[name](proofs[name]) for name in made) if made else None

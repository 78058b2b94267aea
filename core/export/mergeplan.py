"""The plan of a merge: which tensors the merged model has, in which file, and what each is made of. Every refusal comes before any writing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.export.adapter import REMEDY, Adapter, Update, read_adapter
from core.export.names import Layout, layout_of
from core.export.tensors import FLOATS, Stored, model_files, stored_tensors


@dataclass(frozen=True)
class Piece:
    """One tensor of the merged model: `source` of the base, changed by `update` (taken transposed for weights stored (in, out))."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Stored
    update: Update | None = None
    is_transposed: bool = False


@dataclass
class Plan:
    files: dict[str, list[Piece]]  # by file name, in the order of the base
    config: dict[str, Any] = field(default_factory=dict[str, Any])  # what changes in config.json

    @property
    def size_bytes(self) -> int:
        """Of the data as the base stores it, which is what the progress counts."""
        return sum(piece.source.size_bytes for pieces in self.files.values() for piece in pieces)


def make_plan(base: Path, adapter_dir: Path, same: Callable[[Stored, Stored], bool]) -> Plan:
    """The plan of merging the adapter into the base.

    Args:
        same: ``same(a, b)`` says whether two stored tensors hold the same bytes.

    Raises:
        UserError: an empty or broken adapter, one of another base, a quantised base, or shapes that do not fit.
    """
    config = paths.read_json(base / "config.json")
    refuse_quantised(base, config)
    adapter = read_adapter(adapter_dir)
    plan = Plan({file.name: _unchanged(file) for file in model_files(base)})
    layout = layout_of(base, config, [piece.name for pieces in plan.files.values() for piece in pieces])
    updates = _today(adapter, layout)
    modules = [name.removesuffix(".weight") for name in {*layout.names, layout.head} if name.endswith(".weight")]
    if missing := [module for module in adapter.missing(modules) if f"{module}.weight" not in updates]:
        problem = f"The adapter lacks {_several(missing)}, which its configuration means to change."
        raise UserError(problem, adapter.name, "Save the adapter again, from all its parts; this file is not whole.", "ADAPTER")
    is_tied = layout.head not in layout.names or bool(config.get("tie_word_embeddings"))
    if is_tied and (layout.head in updates or layout.embedding in updates):
        _settle_tied(plan, layout, updates, adapter, same)
    by_stored_name = {layout.names[parameter]: parameter for parameter in updates}
    for pieces in plan.files.values():
        for index, piece in enumerate(pieces):
            if parameter := by_stored_name.get(piece.name):
                pieces[index] = _changed(piece, parameter, updates[parameter], layout)
    _resize(plan, config, layout)
    return plan


def refuse_quantised(base: Path, config: dict[str, Any]) -> None:
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "quantised")
        raise UserError(
            f"The base {paths.model_name(base)} is quantised ({method}), and a merge into it would be rounded away.",
            str(base),
            "Name the unquantised model as base_model_name_or_path in adapter_config.json.",
            "BASE",
        )


def _unchanged(file: Path) -> list[Piece]:
    return [Piece(stored.name, stored.dtype, stored.shape, stored) for stored in stored_tensors(file).values()]


def _today(adapter: Adapter, layout: Layout) -> dict[str, Update]:
    """The adapter's updates by the parameter's name in the model of today."""
    found = {name: layout.find(name) for name in adapter.updates}
    if fused := [name for name in adapter.updates if name in layout.fused]:
        problem = f"The adapter changes {_several(fused)}, which the base's files hold in several parts."
        raise UserError(problem, adapter.name, "Merge it with PEFT's merge_and_unload.", "FUSED")
    if unknown := [name for name, today in found.items() if today is None]:
        problem = f"The base has no weight {_several(unknown)}, of {len(found)} that the adapter changes."
        raise UserError(problem, adapter.name, REMEDY, "BASE")
    return {today: adapter.updates[name] for name, today in found.items() if today}


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _settle_tied(plan: Plan, layout: Layout, updates: dict[str, Update], adapter: Adapter, same: Callable[[Stored, Stored], bool]) -> None:
    """One matrix serves as embedding and head. Where only one of the two was trained, or each on its own, the head gets a tensor of its own.

    PEFT's `merge_and_unload` adds both updates to the one matrix, which is not what was trained.
    """
    embedding, head = updates.get(layout.embedding), updates.pop(layout.head, None)
    head_name = layout.names.pop(layout.head, layout.head)
    for pieces in plan.files.values():
        pieces[:] = [piece for piece in pieces if piece.name != head_name]  # a copy that loading ignores
    if embedding and head and (adapter.config.get("ensure_weight_tying") or _equal(embedding, head, same)):
        return
    if embedding and not head and not (embedding.new or embedding.a):
        return  # PEFT ties rows that were trained one by one
    stored_name = layout.names[layout.embedding]
    file, source = next((name, piece.source) for name, pieces in plan.files.items() for piece in pieces if piece.name == stored_name)
    plan.files[file].append(Piece(head_name, source.dtype, source.shape, source))
    plan.config["tie_word_embeddings"] = False
    layout.names[layout.head] = head_name
    if embedding and embedding.a and embedding.new and not head:  # the untrained rows of a resized matrix, which the head goes on using
        head = Update(new=embedding.new)
    if head:
        updates[layout.head] = head
    if head and head.a and head.new and not embedding:
        updates[layout.embedding] = Update(new=head.new)


def _equal(one: Update, other: Update, same: Callable[[Stored, Stored], bool]) -> bool:
    """Whether both do nothing but set the same new values."""
    if not one.new or not other.new or len(one.parts) + len(other.parts) > 2:
        return False
    return same(one.new, other.new)


def _changed(piece: Piece, parameter: str, update: Update, layout: Layout) -> Piece:
    """The piece with its update and the shape that it then has."""
    if piece.dtype not in FLOATS:
        raise UserError(f"{piece.name} is stored as {piece.dtype} in the base.", piece.name, "Take the unquantised base.", "BASE")
    shape = update.new.shape if update.new else piece.shape
    is_resized = shape[1:] == piece.shape[1:] and parameter in (layout.embedding, layout.head, layout.head.replace(".weight", ".bias"))
    if shape != piece.shape and not is_resized:
        raise _misfit(piece, shape)
    is_transposed = update.is_embedding or parameter in layout.transposed
    if update.a and update.b:
        product = (update.b.shape[0], update.a.shape[1])
        if shape != (product[::-1] if is_transposed else product):
            raise _misfit(piece, product[::-1] if is_transposed else product)
    if update.magnitude and update.magnitude.shape != (shape[1 if is_transposed else 0],):
        raise _misfit(piece, update.magnitude.shape)
    if update.added and update.added.shape != shape:
        raise _misfit(piece, update.added.shape)
    if update.rows and (update.rows.shape[1:] != shape[1:] or not all(0 <= row < shape[0] for row in update.row_ids)):
        raise _misfit(piece, update.rows.shape)
    if any(part.dtype not in FLOATS for part in update.parts):
        raise UserError(f"The update for {piece.name} holds no floating-point numbers.", piece.name, REMEDY, "ADAPTER")
    return Piece(piece.name, piece.dtype, shape, piece.source, update, is_transposed)


def _misfit(piece: Piece, shape: tuple[int, ...]) -> UserError:
    return UserError(f"{piece.name} is {piece.shape} in the base and {shape} in the adapter.", piece.name, REMEDY, "BASE")


def _resize(plan: Plan, config: dict[str, Any], layout: Layout) -> None:
    """Note a new vocabulary size, which embedding and head must share."""
    wanted = {layout.names.get(layout.embedding), layout.names.get(layout.head)}
    found = {piece.name: piece for pieces in plan.files.values() for piece in pieces if piece.name in wanted}
    sizes = {piece.shape[0] for piece in found.values()}
    if len(sizes) > 1:
        said = " and ".join(f"{name} {piece.shape[0]}" for name, piece in found.items())
        raise UserError(f"Embedding and head have different numbers of tokens: {said}.", "the adapter", REMEDY, "ADAPTER")
    if any(piece.shape != piece.source.shape for piece in found.values()):
        if "vocab_size" in config:
            plan.config["vocab_size"] = sizes.pop()
        elif "text_config" in config:
            plan.config["text_config"] = config["text_config"] | {"vocab_size": sizes.pop()}

"""What a LoRA adapter changes: its files read into one update per parameter of the base, or a sentence about what is wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.export.artifacts import adapter_weights
from core.export.tensors import Stored, stored_tensors

PREFIX = "base_model.model."
REMEDY = "Merge it with the base it was trained on, or train again."
# Fields of PEFT 0.21's LoraConfig that say nothing about merging, or that are read below. Any other field that is set means a kind of
# adapter that is left to PEFT itself.
STREAMED_FIELDS = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias corda_config ensure_weight_tying eva_config exclude_modules fan_in_fan_out "
    "inference_mode init_lora_weights layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config "
    "megatron_core modules_to_save modules_to_tie peft_type peft_version qalora_group_size r rank_pattern revision runtime_config "
    "target_modules task_type trainable_token_indices use_dora use_rslora".split()
)
# Starting values that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ, ...) take something out of its weights first.
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass
class Update:
    """What happens to one parameter: ``(new or stored weight + scaling * B A)``, rescaled row by row under DoRA, some rows replaced.

    `a` is (r, in) and `b` (out, r). Of an embedding the product is taken transposed, as PEFT does; `a` is then (r, V).
    """

    new: Stored | None = None
    a: Stored | None = None
    b: Stored | None = None
    scaling: float = 1.0
    is_embedding: bool = False
    magnitude: Stored | None = None
    added: Stored | None = None  # of a bias: what is added to it, times `scaling`
    rows: Stored | None = None  # new values of the rows `row_ids`
    row_ids: tuple[int, ...] = ()

    @property
    def parts(self) -> list[Stored]:
        return [part for part in (self.new, self.a, self.b, self.magnitude, self.added, self.rows) if part]


@dataclass(frozen=True)
class Adapter:
    """`updates` by the parameter's name in the model that was trained: ``model.layers.0.self_attn.q_proj.weight``."""

    name: str
    config: dict[str, Any]
    updates: dict[str, Update] = field(default_factory=dict[str, Update])

    def missing(self, modules: Iterable[str]) -> list[str]:
        """Those `modules` of the base that the configuration means and that have no update."""
        return [module for module in modules if self.targets(module) and f"{module}.weight" not in self.updates]

    def targets(self, module: str) -> bool:
        """Whether PEFT puts an adapter on this module (`check_target_module_exists`)."""
        wanted = self.config.get("target_modules") or []
        if any(re.match(rf"(^|.*\.){name}($|\..*)", module) for name in self.config.get("modules_to_save") or []):
            return False
        excluded = self.config.get("exclude_modules") or []
        if re.fullmatch(excluded, module) if isinstance(excluded, str) else _ends_in(module, excluded):
            return False
        if isinstance(wanted, str):
            return wanted != "all-linear" and re.fullmatch(wanted, module) is not None
        return module in wanted or (_ends_in(module, wanted) and self._is_chosen_layer(module))

    def _is_chosen_layer(self, module: str) -> bool:
        chosen: int | list[int] | None = self.config.get("layers_to_transform")
        if chosen is None or chosen == []:
            return True
        patterns = self.config.get("layers_pattern") or []
        patterns = [patterns] if isinstance(patterns, str) else patterns
        tried = [re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module) for pattern in patterns]
        tried = tried if patterns else [re.match(r".*?\.[^.]*\.(\d+)\.", module)]
        match = next((found for found in tried if found), None)
        return match is not None and int(match[1]) in ([chosen] if isinstance(chosen, int) else chosen)


def _ends_in(module: str, names: Iterable[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration.

    Raises:
        UserError: there is none that can be read.
    """
    try:
        config = paths.read_json(folder / "adapter_config.json")
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise UserError("adapter_config.json cannot be read.", str(folder), "Save or fetch the adapter again.", "ADAPTER")
    return config


def unstreamed(config: dict[str, Any]) -> str | None:
    """What makes this adapter one that only PEFT itself can merge, in words; None when there is nothing."""
    if config.get("peft_type") != "LORA":
        return f"its kind is {config.get('peft_type')}"
    if config.get("init_lora_weights", True) not in PLAIN_STARTS:
        return f"it starts from {config['init_lora_weights']}, which changes the base"
    others = sorted(name for name, value in config.items() if name not in STREAMED_FIELDS and value)
    return f"it uses {', '.join(others)}" if others else None


def read_adapter(folder: Path) -> Adapter:
    """The updates of a LoRA adapter.

    Raises:
        UserError: no weights, empty ones, half of a pair, a rank that is not the configured one, or tensors of another kind.
    """
    config = adapter_config(folder)
    tensors = stored_tensors(adapter_weights(folder))
    if not tensors or any(0 in stored.shape for stored in tensors.values()):
        raise UserError(
            "The adapter is empty.", str(folder), "Under ZeRO-3 the weights must be gathered before saving; train again.", "ADAPTER"
        )
    adapter = Adapter(folder.name, config)
    for key, stored in tensors.items():
        _sort_in(adapter, key.removeprefix(PREFIX), stored)
    for name, update in adapter.updates.items():
        _check(adapter, name, update)
    return adapter


def _sort_in(adapter: Adapter, key: str, stored: Stored) -> None:
    """Add one tensor of the adapter to the update it belongs to."""
    kinds = r"lora_[AB]\.weight|lora_B\.bias|lora_embedding_[AB]|lora_magnitude_vector(?:\.weight)?|token_adapter\.trainable_tokens_delta"
    match = re.fullmatch(rf"(.+)\.({kinds})", key)
    if not match:
        if ".lora_" in key or not key.endswith((".weight", ".bias")):
            raise UserError(f"The adapter holds {key}, which is no LoRA tensor.", adapter.name, "Save it again with PEFT.", "ADAPTER")
        adapter.updates.setdefault(key.replace(".base_layer.", "."), Update()).new = stored
        return
    module, kind = match.groups()
    parameter = "bias" if kind == "lora_B.bias" else "weight"
    update = adapter.updates.setdefault(f"{module}.{parameter}", Update())
    update.is_embedding |= "embedding" in kind
    if kind == "token_adapter.trainable_tokens_delta":
        update.rows, update.row_ids = stored, _token_ids(adapter, module)
    elif kind.startswith("lora_magnitude"):
        update.magnitude = stored
    elif kind == "lora_B.bias":
        update.added, update.scaling = stored, scaling(adapter.config, module)
    elif kind in ("lora_A.weight", "lora_embedding_A"):
        update.a, update.scaling = stored, scaling(adapter.config, module)
    else:
        update.b = stored


def _token_ids(adapter: Adapter, module: str) -> tuple[int, ...]:
    """The rows that were trained; a list speaks of the input embedding, a dict of modules by name."""
    chosen: dict[str, list[int]] | list[int] = adapter.config.get("trainable_token_indices") or []
    if isinstance(chosen, dict):
        chosen = next((ids for name, ids in chosen.items() if _ends_in(module, [name])), [])
    return tuple(chosen)


def _check(adapter: Adapter, name: str, update: Update) -> None:
    if (update.a is None) != (update.b is None) or (update.magnitude and not update.a):
        raise UserError(f"The adapter has only half of its update for {name}.", adapter.name, REMEDY, "ADAPTER")
    if update.a and update.b:
        expected = rank(adapter.config, name.removesuffix(".weight"))
        if not len(update.a.shape) == len(update.b.shape) == 2 or {update.a.shape[0], update.b.shape[1]} != {expected}:
            raise UserError(
                f"The update for {name} is {update.b.shape} times {update.a.shape}, and its rank should be {expected}.",
                adapter.name,
                "adapter_config.json and adapter_model.safetensors must be of the same training; save the adapter again.",
                "ADAPTER",
            )
    if update.rows and len(update.row_ids) != update.rows.num_rows:
        problem = f"The adapter has {update.rows.num_rows} new rows for {name} and names {len(update.row_ids)}."
        raise UserError(problem, adapter.name, "Save the adapter again.", "ADAPTER")


def rank(config: dict[str, Any], module: str) -> int:
    return int(_of_module(config.get("rank_pattern"), module, config.get("r", 8)))


def scaling(config: dict[str, Any], module: str) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv:2312.03732)."""
    r = rank(config, module)
    alpha = _of_module(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    return alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r


def _of_module(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that fits, as PEFT's `get_pattern_key` finds it."""
    return next((value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", module)), default)

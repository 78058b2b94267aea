"""The files that `accelerate launch` and DeepSpeed read: those of spaces/, or a recipe's own in their place, which are checked before a start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from core import paths
from core.errors import UserError
from core.process import call_child
from core.training.hardware import Hardware
from core.training.launch import DEEPSPEED, OWN_DEEPSPEED, OWN_FILE, config_of, file_of
from core.training.recipe import Recipe

WHERE, WHERE_DEEPSPEED = "accelerate_yaml", "deepspeed_json"
SETTINGS = "deepspeed_config_file"  # the key of the accelerate file that names DeepSpeed's
KINDS = {"cpu": ("NO", "MULTI_CPU", "MULTI_GPU"), "single_gpu": ("NO",), "ddp": ("MULTI_CPU", "MULTI_GPU"), "fsdp2": ("FSDP",)}
# What a file may set. Which program runs, where, and in which precision is the run's to say.
KEYS = set(
    "compute_environment distributed_type use_cpu debug num_machines machine_rank num_processes gpu_ids rdzv_backend same_network "
    "main_training_function enable_cpu_affinity downcast_bf16 fsdp_config deepspeed_config".split()
)


def texts(recipe: Recipe, config: str, hardware: Hardware) -> tuple[str, str]:
    """(accelerate's file, DeepSpeed's) that `recipe` is launched with under the configuration `config`; the second is empty without ZeRO."""
    own = recipe.accelerate_yaml if recipe.accelerate_yaml.strip() else file_of(config, hardware).read_text(encoding="utf-8")
    if config not in DEEPSPEED:
        return own, ""
    if recipe.deepspeed_json.strip():
        return own, recipe.deepspeed_json
    return own, (paths.SPACES / "deepspeed" / f"{config}.json").read_text(encoding="utf-8")


def own_files(recipe: Recipe, hardware: Hardware, folder: Path, prefix: str = "") -> dict[Path, str]:
    """The files of a recipe that has its own, by where they go in `folder`; the first names the second. Empty where it has none."""
    if not recipe.has_own_files:
        return {}
    text, settings = texts(recipe, config_of(recipe, hardware), hardware)
    file, beside = folder / f"{prefix}{OWN_FILE}", folder / f"{prefix}{OWN_DEEPSPEED}"
    if not recipe.deepspeed_json.strip():
        return {file: text}
    values = yaml.safe_load(text)
    values["deepspeed_config"] = (values.get("deepspeed_config") or {}) | {SETTINGS: str(beside)}
    return {file: yaml.safe_dump(values, sort_keys=False), beside: settings}


def check(recipe: Recipe) -> None:
    """Refuse files that are none, or are for another distribution than the recipe's.

    Raises:
        UserError: with the place and what it takes.
    """
    if not recipe.has_own_files:
        return
    if recipe.accelerate_config == "auto":
        remedy = "Set accelerate_config to what the file is for, for example fsdp2, or leave the file out."
        raise UserError("A file of one's own needs a distribution that is chosen.", "accelerate_config", remedy)
    if recipe.accelerate_yaml.strip():
        _check_file(_mapping(recipe.accelerate_yaml, WHERE), recipe.accelerate_config)
    if recipe.deepspeed_json.strip():
        _check_settings(recipe)


def _check_file(values: dict[str, Any], config: str) -> None:
    if unknown := sorted(str(key) for key in set(values) - KEYS):
        remedy = f"Take it out; the file may have: {', '.join(sorted(KEYS))}."
        raise UserError(f"{' and '.join(unknown)} cannot be set here.", WHERE, remedy)
    kind, kinds = values.get("distributed_type"), KINDS.get(config, ("DEEPSPEED",))
    if kind not in kinds:
        remedy = f"Write distributed_type: {kinds[0]}, or set accelerate_config to what the file is for."
        raise UserError(f"The file is for {kind} and the distribution is {config}.", WHERE, remedy)
    if values.get("compute_environment") != "LOCAL_MACHINE":
        raise UserError("The file is for another place than this machine.", WHERE, "Write compute_environment: LOCAL_MACHINE.")
    for part in ("fsdp_config", "deepspeed_config"):
        if not isinstance(values.get(part, {}), dict):
            raise UserError(f"{part} holds no keys and values.", WHERE, "Write one `key: value` a line, indented.")
    named = values.get("deepspeed_config", {}).get(SETTINGS)
    shipped = [f"spaces/deepspeed/{file.name}" for file in sorted((paths.SPACES / "deepspeed").glob("*.json"))]
    if named is not None and named not in shipped:
        remedy = f"Name one of {', '.join(shipped)}, and put what shall differ into deepspeed_json."
        raise UserError(f"{named} is no file that ships with Transmute.", WHERE, remedy)


def _check_settings(recipe: Recipe) -> None:
    if recipe.accelerate_config not in DEEPSPEED:
        remedy = "Empty it, or set accelerate_config=zero2 or zero3."
        raise UserError(f"DeepSpeed has no part in {recipe.accelerate_config}.", WHERE_DEEPSPEED, remedy)
    try:
        values = json.loads(recipe.deepspeed_json)
    except ValueError as error:
        raise UserError(f"It is no JSON: {error}.", WHERE_DEEPSPEED, "Correct the place named.") from None
    stage = int(recipe.accelerate_config[len("zero")])
    part = values.get("zero_optimization") if isinstance(values, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    if not isinstance(part, dict) or part.get("stage") != stage:  # pyright: ignore[reportUnknownMemberType]
        remedy = f'Write "zero_optimization": {{"stage": {stage}, ...}}, or set accelerate_config to what the file is for.'
        raise UserError(f"The settings are not for ZeRO stage {stage}, which {recipe.accelerate_config} is.", WHERE_DEEPSPEED, remedy)


def _mapping(text: str, where: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"It is no YAML: {error}", where, "Correct the place named.") from None
    if not isinstance(values, dict):
        raise UserError("It holds no keys and values.", where, "Write one `key: value` a line.")
    return values  # pyright: ignore[reportUnknownVariableType]


def require_readable(recipe: Recipe, hardware: Hardware) -> None:
    """Refuse a file of the recipe's own that accelerate's own parser does not take. Takes seconds, where there is one."""
    if files := own_files(recipe, hardware, Path()):
        call_child("core.training.accelerated_child", {"text": next(iter(files.values()))}, step="Reading the distribution file")

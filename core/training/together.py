"""What the ranks of a run settle among themselves: a stop, the checkpoint to go on from, and that all of them train the same thing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from core import paths
from core.errors import UserError
from core.training import checkpoints
from core.training.recipe import Recipe

OWN = {"dataset": "", "eval_dataset": "", "base_model": "starter", "name": "model"}  # what may be called otherwise on another machine


def agreed(flag: torch.Tensor | bool, device: torch.device) -> bool:
    """Whether any rank says so; ranks that disagreed would wait for each other forever."""
    return bool(_largest(int(flag), device))


def require_same(run_dir: Path, recipe: Recipe, launch: dict[str, Any], device: torch.device) -> None:
    """Refuse to begin where another machine has another recipe or other data: each would wait for what the other never sends.

    Raises:
        UserError: on every rank alike.
    """
    data = [entry["sha256"] for entry in paths.read_json(run_dir / "dataset.json").values()]
    told = repr([recipe.model_copy(update=OWN).sha256, data, launch["model"]["revision"]])
    number = int.from_bytes(hashlib.sha256(told.encode()).digest()[:7], "big")
    if _largest(number, device) != -_largest(-number, device):
        remedy = "Give every machine the same recipe, the same data file and the same revision of the base model."
        raise UserError("The machines do not train the same thing.", "--nodes", remedy, code="NODES")


def newest_common(root: Path, device: torch.device) -> tuple[Path | None, list[str]]:
    """As `checkpoints.newest_whole`, of those that every machine has.

    Raises:
        UserError: they have none in common; on every rank alike.
    """
    found, refused = checkpoints.newest_whole(root)
    step = -_largest(-(checkpoints.step_of(found) if found else 0), device)
    if found is None or checkpoints.step_of(found) == step:
        chosen = found
    else:
        chosen = root / f"{checkpoints.PREFIX}{step}" if step else None
    problem = checkpoints.damage(chosen) if chosen and chosen != found else None
    if agreed(problem is not None, device):
        remedy = "Start the run anew, or copy that checkpoint's folder from a machine that has it."
        raise UserError(f"Not every machine has the checkpoint of step {step}.", "checkpoints", remedy, code="NODES")
    return chosen, refused


def _largest(number: int, device: torch.device) -> int:
    """The largest of the ranks' numbers."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return number
    votes = torch.tensor(number, dtype=torch.int64, device=device)
    torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
    return int(votes.item())

"""What a run needs before it goes on: a whole folder, the places of today where it was copied or moved, and the base model that it began with."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from core import events, paths
from core.errors import UserError
from core.events import Run
from core.export.tensors import weights_fingerprint
from core.training import models, prepare
from core.training.launch import OWN_FILE, WORKER
from core.training.recipe import load as load_recipe

NEEDS_BASE = ("train", "merge", "take")  # steps that read the base model
ANEW = "Start a new run with the same settings."
Launch = dict[str, Any]


def make_ready(run_dir: Path, run: Run, token: str | None) -> None:
    """Everything here; a base model that is gone is fetched with the caller's `token`.

    Raises:
        UserError: what the run is made of is gone or was changed.
    """
    if not run.steps:
        raise UserError(f"The beginning of {events.FILE_NAME} is gone, which says what the run has to do.", run_dir.name, ANEW)
    settle_here(run_dir)
    require_files(run_dir)
    if any(step.name in NEEDS_BASE and step.state not in ("done", "skipped") for step in run.steps):
        require_base(run_dir, token)


def launch_of(run_dir: Path, name: str = "launch.json") -> Launch:
    """What was settled when the run was created.

    Raises:
        UserError: the file is gone or damaged.
    """
    try:
        return paths.read_json(run_dir / name)
    except (FileNotFoundError, ValueError):
        raise UserError(f"{name} is gone or damaged, without which the run cannot go on.", run_dir.name, ANEW) from None


def require_files(run_dir: Path) -> None:
    """Refuse a training whose worker would not find what it reads first.

    Raises:
        UserError: naming the file, or what is wrong with the recipe.
    """
    if not _folder_of_worker(launch_of(run_dir)):
        return
    for name in ("recipe.yaml", "tokenizer"):
        if not (run_dir / name).exists():
            raise UserError(f"{name} is gone, without which the run cannot go on.", run_dir.name, ANEW)
    load_recipe(run_dir / "recipe.yaml")
    launch_of(run_dir, "dataset.json")


def settle_here(run_dir: Path) -> None:
    """Name the places of today in a run that was copied, or that moved with its workspace or alone: else it would train in the folder in which
    it was made, or with a program that is no longer there."""
    launch = launch_of(run_dir)
    made_in = _folder_of_worker(launch)
    if not made_in:
        return
    before = {str(made_in): str(run_dir)}
    if not made_in.parent.parent.exists():
        before[str(made_in.parent.parent)] = str(paths.home())
    settled = _replaced(launch, before)
    settled["argv"] = [sys.executable, *map(_own_file, settled["argv"][1:])]
    if settled == launch:
        return
    if (run_dir / OWN_FILE).is_file():
        paths.write_text(run_dir / OWN_FILE, _replaced((run_dir / OWN_FILE).read_text(encoding="utf-8"), before))
    paths.write_json(run_dir / "launch.json", settled)


def _folder_of_worker(launch: Launch) -> Path | None:
    """The folder that the training was started in; None of a run whose model is not trained."""
    words = [str(word) for word in launch.get("argv") or []]
    return Path(words[words.index(WORKER) + 1]) if WORKER in words else None


def _replaced(value: Any, before: dict[str, str]) -> Any:
    """`value`, of JSON's types, with one folder named for the other in each of its texts."""
    if isinstance(value, dict):
        return {key: _replaced(each, before) for key, each in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list):
        return [_replaced(each, before) for each in value]  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, str):
        for old, new in before.items():
            value = re.sub(rf"(?<![\w.-]){re.escape(old)}(?![\w.-])", lambda _, new=new: new, value)  # no folder whose name only begins so
    return value


def _own_file(word: str) -> str:
    """A word of the command; where it is a configuration of a program that lay elsewhere, this one's."""
    own = paths.SPACES / "accelerate" / Path(word).name
    return str(own) if word.endswith(".yaml") and not Path(word).exists() and own.is_file() else word


def require_base(run_dir: Path, token: str | None) -> None:
    """Fetch the base model at its recorded commit again where it is gone: the run itself works offline.

    Raises:
        UserError: it came from no Hub, or cannot be fetched, or is another than the one that the run began with.
    """
    launch = launch_of(run_dir)
    kept: dict[str, Any] = launch.get("model") or {}
    if not kept:
        return
    name, folder, revision = str(kept["name"]), Path(kept["path"]), kept["revision"]
    if models.is_whole(folder):
        if (began_with := launch.get("base_weights")) and weights_fingerprint(folder) != began_with:
            remedy = "Put the files back that were there, or start a new run from its recipe.yaml."
            raise UserError(f"The weights of the base model {name} are not those that the run began with.", run_dir.name, remedy)
        return
    if not revision and name != "starter":
        remedy = "Put its folder back, then resume the run; or start a new one from its recipe.yaml with another base_model."
        raise UserError(f"The base model {name} is no longer in {folder}.", run_dir.name, remedy)
    model = models.resolve(name, str(revision) if revision else None, token)
    if folder == run_dir / "base":
        shutil.rmtree(folder)
        model = prepare.stretched_base(load_recipe(run_dir / "recipe.yaml"), model, folder)
    paths.write_json(run_dir / "launch.json", launch | {"model": dataclasses.asdict(model) | {"path": str(model.path)}})

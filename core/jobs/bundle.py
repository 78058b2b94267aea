"""What travels to a rented machine: code, data files, recipe and dataset in one file that is the same for the same contents."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

from core import paths
from core.data.dataset import MANIFEST, REPORT, ROWS
from core.errors import UserError
from core.jobs.results import head
from core.publish.preflight import ALLOWED_SUFFIXES, NEVER, Plan, PlannedFile
from core.publish.push import push
from core.redact import tokens
from core.training.recipe import Recipe
from core.training.recipe import load as load_recipe

NAME = "bundle.tar"
RECIPE, DATASETS, BASE = "job/recipe.yaml", "job/datasets", "base"
DATASET_ID = re.compile(r"ds-[0-9a-f]{12}")
CODE_SUFFIXES = (".py", ".yaml", ".json", ".toml", ".j2", ".txt")


def write(run_dir: Path) -> Path:
    """The bundle of a run, in its folder. Nothing is in it but what `members` names.

    Raises:
        UserError: the recipe holds an access token, or the disk is too small (code DISK).
    """
    recipe = load_recipe(run_dir / "recipe.yaml")
    files = sorted(members(run_dir, recipe))
    paths.require_disk(run_dir, sum(path.stat().st_size for _, path in files), "The bundle")
    text = travelling(run_dir).to_yaml()
    if tokens(text):
        raise UserError("The recipe holds what looks like an access token.", "the recipe", "Take it out; nobody else shall read it.")
    with paths.replacing(run_dir / NAME) as temporary, tarfile.open(temporary, "w") as bundle:
        _add(bundle, RECIPE, io.BytesIO(text.encode()), len(text.encode()))
        for name, path in files:
            with path.open("rb") as file:
                _add(bundle, name, file, path.stat().st_size)
    return run_dir / NAME


def send(run_dir: Path, repo_id: str, token: str | None) -> dict[str, str]:
    """Write the bundle and send it; returns ``{"repo_id", "commit", "sha256"}``, by which another machine knows that it has this one.

    Raises:
        UserError: see `write` and `core.publish.push.push`.
    """
    file = write(run_dir)
    pushed = push(Plan(repo_id, repo_id, (PlannedFile(NAME, file.stat().st_size, file),)), token)
    sent = {"repo_id": repo_id, "commit": pushed.commit or head(repo_id, token), "sha256": paths.sha256_file(file)}
    file.unlink()
    return sent


def settle_datasets(folder: Path) -> None:
    """The datasets of a bundle that was unpacked in `folder`, into the workspace; what is there already stays.

    Raises:
        UserError: one is no dataset, goes by another's name, or holds more than a bundle's datasets do.
    """
    paths.datasets_dir().mkdir(parents=True, exist_ok=True)
    for dataset in sorted((folder / DATASETS).iterdir()):
        files = {path.name for path in dataset.iterdir()} if dataset.is_dir() else set()
        is_whole = {MANIFEST, ROWS} <= files <= {MANIFEST, ROWS, REPORT} and paths.read_json(dataset / MANIFEST).get("id") == dataset.name
        if not is_whole or not DATASET_ID.fullmatch(dataset.name):
            raise UserError(f"{dataset.name} is no dataset of a bundle.", NAME, "Import its file again, and train on that.")
        if not (paths.datasets_dir() / dataset.name).exists():
            shutil.move(dataset, paths.datasets_dir() / dataset.name)


def members(run_dir: Path, recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """(name in the bundle, file) of everything that is allowed to travel beside the recipe."""
    for room in ("core", "spaces"):
        yield from _tree(paths.PROJECT / room, room, CODE_SUFFIXES)
    yield "requirements.txt", paths.PROJECT / "requirements.txt"
    for entry in paths.read_json(run_dir / "dataset.json").values():
        folder = paths.by_id(paths.datasets_dir(), entry["id"], "dataset")
        yield from ((f"{DATASETS}/{entry['id']}/{name}", folder / name) for name in (MANIFEST, ROWS, REPORT))
    if recipe.base_model == "starter":
        yield from _tree(paths.STARTER, "examples/starter", ALLOWED_SUFFIXES)
    elif local := local_base(run_dir):
        yield from _tree(local, f"{BASE}/{local.name}", ALLOWED_SUFFIXES)


def travelling(run_dir: Path) -> Recipe:
    """The recipe as the other machine reads it: data by id, a Hub model at its commit, a model of this disk where the bundle has it."""
    recipe, model = load_recipe(run_dir / "recipe.yaml"), paths.read_json(run_dir / "launch.json")["model"]
    data = paths.read_json(run_dir / "dataset.json")
    ids = {"dataset": data["train"]["id"], "eval_dataset": data["eval"]["id"] if "eval" in data else ""}
    local = local_base(run_dir)
    base = {"base_model": f"{BASE}/{local.name}"} if local else {"base_revision": model["revision"]}
    return recipe.model_copy(update=ids | base)


def local_base(run_dir: Path) -> Path | None:
    """The folder of a base model that only this disk has."""
    model = paths.read_json(run_dir / "launch.json")["model"]
    return Path(model["path"]) if model["revision"] is None and model["name"] != "starter" else None


def _tree(folder: Path, name: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*"):
        is_sent = path.is_file() and path.suffix in suffixes and not NEVER.search(path.name)
        if is_sent and not any(part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts):
            yield f"{name}/{path.relative_to(folder).as_posix()}", path


def _add(bundle: tarfile.TarFile, name: str, content: io.BufferedIOBase | io.BytesIO, size_bytes: int) -> None:
    entry = tarfile.TarInfo(name)  # without times and owners, so that the same contents have the same hash
    entry.size = size_bytes
    bundle.addfile(entry, content)

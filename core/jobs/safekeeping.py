"""A run of this machine kept on the Hub while it trains, and brought back on another disk: for a Space that loses its own at a restart.

What a run is made of and its newest checkpoint go to a private repository of its owner's, the same as for a run on a rented machine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tarfile
import tempfile
import threading
import time
from pathlib import Path

from core import events, paths
from core.errors import UserError
from core.hubclient import api, patiently
from core.jobs import bundle, dispatch, keeping
from core.publish.ledger import remember
from core.publish.push import explain
from core.running import runs
from core.training.models import HUB_ID
from core.training.recipe import Recipe
from core.training.recipe import load as load_recipe

LOOK_S = 1.0
BASES = "bases"  # in the workspace: base models that came with a run
MADE_THERE = ("artifact", "step_started", "step_finished", "finished")  # events
_kept: dict[str, threading.Thread] = {}


def repository(run_id: str, token: str | None) -> str:
    """Where the run is kept: a private repository of whoever the token belongs to.

    Raises:
        UserError: nobody is logged in (LOGIN).
    """
    return f"{dispatch.caller(token, run_id)}/transmute-{run_id}"


def keep(run_id: str, token: str | None) -> str:
    """Send what the run is made of now, and each newest checkpoint until it ends; returns the repository.

    The checkpoints are sent by a thread of this process, in whose memory alone the token lies. When the process ends, so does the keeping;
    asked again, it goes on.

    Raises:
        UserError: nobody is logged in (LOGIN), the run is over or on a rented machine, or the Hub refuses it.
    """
    run_dir = runs.folder(run_id)
    if runs.is_elsewhere(run_dir):
        raise UserError("A run on a rented machine keeps its checkpoints by itself.", run_id, "Nothing has to be done.")
    if runs.load(run_id).is_terminal:
        raise UserError("The run does not go on.", run_id, "Resume it first; what it has made is sent by Publish.")
    if is_kept(run_id):
        raise UserError("The run is being kept already.", run_id, "Each new checkpoint is sent by itself.")
    repo_id = repository(run_id, token)
    bundle.send(run_dir, repo_id, token)
    events.append(run_dir, "keeping", repo_id=repo_id)
    _kept[run_id] = threading.Thread(target=_watch, args=(run_id, keeping.Keeper(run_dir, repo_id, token, with_log=True)), daemon=True)
    _kept[run_id].start()
    return repo_id


def is_kept(run_id: str) -> bool:
    """Whether this process sends the run's checkpoints now."""
    return run_id in _kept and _kept[run_id].is_alive()


def _watch(run_id: str, keeper: keeping.Keeper) -> None:
    with contextlib.suppress(UserError):  # the run was deleted
        while not runs.load(run_id).is_terminal:
            keeper.look()
            time.sleep(LOOK_S)
        keeper.close()


def bring_back(repo_id: str, token: str | None) -> str:
    """The run that `repo_id` keeps, in this workspace with its newest checkpoint; `core.running.runs.start` goes on with it. Returns its id.

    Raises:
        UserError: the repository is not the caller's own or keeps no run, the run is here, or the Hub cannot be reached.
    """
    namespace, _, run_id = repo_id.strip().partition("/transmute-")
    if not paths.ID_PATTERN.fullmatch(run_id) or namespace != dispatch.caller(token, repo_id):
        remedy = "Name it as USER/transmute-RUN, as the run's page showed it; only your own are taken."
        raise UserError(f"{repo_id} is not a repository in which you keep a run.", repo_id, remedy)
    run_dir = paths.runs_dir() / run_id
    if run_dir.exists():
        raise UserError("This run is here.", run_id, "Resume it on the Runs tab, or with `resume RUN`.")
    paths.home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.home(), prefix="bring-back-") as name:
        folder = Path(name)
        _download(repo_id, bundle.NAME, folder, token)
        if not (folder / bundle.NAME).is_file():
            raise UserError(f"{repo_id} keeps no run.", repo_id, "Look at its files on the Hub: bundle.tar is what a run is made of.")
        _unpack(folder)
        recipe = _recipe(folder)
        bundle.settle_datasets(folder)
        base = folder / recipe.base_model
        if recipe.base_model.startswith(f"{bundle.BASE}/") and base.is_dir():
            own = paths.home() / BASES / run_id / base.name
            shutil.rmtree(own.parent, ignore_errors=True)
            own.parent.mkdir(parents=True)
            base.rename(own)
            recipe = recipe.model_copy(update={"base_model": str(own)})
    runs.create(recipe, token, run_id=run_id)
    remember(repo_id, "created")  # by whoever kept the run, which is the caller
    kept = keeping.fetch(run_dir, repo_id, token)
    _take_log(run_dir, run_dir / keeping.FOLDER / kept)
    said = f"at {kept}" if kept else "without a checkpoint: none had been kept yet"
    events.append(run_dir, "note", text=f"It was brought back from {repo_id}, {said}.")
    return run_id


def _recipe(folder: Path) -> Recipe:
    """The recipe of a bundle, which names nothing of this machine's disk: its data by id, its base model from the bundle or the Hub.

    Raises:
        UserError: it does.
    """
    recipe = load_recipe(folder / bundle.RECIPE)
    data = [name for name in (recipe.dataset, recipe.eval_dataset) if name]
    is_own = (
        recipe.base_model.startswith(f"{bundle.BASE}/")
        and (folder / recipe.base_model).resolve().parent == (folder / bundle.BASE).resolve()
    )
    is_known = recipe.base_model == "starter" or (HUB_ID.fullmatch(recipe.base_model) and not Path(recipe.base_model).exists())
    if not (is_own or is_known) or not all(bundle.DATASET_ID.fullmatch(name) for name in data):
        raise UserError("The recipe that was kept names files of this machine.", bundle.NAME, "Nothing can be brought back from it.")
    return recipe


def _take_log(run_dir: Path, checkpoint: Path) -> None:
    """The run's log as it was kept with its checkpoint, without what it says of models and steps, which are to be made here."""
    if not (checkpoint / events.FILE_NAME).is_file():
        return
    told = [event for event in events.read(checkpoint) if event.get("kind") not in MADE_THERE]
    paths.write_text(run_dir / events.FILE_NAME, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in told))
    (checkpoint / events.FILE_NAME).unlink()


def _download(repo_id: str, pattern: str, to: Path, token: str | None) -> None:
    hub = api(token)
    patiently(lambda: hub.snapshot_download(repo_id, allow_patterns=[pattern], local_dir=to), lambda error: explain(error, repo_id))


def _unpack(folder: Path) -> None:
    """Recipe, datasets and base model of a bundle; its code stays where it is.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with tarfile.open(folder / bundle.NAME) as packed:
            wanted = [each for each in packed if each.isreg() and each.name.startswith(("job/", f"{bundle.BASE}/"))]
            packed.extractall(folder, members=wanted, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise UserError(
            f"What was kept of the run cannot be unpacked: {error}.", bundle.NAME, "Nothing can be brought back from it."
        ) from error

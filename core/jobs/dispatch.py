"""A recipe sent to a rented machine: the run's folder is written here at once, and its follower does the rest."""

from __future__ import annotations

import contextlib
import os

from core import events, paths
from core.data.dataset import take_data
from core.data.measures import OnProgress
from core.errors import UserError
from core.events import Run
from core.hubclient import api, patiently
from core.jobs import client, follower, limit, target
from core.jobs.target import Job, Target
from core.locks import is_held
from core.publish.push import explain
from core.running import runs
from core.running.queue import RUN_LOCK
from core.training import models, prepare
from core.training.checks import check, check_nodes
from core.training.recipe import Recipe


def create(recipe: Recipe, wanted: Target, token: str | None, owner: str = "", on_progress: OnProgress | None = None) -> str:
    """Write the folder of a run that shall happen on a rented machine, and return its id; `core.running.runs.start` with the token starts it.

    Raises:
        UserError: nobody is logged in (LOGIN), the flavour cannot do it, or what `runs.create` refuses.
    """
    machine = target.hardware(wanted.flavour)
    check(recipe, machine)
    if not 1 <= wanted.nodes <= target.MOST_NODES:
        raise UserError(f"{wanted.nodes} machines are too few or too many.", "--nodes", f"Give 1 to {target.MOST_NODES}.")
    if wanted.nodes > 1:
        check_nodes(recipe)
    namespace = caller(token)
    run_id = paths.new_run_id()
    model = models.outline(recipe.base_model, recipe.base_revision, token)
    recipe = prepare.settled(recipe, model)
    if not recipe.dataset:
        raise UserError("No dataset is named.", "dataset", "Give --data PATH, or dataset: in the recipe.")
    limit_s = target.seconds(wanted.timeout) if wanted.timeout else 0
    if not limit_s:
        limit_s = limit.timeout_s(recipe, model, take_data(recipe.dataset), prepare.tokenizer_of(recipe, model), machine)
    job = Job(
        flavour=wanted.flavour,
        image=target.image_for(wanted.flavour, wanted.image),
        namespace=namespace,
        repo_id=f"{namespace}/transmute-{run_id}",
        timeout_s=limit_s,
        results=wanted.results,
        usd_per_h=_price(wanted.flavour, token),
        nodes=wanted.nodes,
    )
    runs.create(recipe, token, machine, owner, run_id, job.model_dump(mode="json"), on_progress=on_progress)
    if os.environ.get("SPACE_ID") and limit_s > target.LOGIN_S:
        text = "A login on a Space lasts 8 hours. A job that goes on longer cannot send its results with it: take a shorter run."
        events.append(runs.folder(run_id), "note", text=text)
    return run_id


def caller(token: str | None, where: str = client.WHERE) -> str:
    """The name behind the token.

    Raises:
        UserError: there is none, or the Hub does not accept it (code LOGIN).
    """
    if not token:
        raise UserError("Nobody is logged in to the Hub.", where, "Sign in on the page, or run `hf auth login`.", code="LOGIN")
    hub = api(token)
    return str(patiently(hub.whoami, lambda error: explain(error, where))["name"])


def stop(run_id: str, token: str | None) -> Run:
    """End a run wherever it happens; a job that nobody here listens to is cancelled all the same.

    Raises:
        UserError: it does not go on, or the Hub cannot be reached to cancel it.
    """
    run_dir = runs.folder(run_id)
    current = follower.submitted(list(events.read(run_dir))) if runs.is_elsewhere(run_dir) else None
    if current is None or current.has_ended or is_held(run_dir / RUN_LOCK):
        return runs.stop(run_id)
    job = target.of_run(run_dir)
    client.end(job, current.all_ids, token)
    events.append(run_dir, "job_ended", stage="CANCELED")
    events.append(run_dir, "finished", state="cancelled")
    return runs.load(run_id)


def may_go_on(run: Run) -> bool:
    """Whether a run that nobody here looks after has a job that was started and has not ended, as far as is known."""
    if run.state != "interrupted" or not runs.is_elsewhere(runs.folder(run.run_id)):
        return False
    current = follower.submitted(list(events.read(runs.folder(run.run_id))))
    return current is not None and not current.has_ended


def take_up(token: str | None) -> list[str]:
    """Listen again to every job that nobody listens to since this machine went down; returns the ids of their runs.

    One that cannot be listened to says why among its events, and keeps neither the others nor the program from starting.
    """
    left = [run for run in runs.list_runs() if token and run.error and run.error["code"] == "UNATTENDED"]
    return [run.run_id for run in left if _listens_again(run.run_id, token)]


def _listens_again(run_id: str, token: str | None) -> bool:
    try:
        runs.start(run_id, token)
    except (UserError, OSError) as error:
        why = f"{error.problem} {error.remedy}" if isinstance(error, UserError) else error.strerror or type(error).__name__
        with contextlib.suppress(OSError, UserError):  # its folder is gone, or the disk is full
            events.append(runs.folder(run_id), "note", text=f"Nobody listens to this run's job: {why}")
        return False
    return True


def _price(name: str, token: str | None) -> float | None:
    try:
        return target.price_now(name, token)
    except UserError:
        return target.flavour(name).job_usd_per_h

"""What programs may ask of the page beside what its tabs offer them: quantise, measure and publish, each in one call."""

from __future__ import annotations

import dataclasses
from typing import Any

from core.errors import UserError
from core.publish.datasets import prepare
from core.publish.preflight import Plan, describe
from core.publish.push import compare, push, refuse_problems
from core.publish.standing import require
from core.running import care, runs
from ui import models_ladder, publish_send
from ui.access import Caller, allowed
from ui.shell import listen_api


def offer() -> None:
    """Attach the endpoints."""
    listen_api(quantize, "quantize")
    listen_api(measure, "measure", concurrency_limit=1)
    listen_api(publish, "publish")


@allowed("owner")
def quantize(run_id: str, levels: list[str]) -> dict[str, Any]:
    """Quantise a run's merged model to more levels, such as q4_0 or Q4_K_M; returns at once, and `run_status` says how far it is."""
    care.add_levels(run_id, levels)
    return {"run_id": run_id, "state": runs.load(run_id).state}


@allowed("owner")
def measure(run_id: str, text: str = "") -> list[dict[str, Any]]:
    """Measure every level of a run on `text`, or on conversations it was not trained on: perplexity, KL to f16, same top token, speed."""
    from core.export.measure import measure as measure_levels
    from core.training.samples import conversations_of

    levels, reference = models_ladder.levels_of(run_id)
    is_text = bool(text.strip())
    conversations = [] if is_text else conversations_of(runs.folder(run_id))[1]
    max_length = None if is_text else runs.recipe_of(run_id).max_length
    figures = measure_levels(levels, reference, conversations, text=text if is_text else None, max_length=max_length)
    return [{"id": level.id, "level": level.level, "size_bytes": level.size_bytes, "measured": figures[level.id]} for level in levels]


@allowed("owner")
def publish(
    artifact_ids: list[str], repo_id: str, private: bool = True, pull_request: bool = False, dry_run: bool = False, *, caller: Caller
) -> dict[str, Any]:
    """Send models to a repository of the Hub with the caller's own login; with `dry_run` say what would be sent and change there, and send nothing."""
    plan = prepare(publish_send.known(artifact_ids), repo_id.strip())
    if dry_run:
        said = describe(plan)
        named = {name: [_named(entry) for entry in said[name]] for name in ("files", "refused")}
        return said | named | {"hub": _asked(plan, caller)}
    with publish_send.only_one(plan.address) as is_stopped, publish_send.remembered(plan):
        refuse_problems(plan)
        require(plan, caller.token, caller.scope)
        pushed = push(plan, caller.token, private=private, pull_request=pull_request, should_stop=is_stopped.is_set)
    return dataclasses.asdict(pushed)


def _asked(plan: Plan, caller: Caller) -> dict[str, Any]:
    """What sending `plan` would change on the Hub; where that cannot be known, or may not be done, why not."""
    try:
        require(plan, caller.token, caller.scope)
        return {"asked": True, "difference": dataclasses.asdict(compare(plan, caller.token))}
    except UserError as error:
        return {"asked": False, "why": error.problem}


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """A file of a plan without its place on this server, and by name: what has a `path`, Gradio's client tries to download."""
    return {"name": entry["path"]} | {key: value for key, value in entry.items() if key in ("size_bytes", "reason")}

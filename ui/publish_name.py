"""The name that a repository gets without being typed: whose it is, what is in it, and the ending that the Hub's habits ask for."""

from __future__ import annotations

import re
import time
from typing import Any

import gradio as gr

from core.data.dataset import list_datasets
from core.errors import UserError
from core.export import artifacts
from core.publish.preflight import suggest_repo_id
from core.publish.standing import places
from ui.access import Caller, allowed

ODD = re.compile(r"[^\w.-]+", re.ASCII)
# A proposal is put there only where the field is still as it was when it was asked for: on a slow line somebody types meanwhile.
TAKE = "(proposal, now) => { const [seen, wanted] = proposal.split('\\n'); return now === seen ? wanted : now; }"


@allowed("public")
def whose(owner: str | None, caller: Caller) -> Any:
    """The names that this login can publish under: one's own and organisations; hidden where there is no login."""
    if not caller.may("owner") or not caller.token:
        return gr.Dropdown(visible=False)
    try:
        offered = places(caller.token)
    except UserError:
        return gr.Dropdown(visible=False)  # the Hub cannot be asked now; a name can be typed all the same
    return gr.Dropdown(list(offered), value=owner if owner in offered else offered[0], visible=True)


@allowed("public")
def name_it(picked: list[str], repo_id: str, kept: str | None, owner: str | None, caller: Caller) -> Any:
    """The repository's name for what is chosen, below the one that stands there, for `TAKE`; and the time, which makes every proposal a new one.

    One that somebody has typed stays, and so does one that the browser is about to restore.
    """
    before, _, name = (repo_id.strip() or kept or "").partition("/")
    if not owner or not picked or not caller.may("owner") or (name and name not in _suggestions()):
        return gr.skip()
    wanted = _suggestion(picked[0])
    is_there = f"{owner}/{wanted}" == f"{before}/{name}"
    return gr.skip() if not wanted or is_there else f"{repo_id}\n{owner}/{wanted}\n{time.monotonic_ns()}"


def _suggestion(identifier: str) -> str:
    return next((_named(each) for each in artifacts.everywhere() if each.id == identifier), "") or next(
        (_clean(each.name) for each in list_datasets() if each.id == identifier), ""
    )


def _suggestions() -> set[str]:
    """Every name that could have been put there by itself."""
    return {_named(each) for each in artifacts.everywhere()} | {_clean(each.name) for each in list_datasets()}


def _named(artifact: artifacts.Artifact) -> str:
    return suggest_repo_id([artifact], _clean(artifact.name))


def _clean(name: str) -> str:
    """A name as the Hub allows it."""
    return re.sub(r"\.{2,}|-{2,}", "-", ODD.sub("-", name.removesuffix(".json").removesuffix(".jsonl")))[:80].strip("-.") or "model"

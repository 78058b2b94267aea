"""Which models can be chosen, and the ids that travel from one tab to the next."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gradio as gr

from core.events import Run
from core.export import artifacts, ladder
from core.export.artifacts import Artifact
from core.running import live, runs
from ui.access import allowed
from ui.models_view import full_label, label

MAX_SIDE_BY_SIDE = 6


def join(ids: Iterable[str]) -> str:
    """Several artifact ids as the one text that `Shell.artifact_id` holds."""
    return ",".join(ids)


def split(ids: str) -> list[str]:
    return [identifier for identifier in ids.split(",") if identifier]


@allowed("public")
def keep(ids: list[str], carried: str) -> Any:
    """What the browser keeps of a tab's choice: the ids, and what other tabs had handed over by then. Nothing chosen keeps nothing."""
    return {"ids": ids, "carried": carried} if ids else gr.skip()


def chosen_before(kept: dict[str, Any], carried: str) -> list[str]:
    """What to offer as chosen: the person's own choice, unless another tab has handed over something since."""
    own = kept.get("ids") if kept.get("carried") == carried else None
    return own or split(carried)


def runs_with_models() -> list[Run]:
    """Newest first."""
    return [run for run in live.all_runs() if run.artifacts]


def of_run(run_id: str) -> list[Artifact]:
    """The run's models: quantised levels first, largest to smallest, then merged model and adapter."""
    made = artifacts.of_run(runs.folder(run_id))
    levels = ladder.by_size([artifact for artifact in made if artifact.kind == "gguf"])
    return levels + [artifact for kind in ("merged", "adapter") for artifact in made if artifact.kind == kind]


def first_choice(made: list[Artifact]) -> list[str]:
    """What is chosen when nobody has chosen yet: four levels across the ladder, else the merged model."""
    levels = [artifact for artifact in made if artifact.kind == "gguf"]
    return [artifact.id for artifact in (ladder.four_of(levels) or made[:1])]


def set_of(made: list[Artifact]) -> list[str]:
    """The set to compare at one click: f16, q8_0, Q4_K_M and q4_0 where they are there, else four across the ladder."""
    by_level = {artifact.level: artifact.id for artifact in made if artifact.kind == "gguf"}
    usual = [by_level[level] for level in ("f16", "q8_0", "Q4_K_M", "q4_0") if level in by_level]
    return usual if len(usual) == 4 else first_choice(made)


def newest_model() -> list[str]:
    """The one to talk to when nobody has chosen: of the newest run with models the level that most people take, else its first model."""
    for run in runs_with_models():
        made = of_run(run.run_id)
        by_level = {artifact.level: artifact.id for artifact in made if artifact.kind == "gguf"}
        if found := [by_level[level] for level in ("Q4_K_M", "q8_0") if level in by_level] or [artifact.id for artifact in made]:
            return found[:1]
    return []


def choices_of(made: list[Artifact]) -> list[tuple[str, str]]:
    return [(label(artifact), artifact.id) for artifact in made]


def everything() -> list[tuple[str, str]]:
    """Every model of the workspace as (label, id), the newest run first."""
    found = [(run, of_run(run.run_id)) for run in runs_with_models()]
    names = [made[0].name for _, made in found if made]
    choices: list[tuple[str, str]] = []
    for run, made in found:
        for artifact in made:
            # Two runs may have given their models the same name; then the run's id tells them apart.
            suffix = f" · {run.run_id[-4:]}" if names.count(artifact.name) > 1 else ""
            choices.append((full_label(artifact) + suffix, artifact.id))
    return choices


def known(ids: Iterable[str], choices: list[tuple[str, str]]) -> list[str]:
    """Those of `ids` that can be chosen still."""
    there = {identifier for _, identifier in choices}
    return [identifier for identifier in ids if identifier in there]


def shown_run(run_id: str) -> str:
    """The run that the Runs tab shows: the chosen one, or the newest where none was chosen or it is gone."""
    found = live.all_runs()
    return run_id if not found or any(run.run_id == run_id for run in found) else found[0].run_id

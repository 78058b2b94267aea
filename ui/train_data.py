"""What the Train tab asks of the engine: is this recipe fit to start here, what exactly would run, and starting it."""

from __future__ import annotations

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from core import paths
from core.data.dataset import list_datasets, open_dataset
from core.data.measures import OnProgress
from core.data.packing import steps_of
from core.data.validate import validate
from core.errors import UserError
from core.jobs import dispatch, target
from core.publish.scopes import jobs_problem
from core.running import runs
from core.training import accelerated, checks, launch, models
from core.training import recipe as recipes
from core.training.hardware import Hardware, detect
from core.training.launch import Node
from core.training.recipe import Recipe
from ui import form, handles, train_rented
from ui.access import Caller, refusal
from ui.train_rented import Rented

WHERE = "the form"
HUB_ID = re.compile(r"\w[\w-]*(?:\.\w[\w-]*)*/\w[\w-]*(?:\.\w[\w-]*)*")  # as the Hub allows them: no dots in a row or in front
FITS_ANY_MACHINE: dict[str, Any] = {
    "dtype": "auto", "optim": "adamw_torch", "attn_implementation": "auto", "accelerate_config": "auto", "num_processes": 0,
}  # fmt: skip


@lru_cache(maxsize=1)
def machine() -> Hardware:
    return detect()


def example_id(dataset: str) -> str:
    """The id under which an example's file was imported; the same text for everything else."""
    file = form.example_file(dataset)
    return f"ds-{paths.sha256_file(file)[:12]}" if file else dataset


def is_of_other_split(evaluated: str, dataset: str) -> bool:
    """Whether `evaluated` is one side of the split of a dataset from which `dataset` was not made."""
    parents = {known.id: known.manifest.parent for known in list_datasets()}
    sides = {known.id for known in list_datasets() if (known.manifest.made_by or {}).get("verb") == "split"}
    return evaluated in sides and parents.get(dataset) != parents[evaluated]


def places() -> list[tuple[str, str]]:
    """(title, value) of where a run can happen: this machine, or a rented one with its price."""
    rented = [(f"HF Jobs: {each.title}, ${each.job_usd_per_h:.2f} per hour", f"{target.PREFIX}{each.name}") for each in target.offered()]
    return [("This machine", ""), *rented]


def known_place(kept: dict[str, Any] | None) -> str:
    """Where the form that the browser kept wants to run; this machine where that is not offered any more."""
    place = kept.get("place") if isinstance(kept, dict) else ""
    return str(place) if place in [value for _, value in places()] else ""


def machine_at(place: str) -> Hardware:
    return target.hardware(target.parse(place)) if place else machine()


def why_not(values: dict[str, Any], caller: Caller, place: str = "") -> UserError | None:
    """The first thing that stands in the way of starting at `place`, or None."""
    if not caller.may("owner"):
        return refusal("owner")
    if wrong := form.problems(values):
        titles = {name: form.rows()[name]["title"] for name in wrong if name in form.rows()}
        named = " and ".join(title.lower() for title in titles.values())
        return UserError(f"Correct {named} first.", WHERE, " ".join(f"{title}: {wrong[name]}" for name, title in titles.items()))
    if not values.get("dataset"):
        return UserError("Choose a dataset first.", WHERE, "The Dataset tab imports one.", code="NO_DATA")
    if place and not caller.token:
        return UserError("A rented machine needs a login to the Hub.", WHERE, "Sign in, or run `hf auth login` here.", code="LOGIN")
    if place and (wrong := jobs_problem(caller.scope)):
        return UserError(wrong, WHERE, "Or let it run on this machine.", code="ACCESS")
    try:
        check(recipe_of(values, caller), place)
    except UserError as error:
        return error
    return None


def check(recipe: Recipe, place: str = "") -> None:
    """Refuse what can be known to fail without fetching anything."""
    checks.check(recipe, machine_at(place))
    if recipe.dataset.startswith("ds-") and open_dataset(recipe.dataset).manifest.num_valid == 0:
        raise UserError("No conversation of this dataset can be trained.", "dataset", "Its findings on the Dataset tab say how to mend it.")
    if recipe.base_model == "starter" or not models.HUB_ID.fullmatch(recipe.base_model):
        checks.check_model(recipe, models.resolve(recipe.base_model))


def recipe_of(values: dict[str, Any], caller: Caller) -> Recipe:
    """The recipe in the form. Only somebody at this machine may name files and folders of it (reliability rule R10), and nobody others' data."""
    recipe = recipes.build(form.to_recipe(values), WHERE)
    if caller.is_local:
        return recipe
    opened: dict[str, str] = {}
    for name in ("dataset", "eval_dataset"):
        given = getattr(recipe, name)
        if given.startswith("ds-"):
            opened[name] = handles.open_for(given, caller).id
        elif given and Path(given).parent != paths.EXAMPLES:
            raise UserError("Files are taken by upload only.", form.rows()[name]["title"], "Import the file on the Dataset tab.")
    is_id = paths.ID_PATTERN.fullmatch(recipe.base_model) or HUB_ID.fullmatch(recipe.base_model)
    if not is_id or Path(recipe.base_model).is_dir():
        raise UserError("The base model is no Hub id.", "Base model", "Write it as on the Hub, for example lmsys/vicuna-7b-v1.5.")
    return recipe.model_copy(update=opened)


def start(
    values: dict[str, Any],
    caller: Caller,
    place: str = "",
    on_progress: OnProgress = lambda done, total: None,
    rented: Rented | None = None,
    node: Node | None = None,
) -> str:
    """Create the run, which fetches what is missing with the caller's token and audits the data, and start it at `place`, or
    as this machine's part of a training on several; returns its id."""
    recipe = recipe_of(values, caller)
    if place:
        run_id = dispatch.create(recipe, train_rented.wanted(place, rented or {}), caller.token, caller.name, on_progress)
    else:
        run_id = runs.create(recipe, token=caller.token, owner=caller.name, node=node, on_progress=on_progress)
    runs.start(run_id, caller.token)
    return run_id


def adapted(values: dict[str, Any]) -> dict[str, Any]:
    """The values with everything that needs another machine set to what works on any."""
    changed = values | FITS_ANY_MACHINE
    return changed | ({"quant_storage": "uint8"} if changed.get("method") == "qlora" else {})


def num_conversations(dataset: str, caller: Caller) -> int | None:
    """How many conversations of a dataset can be trained, where that is known without reading it."""
    if file := form.example_file(dataset):
        return _num_valid(file)
    try:
        return handles.open_for(dataset, caller).manifest.num_valid
    except UserError:
        return None  # a file, or gone


@lru_cache(maxsize=8)
def _num_valid(example: Path) -> int:
    return validate(example).num_valid


def batch_rows(values: dict[str, Any]) -> int:
    """Rows of one optimizer step, over all devices and accumulated micro batches."""
    processes = int(values["num_processes"]) or max(1, len(machine().gpus))
    return int(values["micro_batch_size"]) * int(values["gradient_accumulation_steps"]) * processes


def num_steps(values: dict[str, Any], num_rows: int) -> int:
    """Optimizer steps of the run, before packing."""
    share = 0.0 if values["eval_dataset"] else float(values["eval_fraction"])
    rows = num_rows - round(num_rows * share)
    return steps_of(rows, batch_rows(values), float(values["num_train_epochs"]), int(values["max_steps"] or 0))


def files_of(values: dict[str, Any], place: str, distribution: str) -> tuple[str, str]:
    """(accelerate's file, DeepSpeed's) that the form's recipe is launched with at `place` under `distribution`."""
    if form.problems(values) or not distribution:
        return "", ""
    return accelerated.texts(Recipe.model_validate(form.to_recipe(values)), distribution, machine_at(place))


def yaml_text(values: dict[str, Any]) -> str:
    """The recipe as a file for the command line; empty while something in the form is wrong."""
    if form.problems(values):
        return ""
    return Recipe.model_validate(form.to_recipe(values)).to_yaml().replace(f"{paths.EXAMPLES}/", form.EXAMPLES)


def command_text(values: dict[str, Any], place: str = "", distribution: str = "", flags: str = "", node: Node | None = None) -> str:
    """The command line that does the same, and the worker's own command on this machine; `distribution` is what `auto` comes to."""
    if form.problems(values):
        return ""
    note = "# In Transmute's folder, with the recipe below saved as recipe.yaml:"
    if place:
        return f"{note}\npython -m core train recipe.yaml --on {place}{flags}"
    recipe = Recipe.model_validate(form.to_recipe(values))
    threads = max(1, machine().cpu_count // max(1, recipe.num_processes or len(machine().gpus) or 1))
    if recipe.accelerate_config == "auto" and distribution in launch.SHARDED:  # what needs nothing to be shared the launcher finds itself
        recipe = recipe.model_copy(update={"accelerate_config": launch.across(distribution, node)})
    made = launch.command(Path("RUN"), recipe, machine(), threads, node=node)
    line = launch.node_commands(node, ["recipe.yaml"])[node.rank] if node else "python -m core train recipe.yaml"
    words = [word.replace(sys.executable, "python").replace(f"{paths.PROJECT}/", "") for word in made.argv]
    env = " ".join(f"{name}={value!r}" if not value else f"{name}={value}" for name, value in made.env.items())
    return f"{note}\n{line}\n\n# Which starts this worker for the training:\n{env} \\\n{' '.join(words)}"

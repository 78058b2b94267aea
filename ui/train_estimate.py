"""The estimate above the form: what the recipe takes, part by part, whether it fits here, and where else. From shapes alone, in milliseconds."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import gradio as gr

from core import paths
from core.data.dataset import open_dataset
from core.data.tokenizer import ChatTokenizer
from core.errors import UserError
from core.export import artifacts
from core.jobs import target
from core.training import fits, forecast, launch, models, others, prepare, prospect, shapes, workload
from core.training.architecture import read_config
from core.training.hardware import prices_read
from core.training.memory import IMPORTS, Part
from core.training.recipe import Method, Recipe
from core.training.setting import setting_of
from core.training.shapes import Shapes
from core.training.workload import Workload
from core.units import usd
from ui import form
from ui import train_data as data
from ui.access import Caller, allowed, on_space
from ui.shell import TRAIN, Shell
from ui.view import chip, count, duration, facts, percent, size, table, text

LIBRARIES, CORRECTION = "libraries", "correction"
NAMES = {
    "weights": "Weights", "adapter": "Adapter", "gradients": "Gradients", "optimizer": "Optimizer", "activations": "Activations",
    "logits": "Output scores", "sharing": "Between processes", "context": "Process", "other": "Temporaries", LIBRARIES: "Libraries",
    CORRECTION: "By past runs",
}  # fmt: skip
CHEAPEST = {False: "Cheapest machine on the Hub, as a job", True: "Cheapest hardware for this Space"}  # by whether it is a Space's own
SMALLEST = 0.005  # of the peak: parts below it are not drawn


def add(shell: Shell) -> dict[str, Any]:
    """Put the estimate onto the page; it follows the form, whatever changed it. Returns it, and the button that makes the recipe fit."""
    shown = gr.HTML("", container=False, padding=False, elem_id="train-estimate")
    fit = gr.Button("Make it fit", visible=False, size="sm", elem_id="train-fit")
    wired: dict[str, Any] = {"inputs": shell.form, "outputs": {"estimate": shown, "fit": fit}}
    shell.listen(shell.form.change, look, **wired)
    shell.listen([shell.demo.load, shell.tab[TRAIN].select], look, **wired)
    return wired["outputs"]


@allowed("public")
def look(kept: dict[str, Any] | None, caller: Caller) -> dict[str, Any]:
    """The estimate of the form as it stands, on the machine chosen there; nothing where it makes no recipe."""
    return shown(kept, caller)


def shown(kept: dict[str, Any] | None, caller: Caller) -> dict[str, Any]:
    values, place = (kept or {}).get("values") or {}, data.known_place(kept)
    return {"estimate": estimated(values, caller, place), "fit": gr.Button(visible=change_for(values, caller, place) is not None)}


@allowed("owner")
def estimate(recipe: dict[str, Any], caller: Caller) -> dict[str, Any]:
    """What `recipe` (knobs by name) takes before it is launched: memory by part, disk, steps, time, and every machine it fits on."""
    chosen = data.recipe_of(form.to_values(Recipe()) | recipe, caller)
    found = prospect.prospect(chosen, data.machine(), caller.token)
    offers = fits.offers(chosen, found.model, found.work)
    change = fits.smallest_change(chosen, found.model, data.machine(), found.work) if found.estimate else None
    return {
        "here": found.estimate.as_dict() if found.estimate else None,
        "refused": found.refused.problem if found.refused else None,
        "change": change.knobs if change else None,
        "others": [asdict(each) for each in others.opinions(chosen, found.model, setting_of(chosen, data.machine(), found.model))],
        "flavours": [offer.as_dict() for offer in offers],
    }


def change_for(values: dict[str, Any], caller: Caller, place: str) -> fits.Change | None:
    """The smallest change that makes the form's recipe fit at `place`; None where it fits, cannot run there, or nothing helps."""
    known, machine = _known(values, caller), data.machine_at(place)
    if known is None or known[1] is None:
        return None
    recipe, model = known[0], known[1]
    try:
        fits.checks.check_machine(recipe, machine)
    except UserError:
        return None
    return fits.smallest_change(recipe, model, machine, work_of(recipe))


def distribution(values: dict[str, Any], caller: Caller, place: str = "") -> str:
    """The distribution that the form's recipe is launched with at `place`: what it names, or what `auto` comes to there."""
    if (known := _known(values, caller)) is None:
        return ""
    recipe, model = known
    return _there(recipe, model, place).accelerate_config if model else launch.config_of(recipe, data.machine_at(place))


def times(values: dict[str, Any], caller: Caller, place: str = "") -> dict[Method, float]:
    """About how many seconds each method takes for the form's model and dataset at `place`; nothing where one of them is not known."""
    known = _known(values, caller)
    if known is None or known[1] is None or not known[0].dataset:
        return {}
    found: dict[Method, float] = {}
    for method in get_args(Method):
        recipe = known[0].model_copy(update={"method": method})
        try:
            fits.checks.check_machine(recipe, data.machine_at(place))
        except UserError:
            continue
        found[method] = _there(recipe, known[1], place).total_s
    return found


def _there(recipe: Recipe, model: Shapes, place: str) -> forecast.Estimate:
    return forecast.of_shapes(recipe, model, data.machine_at(place), work_of(recipe))


def _known(values: dict[str, Any], caller: Caller) -> tuple[Recipe, Shapes | None] | None:
    """The form's recipe and its model's shapes, where it makes one."""
    try:
        recipe = data.recipe_of(values, caller)
        return recipe, model_of(recipe.base_model)
    except (UserError, KeyError, TypeError):  # the fields say what is wrong with them
        return None


def estimated(values: dict[str, Any], caller: Caller, place: str = "") -> str:
    """The HTML of the estimate, of a run at `place`; what else there is to take is a Space's hardware on a Space, and a job elsewhere."""
    if (known := _known(values, caller)) is None:
        return ""
    recipe, model = known
    if model is None:
        return _said("What it takes is not known before this model is fetched.", "Its config.json says how large it is.")
    work = work_of(recipe)
    as_space = on_space() and not place
    offers = fits.offers(recipe, model, work)
    offers = fits.of_spaces(offers) if as_space else offers
    try:
        fits.checks.check_machine(recipe, data.machine_at(place))
    except UserError:
        return _said(f"It cannot run {_on(place)}.", f"{CHEAPEST[as_space]}: {_cheapest(offers, as_space)}.") + _flavours(offers, as_space)
    there = forecast.of_shapes(recipe, model, data.machine_at(place), work)
    change = None if there.fits else fits.smallest_change(recipe, model, data.machine_at(place), work)
    figures = _figures(there, place, {CHEAPEST[as_space]: _cheapest(offers, as_space)})
    said = _honest(there) + _others(recipe, model, place)
    return _verdict(there, change, place) + _bar(there) + figures + said + _flavours(offers, as_space)


def _on(place: str) -> str:
    return f"on {target.flavour(target.parse(place)).title}" if place else "on this machine"


def model_of(name: str) -> Shapes | None:
    """The shapes of a base model as far as they are on this machine; None for a Hub model that nobody has listed or made."""
    if name == "starter":
        return shapes.shapes(read_config(paths.STARTER))
    if known := shapes.of_listed(name):
        return known
    if paths.ID_PATTERN.fullmatch(name):
        return shapes.shapes(read_config(artifacts.resolve(name).folder))
    return None


def work_of(recipe: Recipe) -> Workload:
    """The rows of the chosen datasets; about, where they would have to be counted first."""
    if not recipe.dataset:
        return prospect.work_of(recipe)
    work = _rows_of(recipe.dataset, recipe)
    return workload.with_evaluation(work, _rows_of(recipe.eval_dataset, workload.evaluating(recipe))) if recipe.eval_dataset else work


def _rows_of(name: str, recipe: Recipe) -> Workload:
    if name.startswith("ds-"):
        return workload.of_dataset(open_dataset(name), _tokenizer_of(recipe), recipe, at_once=0)
    return workload.assumed(recipe, *_file(name))


def _tokenizer_of(recipe: Recipe) -> ChatTokenizer | None:
    """The base model's tokenizer as a run uses it; None where it is not on this machine, or there is none."""
    try:
        folder = models.tokenizer_here(recipe.base_model)
        return _tokenizer(recipe.base_model, folder, recipe.chat_template) if folder else None
    except UserError:
        return None


@lru_cache(maxsize=4)
def _tokenizer(name: str, folder: Path, template: Literal["model", "vicuna_v1.1"]) -> ChatTokenizer:
    return prepare.tokenizer_of(Recipe(chat_template=template), models.ModelRef(name, folder))


@lru_cache(maxsize=8)
def _file(path: str) -> tuple[int, int]:
    """Conversations and bytes of an example."""
    from core.data.validate import validate

    file = paths.EXAMPLES / path.rpartition("/")[2]
    return (validate(file).num_valid, file.stat().st_size) if file.is_file() else (prospect.NO_DATA_ROWS, prospect.NO_DATA_BYTES)


def _said(lead: str, rest: str) -> str:
    return f'<p class="estimate-lead"><b>{text(lead)}</b> {text(rest)}</p>'


def _verdict(here: forecast.Estimate, change: fits.Change | None, place: str = "") -> str:
    is_gpu = here.memory.device == "gpu"
    need, room = (here.peak_bytes, here.room_bytes) if is_gpu else (here.host_bytes, here.host_room_bytes)
    kind = "GPU memory" if is_gpu else "main memory, libraries included"
    lead = f"Needs about {size(need)} of {kind}; {size(room)} can be used {_on(place)}."
    label = chip("Fits", "good") if here.fits else chip("Does not fit", "warning")
    rest = ""
    if not here.fits:
        rest = (
            f"It would fit with {knobs_said(change.knobs)}. {change.said}"
            if change
            else "No change of batch, length or method makes it fit."
        )
    return f'<p class="estimate-lead">{label} <b>{text(lead)}</b> {text(rest)}</p>'


def knobs_said(knobs: dict[str, Any]) -> str:
    """The knobs by their titles, as the form has them: ``micro batch size 2, gradient checkpointing on``."""
    titles = form.rows()
    shown = {True: "on", False: "off"}
    return ", ".join(
        f"{titles[name]['title'].lower()} {shown.get(value, value) if isinstance(value, bool) else value}" for name, value in knobs.items()
    )


def _bar(here: forecast.Estimate) -> str:
    """One bar with the parts of the peak, and what they are beneath it: by number, so that nobody has to tell colours apart."""
    imports = [Part(LIBRARIES, IMPORTS, "torch, transformers and TRL themselves")] if here.memory.device == "cpu" else []
    more = Part(CORRECTION, here.peak_bytes - here.memory.peak_bytes, "what runs measured here took beyond what is counted")
    parts = imports + [part for part in (*here.parts, more) if part.size_bytes > SMALLEST * here.memory.peak_bytes]
    total = sum(part.size_bytes for part in parts)
    spans = "".join(
        f'<span class="p-{part.name}" style="width:{part.size_bytes / total * 100:.2f}%" title="{text(f"{NAMES[part.name]}: {part.said}")}"></span>'
        for part in parts
    )
    legend = "".join(
        f'<li><span class="key p-{part.name}"></span>{text(NAMES[part.name])} <b>{size(part.size_bytes)}</b></li>' for part in parts
    )
    label = f"Peak by part, {size(total)}"
    return f'<div class="parts" role="img" aria-label="{text(label)}">{spans}</div><ul class="parts-key">{legend}</ul>'


def _figures(here: forecast.Estimate, place: str, more: dict[str, str]) -> str:
    pairs = [
        ("Optimizer steps", f"{'' if here.is_counted else 'about '}{here.steps:,}"),
        ("Time there" if place else "Time here", f"about {duration(here.total_s)}"),
        ("Disk", size(here.disk_bytes) + ("" if place else f" of {size(free_bytes())} free")),
        *more.items(),
    ]
    return facts(pairs)


def free_bytes() -> int:
    """What the disk of the workspace has left."""
    folder = paths.runs_dir()
    return shutil.disk_usage(next(known for known in (folder, *folder.parents) if known.is_dir())).free


def _cheapest(offers: list[fits.Offer], as_space: bool) -> str:
    """What fits for the least money, with its time and cost; beside a Space's free CPUs also the cheapest GPU, as they are slow."""
    best = fits.cheapest(offers, as_space)
    if best is None:
        return "none that is offered holds it"
    gpu = fits.cheapest([offer for offer in offers if offer.flavour.gpus], as_space)
    is_free = as_space and best.flavour.space_usd_per_h == 0
    return _where(best, as_space) + (f"; with a GPU: {_where(gpu, as_space)}" if is_free and gpu else "")


def _where(best: fits.Offer, as_space: bool) -> str:
    time = f"about {duration(best.estimate.total_s)}" if best.estimate else ""
    if not as_space:
        return f"{best.flavour.title}, {time}, {usd(best.job_usd)}"
    return f"{best.flavour.title} at {usd(best.flavour.space_usd_per_h)} per hour, {time}, {usd(best.space_usd)}"


def _honest(here: forecast.Estimate) -> str:
    known = here.correction
    if known.runs and known.error is not None:
        said = f"Corrected by {count(known.runs, 'run')} of this method measured here; without it, memory was {percent(known.error)} off."
    else:
        said = "Counted from the model's shapes; no run of this method was measured here yet. Time is a rough guess until then."
    return f'<p class="quiet fine">{text(said)}</p>'


def _others(recipe: Recipe, model: Shapes, place: str) -> str:
    """What `accelerate estimate-memory` and LLaMA-Factory's table say of the same model."""
    found = others.opinions(recipe, model, setting_of(recipe, data.machine_at(place), model))
    rows = [(text(each.whose), text(each.said), size(each.size_bytes)) for each in found]
    made = table(("Whose", "Which figure", "Memory of a GPU"), rows, "What others say", numeric=(2,))
    beyond = '<p class="quiet fine">They know the size of the model only: no batch, no length, no checkpointing.</p>'
    said = ", ".join(f"{each.whose} {size(each.size_bytes)}" for each in found)
    return f'<details class="machines others"><summary>{text(f"Others say: {said}")}</summary>{made}{beyond}</details>'


def _flavours(offers: list[fits.Offer], as_space: bool) -> str:
    rows: list[tuple[str, ...]] = []
    for offer in offers:
        known, flavour = offer.estimate, offer.flavour
        name = (text(flavour.title), text(usd(flavour.space_usd_per_h if as_space else flavour.job_usd_per_h)))
        if known is None:
            rows.append((*name, text(offer.refused.partition(". ")[0]), "", "", ""))
            continue
        is_gpu = known.memory.device == "gpu"
        need, room = (known.peak_bytes, known.room_bytes) if is_gpu else (known.host_bytes, known.host_room_bytes)
        verdict = chip("fits", "good") if known.fits else chip("too small", "warning")
        cost = usd(offer.space_usd if as_space else offer.job_usd)
        rows.append((*name, verdict, f"{size(need)} of {size(room)}", duration(known.total_s), cost))
    heads = (
        "Hardware" if as_space else "Machine",
        "Per hour",
        "",
        "Memory of each device",
        "Time",
        "On this Space" if as_space else "As a job",
    )
    fitting = sum(offer.fits for offer in offers)
    kind = "kinds of Space hardware" if as_space else "machines on the Hub"
    title = f"{fitting} of {len(offers)} {kind} hold it; prices of {prices_read()[0]}"
    made = table(heads, rows, "Hardware of Spaces" if as_space else "Machines on the Hub", numeric=(1, 3, 4, 5))
    return f'<details class="machines"><summary>{text(title)}</summary>{made}</details>'

"""What the Train tab answers to. Values come and go by the names of the knobs; what the browser keeps is the form, never a token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from core.errors import UserError
from core.training import prospect
from core.training.presets import PRESETS, preset
from core.training.recipe import ADAPTER_METHODS, Recipe
from ui import background, form, methods, train_estimate, train_machines, train_origin, train_rented
from ui import train_data as data
from ui.access import Caller, allowed
from ui.opening import said_by_name
from ui.shell import RUNS
from ui.view import count, duration, meter, sentence, text

DEFAULT = "demo"
FREE = [name for name in form.rows() if form.is_free(name)]  # fields into which something wrong can be put
IDENTITY = form.EXAMPLES + "identity.json"
Shown = dict[str, Any]
# {"preset": name, "values": {...}, "carried": the dataset id taken over last, "place": where it runs, "rented": see `train_rented`,
# "machines": see `train_machines`};
# with HANDED_OVER another tab has changed it, and the fields do not show that yet
Kept = dict[str, Any]
HANDED_OVER = "handed over"


def fresh() -> Kept:
    where = {"place": "", "rented": train_rented.known(None), "machines": train_machines.known(None)}
    return {"preset": DEFAULT, "values": form.to_values(preset(DEFAULT)), "carried": "", **where}


@allowed("public")
def check(kept: Kept, caller: Caller, **values: Any) -> Shown:
    """The form was typed into: what is wrong, what differs, what would run."""
    return _judged(_typed(kept, values), caller)


@allowed("public")
def choose_method(kept: Kept, caller: Caller, **values: Any) -> Shown:
    """Another method. From adapter to weights, or back, the learning rate moves by ten: an adapter takes about ten times as much."""
    was, typed = _known(kept)["values"]["method"], _typed(kept, values)
    values = typed["values"]
    now, rate = values["method"], values["learning_rate"]
    if (was in ADAPTER_METHODS) == (now in ADAPTER_METHODS) or not rate:
        return _judged(typed, caller)
    values["learning_rate"] = float(f"{rate * 10 if now in ADAPTER_METHODS else rate / 10:.6g}")
    note = f"Learning rate set to {form.plain(values['learning_rate'])}: an adapter takes about ten times what whole weights take."
    return {"learning_rate": values["learning_rate"]} | _judged(typed, caller, note)


@allowed("public")
def take_preset(preset_name: str, kept: Kept, caller: Caller, **values: Any) -> Shown:
    """Every knob as the preset has it; a dataset that was chosen stays."""
    known, taken = _known(kept), form.to_values(preset(preset_name))
    if values.get("dataset") and (not taken["dataset"] or known["carried"]):
        taken |= _with_dataset(taken, values["dataset"])
    return _filled(known | {"preset": preset_name, "values": taken}, caller)


@allowed("public")
def choose_place(place: str, kept: Kept, caller: Caller, **values: Any) -> Shown:
    """Where the run shall happen: what can start there is judged by that machine."""
    return _judged(_typed(kept, values) | {"place": place}, caller)


@allowed("public")
def choose_rented(image: str, timeout: str, results: str, nodes: float | None, kept: Kept, caller: Caller, **values: Any) -> Shown:
    """What else is asked of a rented machine."""
    rented = train_rented.known({"image": image, "timeout": timeout, "results": results, "nodes": nodes})
    return _judged(_typed(kept, values) | {"rented": rented}, caller)


@allowed("public")
def choose_machines(
    nodes: float | None, rank: float | None, address: str, port: float | None, kept: Kept, caller: Caller, **values: Any
) -> Shown:
    """How several machines of one's own reach each other."""
    machines = train_machines.known({"nodes": nodes, "rank": rank, "address": address, "port": port})
    return _judged(_typed(kept, values) | {"machines": machines}, caller)


@allowed("public")
def restore(dataset_id: str, kept: Kept, caller: Caller) -> Shown:
    """The page was opened: the form as the browser kept it, with a dataset chosen since then."""
    return _begun(_carried(_known(kept), dataset_id), caller)


@allowed("public")
def arrive(dataset_id: str, kept: Kept, caller: Caller, **values: Any) -> Shown:
    """The tab was opened: a dataset chosen since then, or a recipe that another tab has handed over. What was typed meanwhile stays."""
    if kept and kept.get(HANDED_OVER):
        return _begun(_carried(_known(kept), dataset_id), caller)
    typed = _typed(kept, values)
    carried = _carried(typed, dataset_id)
    offered: Shown = {name: gr.Dropdown(form.choices(name, caller)) for name in form.HAS_CHOICES}
    if carried is typed:
        return offered
    same = {name for name, value in carried["values"].items() if value == typed["values"][name]}
    return offered | {name: value for name, value in _filled(carried, caller).items() if name not in same}


def _begun(known: Kept, caller: Caller) -> Shown:
    where = train_rented.shown(known["rented"]) | train_machines.shown(known["machines"])
    return {"preset": known["preset"], "place": known["place"]} | where | _filled(known, caller)


@allowed("public")
def adapt(kept: Kept, caller: Caller, **values: Any) -> Shown:
    """What needs another machine is set to what works on this one."""
    typed = _typed(kept, values)
    return _filled(typed | {"values": data.adapted(typed["values"])}, caller)


@allowed("public")
def fit(kept: Kept, caller: Caller, **values: Any) -> Shown:
    """The smallest change that makes the recipe fit where it shall run."""
    typed = _typed(kept, values)
    change = train_estimate.change_for(typed["values"], caller, typed["place"])
    if change is None:
        return _filled(typed, caller)
    return _filled(
        typed | {"values": typed["values"] | change.knobs}, caller, f"Changed: {train_estimate.knobs_said(change.knobs)}. {change.said}"
    )


@allowed("public")
def edit_files(kept: Kept, caller: Caller, **values: Any) -> Shown:
    """The files that the recipe would be launched with become its own, to be changed in their fields."""
    typed = _typed(kept, values)
    place, chosen = typed["place"], train_estimate.distribution(typed["values"], caller, typed["place"])
    text, settings = data.files_of(typed["values"], place, chosen)
    own = {"accelerate_config": chosen, "accelerate_yaml": text, "deepspeed_json": settings} if chosen else {}
    return _filled(typed | {"values": typed["values"] | own}, caller)


@allowed("owner")
def suggest(kept: Kept, caller: Caller, **values: Any) -> Shown:
    """Settings for the chosen model and data on the machine where the run shall happen, with their reasons."""
    typed = _typed(kept, values)
    recipe = data.recipe_of(typed["values"], caller)
    found = prospect.suggested(recipe, data.machine_at(typed["place"]), caller.token)
    return _filled(typed | {"values": typed["values"] | found.knobs}, caller, " ".join(found.reasons))


@allowed("owner")
def start(kept: Kept, caller: Caller, **values: Any) -> Iterator[Shown]:
    """Create and start the run, with a word while a model is fetched; then on to Runs."""
    typed = _typed(kept, values)
    values, place, rented = typed["values"], typed["place"], typed["rented"]
    if reason := _why_not(typed, values, caller):
        raise reason
    node = None if place else train_machines.node(typed["machines"])
    for work in background.watch(lambda tell: data.start(values, caller, place, tell, rented, node), patience_s=1.0):
        if work.is_finished:
            yield {"progress": "", "run_id": work.result, "tabs": gr.Tabs(selected=RUNS)}
        else:
            yield {"progress": background.bar(work, "Looked at") if work.total else _waiting(str(values["base_model"]), work.elapsed_s)}


@allowed("owner")
def start_run(recipe: dict[str, Any], caller: Caller) -> dict[str, str]:
    """Start a run of `recipe` (knobs by name; what is left out takes its default) and return its id."""
    values = form.to_values(Recipe()) | recipe
    return {"run_id": data.start(values, caller)}


def _known(kept: Kept | None) -> Kept:
    """What the browser kept, as far as it still makes sense: knobs of an older version are dropped, new ones take the preset's value."""
    base = fresh()
    if not isinstance(kept, dict) or kept.get("preset") not in PRESETS or not isinstance(kept.get("values"), dict):
        return base
    values = form.to_values(preset(kept["preset"]))
    values |= {name: value for name, value in kept["values"].items() if name in values}
    place = {"place": data.known_place(kept), "rented": train_rented.known(kept.get("rented"))}
    place |= {"machines": train_machines.known(kept.get("machines"))}
    return {"preset": kept["preset"], "values": values, "carried": str(kept.get("carried") or ""), **place}


def _typed(kept: Kept | None, values: Shown) -> Kept:
    """The form as it stands on the page. A field that the method hides is not on the page and keeps its value."""
    known = _known(kept)
    on_page = {name: value for name, value in values.items() if value is not None or form.is_meant(name, values["method"])}
    return known | {"values": known["values"] | on_page}


def _carried(kept: Kept, dataset_id: str) -> Kept:
    if not dataset_id or dataset_id == kept["carried"]:
        return kept
    if data.example_id(kept["values"]["dataset"] or "") == dataset_id:
        return kept | {"carried": dataset_id}
    return kept | {"carried": dataset_id, "values": kept["values"] | _with_dataset(kept["values"], dataset_id)}


def _with_dataset(values: Shown, dataset: str) -> Shown:
    """The dataset, and no evaluation questions of an example, or of the split of a dataset, that it has nothing to do with."""
    is_identity = data.example_id(dataset) == data.example_id(IDENTITY)
    evaluated = values["eval_dataset"] or ""
    foreign = data.is_of_other_split(evaluated, dataset) or (evaluated.startswith(form.EXAMPLES) and not is_identity)
    share = {"eval_dataset": "", "eval_fraction": values["eval_fraction"] or 0.05} if foreign else {}
    return values | {"dataset": dataset} | share


def _filled(kept: Kept, caller: Caller, note: str = "") -> Shown:
    """Every field with its value, and what `_judged` says of them."""
    fields: Shown = dict(kept["values"])
    for name in form.HAS_CHOICES:
        has_many = isinstance(fields[name], list | tuple)
        fields[name] = gr.Dropdown(form.choices(name, caller), value=fields[name], multiselect=has_many or None)
    return fields | {"origin": train_origin.origin(kept["preset"])} | _judged(kept, caller, note)


def _judged(kept: Kept, caller: Caller, note: str = "") -> Shown:
    """Everything that follows from the values: errors at their fields, groups, methods, command, and whether it can start."""
    values, wrong = kept["values"], form.problems(kept["values"])
    changed = form.differing(values, form.to_values(preset(kept["preset"])))
    reason = _why_not(kept, values, caller)
    said = f"{reason.problem} {reason.remedy}" if reason else ""
    chosen = train_estimate.distribution(values, caller, kept["place"])
    file, settings = data.files_of(values, kept["place"], chosen)
    node = train_machines.known_node(kept["machines"])
    needs_machine = reason is not None and _why_not(kept, data.adapted(values), caller) is None
    return {
        "kept": kept,
        "comparison": methods.comparison(values, train_estimate.times(values, caller, kept["place"])),
        "yaml": data.yaml_text(values),
        "command": data.command_text(values, kept["place"], chosen, train_rented.flags(kept["place"], kept["rented"]), node),
        "rented:": gr.Accordion(label=train_rented.title(kept["rented"]), visible=bool(kept["place"])),
        **train_machines.judged(kept["machines"], kept["place"]),
        "launch_file": file,
        "launch_settings": gr.Code(settings, visible=bool(settings)),
        "adapt": gr.Button(visible=needs_machine),
        **{f"{name}?": form.error_line(wrong.get(name, "")) for name in FREE},
        **{
            f"{group}:": gr.Accordion(label=form.group_title(group, changed.get(group, []), form.wrong_titles(wrong, group)))
            for group in form.group_names()
        },
        **{f"{name} column": gr.Column(visible=form.is_meant(name, values["method"])) for name in form.ONLY_UNDER},
        **said_by_name(_lead(values, bool(wrong), caller), said, note=note),
    }


def _why_not(kept: Kept, values: Shown, caller: Caller) -> UserError | None:
    """The first thing that stands in the way of starting `values` where the form says, or None."""
    if reason := data.why_not(values, caller, kept["place"]):
        return reason
    recipe = data.recipe_of(values, caller)
    try:
        if kept["place"]:
            train_rented.check(kept["place"], kept["rented"], recipe)
        else:
            train_machines.check(kept["machines"], recipe)
    except UserError as error:
        return error
    return None


def _lead(values: Shown, is_wrong: bool, caller: Caller) -> str:
    """The first sentence: what would be trained, on what, how long."""
    method = methods.NAMES[values["method"]]
    model = {value: title for title, value in form.choices("base_model")}.get(values["base_model"], values["base_model"] or "no model")
    if not values["dataset"]:
        return sentence("Choose a dataset to train on.", "Take one on the Dataset tab, or an example in the form below.")
    number = data.num_conversations(str(values["dataset"]), caller)
    on = count(number, "conversation") if number else "the dataset"
    rest = "The optimizer steps are counted once every field is right." if is_wrong else "Nothing starts before you say so."
    if number and not is_wrong:
        at_most = "at most " if values["packing"] else ""
        epochs = values["num_train_epochs"]
        rest = f"{at_most}{count(data.num_steps(values, number), 'optimizer step')}, {epochs:g} epoch{'' if epochs == 1 else 's'}."
    return sentence(f"{method} on {model}, with {on}.", rest[0].upper() + rest[1:])


def _waiting(base_model: str, elapsed_s: float) -> str:
    said = f"Preparing {base_model}: fetching what is not on this disk yet, checking the data. {duration(elapsed_s)} so far."
    return f'{meter(1.0, "Preparing")}<p class="quiet" role="status">{text(said)}</p>'

"""What else can be said of a rented machine on the Train tab: its image, the time limit, where the results go, how many machines."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.errors import UserError
from core.jobs import target
from core.jobs.target import Target
from core.training import checks
from core.training.recipe import Recipe

Rented = dict[str, Any]  # the fields by name, as the browser keeps them
FRESH: Rented = {"image": "", "timeout": "", "results": "home", "nodes": 1}
TITLE = "The rented machine"
TITLES = {"image": "image", "timeout": "time limit", "results": "results", "nodes": "machines"}
HELP = {
    "image": "Empty takes this Space's own image, else huggingface/trl. Another one needs Python and pip, for example hf.co/spaces/USER/NAME.",
    "timeout": "Like 90m, 6h or 2d. Empty takes three times what the recipe is expected to take; then the job is ended.",
    "results": "In the repository they stay private, and nothing is fetched: for results that this disk has no room for.",
    "nodes": "They train together in one network and are all paid for. One is the rule.",
}
RESULTS = [("Come back here", "home"), ("Stay in the run's private repository", "repo")]


def fields() -> dict[str, Any]:
    """Lay the group out; returns its components, to be named ``rented:`` (the group) and by field."""
    with gr.Accordion(TITLE, open=False, visible=False, elem_classes=["group"], elem_id="train-rented") as group, gr.Row():
        with gr.Column(min_width=320):
            image = gr.Textbox("", label="Image", info=HELP["image"], max_length=255, elem_id="rented-image")
            timeout = gr.Textbox("", label="Time limit", info=HELP["timeout"], max_length=12, elem_id="rented-timeout")
        with gr.Column(min_width=320):
            results = gr.Radio(RESULTS, value="home", label="Results", info=HELP["results"], elem_id="rented-results")
            nodes = gr.Number(
                1, label="Machines", info=HELP["nodes"], precision=0, minimum=1, maximum=target.MOST_NODES, elem_id="rented-nodes"
            )
    return {"rented:": group, **{f"rented {name}": field for name, field in zip(FRESH, (image, timeout, results, nodes), strict=True)}}


def shown(rented: Rented) -> dict[str, Any]:
    """The values of the fields by the names that `fields` gives them."""
    return {f"rented {name}": value for name, value in known(rented).items()}


def title(rented: Rented) -> str:
    """The group's header, which names what was changed in it."""
    changed = [TITLES[name] for name, value in known(rented).items() if value != FRESH[name]]
    return f"{TITLE}: {', '.join(changed)} changed" if changed else TITLE


def known(kept: Any) -> Rented:
    """What the browser kept of the group, as far as it can be meant."""
    given = kept if isinstance(kept, dict) else {}
    nodes, results = given.get("nodes"), given.get("results")
    return {
        "image": str(given.get("image") or "").strip(),
        "timeout": str(given.get("timeout") or "").strip(),
        "results": results if results in ("home", "repo") else "home",
        "nodes": int(nodes) if isinstance(nodes, int | float) and not isinstance(nodes, bool) else 1,
    }


def wanted(place: str, rented: Rented) -> Target:
    """The machine that the form asks for at `place`."""
    return Target(target.parse(place), **known(rented))


def check(place: str, rented: Rented, recipe: Recipe) -> None:
    """Refuse what `core.jobs.dispatch.create` would refuse of the group.

    Raises:
        UserError: no image, no length of time, too many machines, or a recipe that several cannot train.
    """
    asked = wanted(place, rented)
    target.image_for(asked.flavour, asked.image)
    if asked.timeout:
        target.seconds(asked.timeout)
    if not 1 <= asked.nodes <= target.MOST_NODES:
        raise UserError(f"{asked.nodes} machines are too few or too many.", TITLE, f"Give 1 to {target.MOST_NODES}.")
    if asked.nodes > 1:
        checks.check_nodes(recipe)


def flags(place: str, rented: Rented) -> str:
    """The same for the command line, with a space before it; empty on this machine."""
    if not place:
        return ""
    changed = {name: value for name, value in known(rented).items() if value != FRESH[name]}
    return "".join(f" --{name} {value}" for name, value in changed.items())

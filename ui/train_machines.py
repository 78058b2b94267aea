"""Several machines of one's own that train together: how they reach each other, and the command that each of them is given."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from core.errors import UserError
from core.training import checks
from core.training.launch import Node, node_commands
from core.training.recipe import Recipe
from ui.view import count, text

Machines = dict[str, Any]  # the fields by name, as the browser keeps them
FRESH: Machines = {"nodes": 1, "rank": 0, "address": "", "port": 29500}
TITLE = "Several machines"
MOST = 8  # whose commands the page shows; the command line takes any number
HELP = {
    "nodes": "Machines of your own with equal GPUs that train one recipe together. One is the rule.",
    "rank": "The first one is 0: it is reached by the others, and the model is written there. Start training starts this one's part.",
    "address": "The name or IP address at which the others reach the first machine.",
    "port": "A port there that no firewall closes and nothing else uses, the same for all.",
}
TO_DO = (
    "On each machine, in Transmute's folder, with the same version, data file and base model, and the recipe below saved as recipe.yaml. "
    "They wait for each other, in any order."
)


def fields() -> dict[str, Any]:
    """Lay the group out; returns its components, to be named ``machines:`` (the group), by field, and ``machine N`` (a command)."""
    with gr.Accordion(TITLE, open=False, elem_classes=["group"], elem_id="train-machines") as group:
        with gr.Row():
            with gr.Column(min_width=320):
                nodes = gr.Number(1, label="Machines", info=HELP["nodes"], precision=0, minimum=1, maximum=MOST, elem_id="machines-nodes")
                rank = gr.Number(
                    0,
                    label="Which of them is this one",
                    info=HELP["rank"],
                    precision=0,
                    minimum=0,
                    maximum=MOST - 1,
                    elem_id="machines-rank",
                )
            with gr.Column(min_width=320):
                address = gr.Textbox(
                    "", label="Address of the first machine", info=HELP["address"], max_length=255, elem_id="machines-address"
                )
                port = gr.Number(29500, label="Port", info=HELP["port"], precision=0, minimum=1, maximum=65535, elem_id="machines-port")
        said = gr.HTML("", container=False, padding=False)
        lines = [
            gr.Code("", language="shell", label=f"Machine {number}", interactive=False, visible=False, elem_id=f"machines-{number}")
            for number in range(MOST)
        ]
    named = {f"machines {name}": field for name, field in zip(FRESH, (nodes, rank, address, port), strict=True)}
    return {"machines:": group, **named, "machines said": said, **{f"machine {number}": line for number, line in enumerate(lines)}}


def known(kept: Any) -> Machines:
    """What the browser kept of the group, as far as it can be meant."""
    given = kept if isinstance(kept, dict) else {}
    numbers = {name: given.get(name) for name in ("nodes", "rank", "port")}
    whole = {
        name: int(value)
        for name, value in numbers.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return FRESH | whole | {"address": str(given.get("address") or "").strip()}


def shown(machines: Machines) -> dict[str, Any]:
    """The values of the fields by the names that `fields` gives them."""
    return {f"machines {name}": value for name, value in known(machines).items()}


def node(machines: Machines) -> Node | None:
    """This machine's place among several; None where it is alone.

    Raises:
        UserError: a number or an address that cannot be.
    """
    asked = known(machines)
    if asked["nodes"] == 1:
        return None
    if not 1 <= asked["nodes"] <= MOST:
        remedy = f"Give 1 to {MOST}; the command line takes any number with --nodes."
        raise UserError(f"{asked['nodes']} machines are too few or too many.", TITLE, remedy)
    return Node(asked["nodes"], asked["rank"], asked["address"], asked["port"])


def check(machines: Machines, recipe: Recipe) -> None:
    """Refuse what `core.running.runs.create` would refuse of the group.

    Raises:
        UserError: see `node`, or a recipe that several machines cannot train.
    """
    if node(machines):
        checks.check_nodes(recipe)


def known_node(machines: Machines) -> Node | None:
    """As `node`; None too where something is wrong, which is said beside the button."""
    try:
        return node(machines)
    except UserError:
        return None


def judged(machines: Machines, place: str) -> dict[str, Any]:
    """The group's header and the command of each machine; the group is there for this machine only."""
    here = known_node(machines)
    lines = node_commands(here, ["recipe.yaml"]) if here else []
    label = f"{TITLE}: {count(len(lines), 'machine')}, this one is {here.rank}" if here else TITLE
    commands = {
        f"machine {number}": gr.Code(lines[number] if number < len(lines) else "", visible=number < len(lines)) for number in range(MOST)
    }
    said = f'<p class="quiet">{text(TO_DO)}</p>' if lines else ""
    return {"machines:": gr.Accordion(label=label, visible=not place), "machines said": said, **commands}

"""Where a run happens is part of the form: what can start there is judged by that machine, and a rented one needs a login."""

from __future__ import annotations

from pathlib import Path

from core.jobs import target
from ui import train_data, train_handlers
from ui.access import Caller

LOGGED_IN = Caller("someone", "owner", is_local=True, token="hf_" + "x" * 24)
NOBODY = Caller("this machine", "owner", is_local=True)
L4 = f"{target.PREFIX}l4x1"


def needs_gpu() -> dict:
    return train_handlers.fresh()["values"] | {"optim": "paged_adamw_8bit", "dtype": "bf16"}


def test_every_flavour_of_jobs_is_offered_with_its_price_behind_this_machine():
    titles, values = zip(*train_data.places(), strict=True)
    assert values[0] == "" and values[1:] == tuple(f"{target.PREFIX}{each.name}" for each in target.offered())
    assert all("$" in title for title in titles[1:])


def test_the_place_decides_what_can_start(workspace: Path):
    assert train_data.why_not(train_handlers.fresh()["values"], NOBODY) is None
    here = train_data.why_not(needs_gpu(), LOGGED_IN)
    assert here and "GPU" in here.problem
    assert train_data.why_not(needs_gpu(), LOGGED_IN, L4) is None
    old = train_data.why_not(needs_gpu(), LOGGED_IN, f"{target.PREFIX}t4-small")
    assert old and "bf16" in old.problem


def test_a_rented_machine_needs_a_login(workspace: Path):
    refused = train_data.why_not(train_handlers.fresh()["values"], NOBODY, L4)
    assert refused and refused.code == "LOGIN"


def test_the_browser_keeps_the_place_and_one_that_is_no_longer_offered_is_this_machine():
    kept = train_handlers.fresh() | {"place": L4}
    assert train_handlers._known(kept)["place"] == L4
    assert train_handlers._known(kept | {"place": "jobs:gone"})["place"] == ""
    assert train_handlers._known({name: value for name, value in kept.items() if name != "place"})["place"] == ""


def test_the_command_names_the_place():
    values = train_handlers.fresh()["values"]
    assert train_data.command_text(values, L4).endswith("train recipe.yaml --on jobs:l4x1")
    assert "--on" not in train_data.command_text(values)

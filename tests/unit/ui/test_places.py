"""Where a run happens is part of the form: what can start there is judged by that machine, and a rented one needs a login."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from core.jobs import target
from core.publish import deploy
from core.training import fits
from core.units import duration, usd
from ui import train_data, train_estimate, train_handlers, train_rented
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


def test_a_login_that_may_run_no_jobs_rents_no_machine_and_trains_here(workspace: Path):
    narrow, form = dataclasses.replace(LOGGED_IN, scope="openid profile contribute-repos"), train_handlers.fresh()["values"]
    refused = train_data.why_not(form, narrow, L4)
    assert refused and refused.code == "ACCESS" and "(the scope jobs)" in refused.problem
    assert train_data.why_not(form, narrow) is None
    assert train_data.why_not(form, dataclasses.replace(narrow, scope=f"{narrow.scope} jobs"), L4) is None


def test_the_browser_keeps_the_place_and_one_that_is_no_longer_offered_is_this_machine():
    kept = train_handlers.fresh() | {"place": L4}
    assert train_handlers._known(kept)["place"] == L4
    assert train_handlers._known(kept | {"place": "jobs:gone"})["place"] == ""
    assert train_handlers._known({name: value for name, value in kept.items() if name != "place"})["place"] == ""


def test_the_command_names_the_place():
    values = train_handlers.fresh()["values"]
    assert train_data.command_text(values, L4).endswith("train recipe.yaml --on jobs:l4x1")
    assert "--on" not in train_data.command_text(values)


def rented(**asked: object) -> dict:
    """What the page shows when so much is asked of a rented L4."""
    begin = train_handlers.fresh() | {"place": L4}
    values = train_rented.FRESH | asked
    return train_handlers.choose_rented.__wrapped__(*values.values(), begin, caller=LOGGED_IN, **begin["values"])


def test_what_else_is_asked_of_a_rented_machine_stands_in_the_command_and_stays(workspace: Path):
    asked = {"image": "hf.co/spaces/me/mine", "timeout": "6h", "results": "repo", "nodes": 2}
    shown = rented(**asked)
    flags = "--on jobs:l4x1 --image hf.co/spaces/me/mine --timeout 6h --results repo --nodes 2"
    assert shown["command"].endswith(flags)
    assert shown["kept"]["rented"] == asked and "changed" in shown["rented:"].label and shown["rented:"].visible
    again = train_handlers.restore.__wrapped__("", shown["kept"], caller=LOGGED_IN)
    assert {name: again[f"rented {name}"] for name in asked} == asked
    wanted = train_rented.wanted(L4, shown["kept"]["rented"])
    assert wanted == target.Target("l4x1", "hf.co/spaces/me/mine", "6h", "repo", 2)


def test_the_group_is_only_there_for_a_rented_machine(workspace: Path):
    begin = train_handlers.fresh()
    assert not train_handlers.check.__wrapped__(begin, caller=LOGGED_IN, **begin["values"])["rented:"].visible
    assert rented()["rented:"].label == train_rented.TITLE


@pytest.mark.parametrize(("asked", "problem"), [
    ({"image": "$(id)"}, "is no image"), ({"timeout": "soon"}, "is no time limit"), ({"nodes": 65}, "65 machines are too few or too many"),
])  # fmt: skip
def test_what_a_rented_machine_cannot_be_asked_is_the_reason_beside_the_button(workspace: Path, asked: dict, problem: str):
    assert any(problem in str(part) for part in rented(**asked).values())
    assert not any(problem in str(part) for part in rented().values())


def too_large() -> dict:
    return train_handlers.fresh()["values"] | {
        "base_model": "lmsys/vicuna-7b-v1.5", "method": "qlora", "max_length": 2048, "micro_batch_size": 64, "gradient_accumulation_steps": 1,
    }  # fmt: skip


def test_the_estimate_judges_the_machine_that_was_chosen(workspace: Path):
    small, large = f"{target.PREFIX}t4-small", f"{target.PREFIX}a100-large"
    assert "Does not fit" in train_estimate.estimated(too_large(), LOGGED_IN, small)
    said = train_estimate.estimated(too_large() | {"micro_batch_size": 1}, LOGGED_IN, large)
    assert "Does not fit" not in said and f"can be used on {target.flavour('a100-large').title}" in said
    shown = train_estimate.look.__wrapped__({"values": too_large(), "place": small}, caller=LOGGED_IN)
    assert shown["fit"].visible and "Does not fit" in shown["estimate"]


def test_one_click_makes_the_recipe_fit_where_it_shall_run(workspace: Path):
    place = f"{target.PREFIX}l4x1"
    kept = train_handlers.fresh() | {"values": too_large(), "place": place}
    change = train_estimate.change_for(too_large(), LOGGED_IN, place)
    assert change and "micro_batch_size" in change.knobs
    shown = train_handlers.fit.__wrapped__(kept, caller=LOGGED_IN, **too_large())
    after = shown["kept"]["values"]
    assert after == too_large() | change.knobs and shown["kept"]["place"] == place
    assert after["micro_batch_size"] * after["gradient_accumulation_steps"] == 64
    assert train_estimate.change_for(after, LOGGED_IN, place) is None
    assert "Does not fit" not in train_estimate.estimated(after, LOGGED_IN, place)
    assert train_handlers.fit.__wrapped__(shown["kept"], caller=LOGGED_IN, **after)["kept"]["values"] == after


def test_one_click_suggests_settings_and_says_why(workspace: Path):
    values = train_handlers.fresh()["values"] | {"learning_rate": 0.5, "packing": False, "method": "fft"}
    shown = train_handlers.suggest.__wrapped__(train_handlers.fresh() | {"values": values}, caller=LOGGED_IN, **values)
    after = shown["kept"]["values"]
    assert (after["method"], after["packing"], after["max_length"]) == ("lora", True, 256)
    assert after["learning_rate"] == shown["learning_rate"] == 1e-3
    assert after["dataset"] == values["dataset"] and after["levels"] == values["levels"]
    assert any("the longest conversation fits" in str(part) for part in shown.values())


def on_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEM", "spaces")
    monkeypatch.setenv("SPACE_ID", "someone/transmute")


def names_of(shown: str) -> list[str]:
    """The first cell of each row of the machines' table."""
    return re.findall(r"<tr><td[^>]*>([^<]*)", shown.rpartition("<details")[2])


def test_on_a_space_the_estimate_names_what_spaces_offer_and_what_it_costs_there(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    values = too_large() | {"micro_batch_size": 1}
    elsewhere = train_estimate.estimated(values, LOGGED_IN)
    assert names_of(elsewhere) == [each.title for each in target.offered()] and "As a job" in elsewhere
    on_space(monkeypatch)
    shown = train_estimate.estimated(values, LOGGED_IN)
    assert names_of(shown) == [each.title for each in deploy.offered()] and "CPU XL" not in shown and "As a job" not in shown
    known = train_estimate._known(values, LOGGED_IN)
    assert known and known[1]
    offers = fits.offers(known[0], known[1], train_estimate.work_of(known[0]))
    best = fits.cheapest(fits.of_spaces(offers), as_space=True)
    assert best and best.estimate and best.space_usd and best.flavour.space_usd_per_h
    assert best.space_usd == min(each.space_usd for each in offers if each.fits and each.space_usd is not None)
    said = f"{best.flavour.title} at ${best.flavour.space_usd_per_h:.2f} per hour, about {duration(best.estimate.total_s)}, {usd(best.space_usd)}"
    assert said in shown and "Cheapest hardware for this Space" in shown


def test_on_a_space_free_hardware_is_not_named_without_what_a_gpu_would_cost(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    on_space(monkeypatch)
    shown = train_estimate.estimated(train_handlers.fresh()["values"], LOGGED_IN)
    assert re.search(r"CPU Basic at \$0\.00 per hour, about [^,]+, \$0\.00; with a GPU: [^,]+ at \$\d+\.\d\d per hour, about ", shown)


def test_a_job_that_is_chosen_on_a_space_keeps_the_machines_and_prices_of_jobs(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    on_space(monkeypatch)
    shown = train_estimate.estimated(too_large(), LOGGED_IN, L4)
    assert names_of(shown) == [each.title for each in target.offered()] and "as a job" in shown

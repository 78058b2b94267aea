"""What an account keeps privately is looked up before a large upload, by the Hub's own client, and what would not fit is said."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import UserError
from core.publish import quota
from core.publish.ledger import remember
from core.publish.preflight import Plan, PlannedFile
from core.publish.push import push
from core.publish.standing import require, standing
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from ui import publish_send
from ui.access import Caller

GB = 10**9
FREE_ORG = {"name": "team", "roleInOrg": "write", "isEnterprise": False, "periodEnd": None}


def person(hub: Hub, **more: Any) -> None:
    """What `whoami` says of GOOD_TOKEN."""
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": [], "auth": {"accessToken": {"role": "write"}}} | more


def keeps(hub: Hub, *gigabytes: float, owner: str = "someone", access: Any = "private", kind: Any = "models") -> None:
    for number, each in enumerate(gigabytes):
        repo = Repo(f"{owner}/{access}-{number}", kind=kind, access=access, used_bytes=int(each * GB))
        hub.repos[(kind, repo.repo_id)] = repo


def notes(size_gb: float, repo_id: str = "someone/new") -> tuple[str, ...]:
    return standing(repo_id, GOOD_TOKEN, size_bytes=int(size_gb * GB)).notes


def listings(hub: Hub) -> list[str]:
    return [path for path in hub.paths() if path in ("/api/models", "/api/datasets", "/api/spaces")]


def test_models_datasets_and_spaces_count_public_ones_and_others_do_not(hub: Hub) -> None:
    person(hub, isPro=False)
    for kind, held in (("models", 40), ("datasets", 30), ("spaces", 20)):
        keeps(hub, held, kind=kind)
        keeps(hub, 500, kind=kind, access="open")
        keeps(hub, 500, kind=kind, owner="other")
    assert notes(9.9) == ()
    (said,) = notes(10.5)
    assert "someone keeps 90.0 GB in other private repositories: 10.0 GB are left of the 100.0 GB" in said and "this has 10.5 GB" in said
    assert "may refuse it" in said and standing("someone/new", GOOD_TOKEN, size_bytes=11 * GB).problems == ()


def test_every_page_of_a_listing_is_read_up_to_a_limit(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    person(hub, isPro=False)
    keeps(hub, *[20] * 5)
    hub.page_size = 2
    assert "keeps 100.0 GB" in notes(2)[0] and listings(hub).count("/api/models") == 3
    monkeypatch.setattr(quota, "MOST_LISTED", 3)
    assert notes(30) == () and "keeps 60.0 GB" in notes(41)[0]


@pytest.mark.parametrize(
    ("whoami", "repo_id", "held_gb", "size_gb", "said"),
    [
        ({"isPro": False}, "someone/new", 0, 101, "may refuse"),
        ({"isPro": True}, "someone/new", 500, 101, ""),
        ({"isPro": True}, "someone/new", 950, 60, "50.0 GB are left of the 1000.0 GB"),
        ({}, "someone/new", 500, 101, ""),  # the Hub does not tell the plan
        ({"orgs": [FREE_ORG]}, "team/new", 95, 6, "team keeps 95.0 GB"),
        ({"orgs": [FREE_ORG | {"plan": "team"}]}, "team/new", 95, 6, ""),
        ({"orgs": [FREE_ORG | {"isEnterprise": True}]}, "team/new", 95, 6, ""),
        ({"orgs": [FREE_ORG | {"periodEnd": 1_900_000_000}]}, "team/new", 95, 6, ""),
        ({"orgs": [{"name": "team", "roleInOrg": "write"}]}, "team/new", 95, 6, ""),
    ],
)
def test_the_allowance_goes_by_the_plan_and_an_unknown_one_says_nothing(
    whoami: dict[str, Any], repo_id: str, held_gb: float, size_gb: float, said: str, hub: Hub
) -> None:
    person(hub, **whoami)
    keeps(hub, held_gb, owner=repo_id.partition("/")[0])
    found = notes(size_gb, repo_id)
    assert (len(found) == 1 and said in found[0]) if said else found == ()
    assert all("billed" in note for note in found) or not whoami.get("isPro")


def test_a_small_upload_asks_for_nothing_more_and_what_is_there_is_not_counted_twice(hub: Hub) -> None:
    person(hub, isPro=False)
    keeps(hub, 99.5)
    assert notes(0.9) == () and listings(hub) == []
    assert "keeps 99.5 GB" in notes(2)[0]
    remember("someone/private-0", "created")
    assert notes(2, "someone/private-0") == ()
    keeps(hub, 99.5, access="open")
    remember("someone/open-0", "created")
    assert notes(2, "someone/open-0") == (), "a public repository takes no private storage"


def test_where_the_hub_does_not_say_nothing_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    person(hub, isPro=False)
    keeps(hub, 99.5)
    hub.faults.append(Fault("GET /api/datasets$", "status", status=403))
    assert notes(2) == () and "/api/datasets" in listings(hub)
    assert len(notes(2)) == 1
    monkeypatch.setattr(Repo, "expanded", lambda self, names: {"private": True, "usedStorage": None})
    assert notes(2) == ()


def test_the_page_and_the_command_line_are_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    person(hub, isPro=False)
    keeps(hub, 99.5)
    plan = Plan("someone/new", "someone/new", (PlannedFile("model.safetensors", 2 * GB, text="w"),))
    assert any("keeps 99.5 GB" in note for note in require(plan, GOOD_TOKEN).notes)
    monkeypatch.setattr(publish_send, "_shown", {})
    assert "keeps 99.5 GB" in publish_send.asked(plan, GOOD_TOKEN, Caller("someone", "owner", token=GOOD_TOKEN))


@pytest.mark.parametrize("status", [400, 403])
def test_a_refusal_for_want_of_room_says_so_and_opens_no_pull_request(status: int, hub: Hub) -> None:
    """In the Hub's own words; a 403 for another reason is reached by pull request."""
    person(hub)
    hub.repos[("models", "someone/mine")] = mine = Repo("someone/mine", kind="models", access="private")
    remember("someone/mine", "created")
    words = "Private repository storage limit reached, please upgrade your plan to increase your private storage limit"
    hub.faults.append(Fault("POST .*/commit/", "status", status=status, message=words))
    plan = Plan("someone/mine", "someone/mine", (PlannedFile("config.json", 2, text="{}"),))
    with pytest.raises(UserError, match="The private storage of someone on the Hub is full") as raised:
        push(plan, GOOD_TOKEN)
    assert raised.value.code == "FULL" and mine.pull_requests == []
    assert push(plan, GOOD_TOKEN).commit

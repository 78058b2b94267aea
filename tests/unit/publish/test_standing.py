"""Before anything is sent it is known whether the login may write there, and what the base model's licence asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from core import hubclient
from core.errors import UserError
from core.publish.ledger import remember
from core.publish.preflight import Plan, PlannedFile
from core.publish.standing import require, standing
from core.publish.terms import terms
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Hub]:
    gated = Repo("meta/base", kind="models", access="gated", card={"license": "other", "license_name": "meta-terms"})
    with Hub([gated, Repo("other/there", kind="models")]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        yield running


def login(hub: Hub, role: str = "write", scoped: list[dict[str, Any]] | None = None, orgs: dict[str, str] | None = None) -> None:
    """What `whoami` says of GOOD_TOKEN, as the Hub writes it."""
    access = {"displayName": "mine", "role": role} | ({"fineGrained": {"scoped": scoped, "global": []}} if scoped is not None else {})
    teams = [{"type": "org", "name": name, "roleInOrg": given} for name, given in (orgs or {}).items()]
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": teams, "auth": {"type": "access_token", "accessToken": access}}


def may_write(owner: str) -> dict[str, Any]:
    return {"entity": {"type": "user", "name": owner}, "permissions": ["repo.content.read", "repo.write"]}


@pytest.mark.parametrize(
    ("role", "scoped", "repo_id", "said"),
    [
        ("write", None, "someone/new", ""),
        ("read", None, "someone/new", "'mine' can only read"),
        ("read", None, "other/there", "'mine' can only read"),
        ("fineGrained", [may_write("someone")], "someone/new", ""),
        ("fineGrained", [may_write("someone/new")], "someone/new", ""),
        ("fineGrained", [may_write("team")], "someone/new", "is fine-grained and may not write to repositories of someone"),
        ("fineGrained", [], "someone/new", "is fine-grained and may not write"),
        ("write", None, "team/new", ""),
        ("write", None, "readers/new", "may only read in the organisation readers"),
        ("write", None, "stranger/new", "Possible here: someone, team"),
        ("write", None, "no-owner", "does not say whose it is"),
    ],
)
def test_the_token_and_the_owner_are_judged(role: str, scoped: Any, repo_id: str, said: str, hub: Hub) -> None:
    login(hub, role, scoped, {"team": "write", "readers": "read"})
    problems = standing(repo_id, GOOD_TOKEN).problems
    assert (said in problems[0]) if said else problems == ()
    assert hub.paths("POST") == []


def test_a_login_through_a_space_says_nothing_of_its_scope_and_passes(hub: Hub) -> None:
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": [], "auth": {"type": "oauth"}}
    assert standing("someone/new", GOOD_TOKEN).problems == ()


def test_a_repository_of_somebody_else_is_reached_by_pull_request(hub: Hub) -> None:
    login(hub)
    found = standing("other/there", GOOD_TOKEN)
    assert found.exists and not found.is_ours and found.problems == () and "pull request" in found.notes[0]
    remember("other/there", "created")
    assert "neither" in standing("other/there", GOOD_TOKEN).problems[0], "made here once, and no right to write any more"


def test_terms_of_the_base_are_named(hub: Hub) -> None:
    login(hub)
    notes = standing("someone/new", GOOD_TOKEN, base_model="meta/base").notes
    assert "meta-terms" in notes[0] and "gated" in notes[1]
    assert standing("someone/new", GOOD_TOKEN, base_model="nobody/gone").notes == ()


@pytest.mark.parametrize(("token", "code"), [(None, "LOGIN"), ("hf_" + "y" * 30, "LOGIN")])
def test_without_a_login_it_says_so(token: str | None, code: str, hub: Hub) -> None:
    with pytest.raises(UserError) as raised:
        standing("someone/new", token)
    assert raised.value.code == code


def test_without_a_network_it_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError) as raised:
        standing("someone/new", GOOD_TOKEN)
    assert raised.value.code == "NET"


def test_a_plan_that_may_not_be_sent_is_refused_before_it_is(hub: Hub) -> None:
    login(hub, "read")
    plan = Plan("someone/new", "someone/new", (PlannedFile("README.md", 1, text="x"),))
    with pytest.raises(UserError, match="can only read") as raised:
        require(plan, GOOD_TOKEN)
    assert raised.value.code == "ACCESS"


@pytest.mark.parametrize(
    ("license", "name", "said"),
    [
        ("cc-by-nc-4.0", "", "forbids commercial use"),
        ("llama2", "", "700 million"),
        ("llama3.2", "", "Built with Llama"),
        ("gemma", "", "Google's terms"),
        ("other", "deepseek-license", "(deepseek-license)"),
        ("apache-2.0", "", ""),
        ("", "", ""),
    ],
)
def test_a_licence_that_asks_for_something_is_named_in_words(license: str, name: str, said: str) -> None:
    assert said in terms(license, name) and bool(terms(license, name)) == bool(said)

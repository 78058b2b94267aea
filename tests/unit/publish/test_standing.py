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
from core.publish.push import push
from core.publish.scopes import KNOWN, jobs_problem
from core.publish.standing import require, standing
from core.publish.terms import terms
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from tests.space import SCOPES


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


def through_a_space(hub: Hub) -> None:
    """What `whoami` says of a login through a Space: nothing of its rights."""
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": [], "auth": {"type": "oauth"}}


@pytest.mark.parametrize(
    ("scope", "repo_id", "said"),
    [
        ("openid profile contribute-repos", "someone/new", ""),
        ("openid profile write-repos", "someone/new", ""),
        ("openid profile manage-repos", "someone/new", ""),
        (
            "openid profile read-repos jobs",
            "someone/new",
            "not allowed to make repositories and write to them (the scope contribute-repos)",
        ),
        ("openid profile write-discussions", "someone/new", "(the scope contribute-repos)"),
        ("openid profile write-discussions", "other/there", ""),
        ("openid profile contribute-repos", "other/there", "not allowed to open pull requests (the scope write-discussions)"),
        ("openid profile contribute-repos", "someone/mine", ""),
        ("openid profile write-discussions", "someone/mine", ""),
        ("openid profile read-repos", "someone/mine", "(the scope contribute-repos)"),
        ("openid profile full-access", "someone/new", ""),
        ("openid profile full-access", "other/there", ""),
        ("", "someone/new", ""),
        ("", "other/there", ""),
    ],
)
def test_a_login_through_a_space_is_judged_by_its_scopes_where_all_are_known(scope: str, repo_id: str, said: str, hub: Hub) -> None:
    through_a_space(hub)
    hub.repos[("models", "someone/mine")] = Repo("someone/mine", kind="models")
    remember("someone/mine", "created")
    problems = standing(repo_id, GOOD_TOKEN, scope=scope).problems
    assert (len(problems) == 1 and said in problems[0] and "hf_oauth_scopes" in problems[0]) if said else problems == ()


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("jobs contribute-repos", ""),
        ("", ""),
        ("new-thing", ""),
        ("contribute-repos", "run jobs (the scope jobs)"),
        ("jobs", "keeps the run"),
    ],
)
def test_a_rented_machine_needs_the_scopes_for_jobs_and_for_its_repository(scope: str, said: str) -> None:
    assert said in jobs_problem(scope) and bool(jobs_problem(scope)) == bool(said)


def test_the_scopes_that_the_space_asks_for_are_enough_and_known(hub: Hub) -> None:
    through_a_space(hub)
    assert set(SCOPES.split()) <= KNOWN, "else they are not judged"
    assert standing("someone/new", GOOD_TOKEN, scope=SCOPES).problems == standing("other/there", GOOD_TOKEN, scope=SCOPES).problems == ()
    assert jobs_problem(SCOPES) == ""


def discusses(**more: Any) -> dict[str, Any]:
    return {"displayName": "mine", "role": "fineGrained", "fineGrained": {"scoped": [], "global": ["discussion.write"]} | more}


@pytest.mark.parametrize(
    ("access", "repo_id", "said"),
    [
        (discusses(), "other/there", ""),
        (discusses(), "someone/mine", ""),
        (discusses(), "someone/new", "may not write to repositories of someone"),
        (discusses(**{"global": []}), "other/there", "may not open pull requests"),
        (discusses(**{"global": [], "scoped": [may_write("someone")]}), "other/there", ""),
    ],
)
def test_a_token_that_may_only_open_pull_requests_passes_where_that_is_the_way(
    access: dict[str, Any], repo_id: str, said: str, hub: Hub
) -> None:
    hub.repos[("models", "someone/mine")] = Repo("someone/mine", kind="models")
    remember("someone/mine", "created")
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": [], "auth": {"type": "access_token", "accessToken": access}}
    problems = standing(repo_id, GOOD_TOKEN).problems
    assert (said in problems[0]) if said else problems == ()


def test_a_token_that_may_only_open_pull_requests_gets_one_at_its_owners_own_repository(hub: Hub) -> None:
    hub.repos[("models", "someone/mine")] = mine = Repo("someone/mine", kind="models")
    remember("someone/mine", "created")
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": [], "auth": {"accessToken": discusses()}}
    hub.asks_only.add(GOOD_TOKEN)
    plan = Plan("someone/mine", "someone/mine", (PlannedFile("config.json", 2, text="{}"),))
    require(plan, GOOD_TOKEN)
    assert push(plan, GOOD_TOKEN).pull_request.endswith("/discussions/1") and mine.files == {} and len(mine.pull_requests) == 1


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

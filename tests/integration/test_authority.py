"""Who may call what, over HTTP: every listener of the page by each of six callers (reliability rules R1 to R3 and R23).

The roles stand in a golden file, so a new handler, or one with another role, is a decision that somebody has written down.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import listeners, space
from tests.hub.server import Hub
from tests.listeners import Listener, Visitor
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
GOLDEN = Path(__file__).parents[1] / "golden" / "authority.json"
RANK = {"public": 0, "signed_in": 1, "owner": 2}
HAS = {"anonymous": "public", "other user": "signed_in", "org reader": "signed_in", "org writer": "owner", "owner": "owner"}
GRADIOS_OWN = {"gradio.components.login_button._check_login_status"}  # writes the button's label
# As a card of the page or as an endpoint's error; the Train tab also says the sentence as the reason beside its button.
REFUSED = re.compile(r'(<p class=\\?"what\\?">|"error":\s*")On this Space only')
HARMFUL = {"ui.train_handlers.start"}  # with the form as the page opens it, this one would train
CALLS_AT_ONCE = 4


@pytest.fixture(scope="module")
def at_the_space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    home = tmp_path_factory.mktemp("authority") / "workspace"
    home.mkdir()
    with Hub() as hub:
        hub.people = space.people()
        app = App(home, free_port(), more=space.environment(hub.url))
        app.start()
        yield app
        app.kill()
        stop_runs(home)


@pytest.fixture(scope="module")
def at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    home = tmp_path_factory.mktemp("local") / "workspace"
    home.mkdir()
    app = App(home, free_port())
    app.start()
    yield app
    app.kill()
    stop_runs(home)


@pytest.fixture(scope="module")
def of_the_space() -> list[Listener]:
    return listeners.of_page(space.environment("http://127.0.0.1:9"))


@pytest.fixture(scope="module")
def of_home() -> list[Listener]:
    return listeners.of_page({})


def ours(found: list[Listener]) -> list[Listener]:
    return [listener for listener in found if listener.name not in GRADIOS_OWN]


def test_every_handler_has_the_role_that_was_decided(of_the_space: list[Listener], of_home: list[Listener]) -> None:
    roles = {listener.name: listener.role for listener in sorted(ours(of_the_space + of_home), key=lambda each: each.name)}
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(roles, indent=2) + "\n", encoding="utf-8")
    assert roles == json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert set(roles.values()) <= set(RANK)


def refused(visitor: Visitor, found: list[Listener]) -> set[str]:
    """The names of the handlers that turned the visitor away; none may answer with a traceback."""

    def is_refused(listener: Listener) -> bool:
        answer = visitor.call(listener, empty=listener.name in HARMFUL)
        assert "Traceback" not in answer and "site-packages" not in answer, (listener, answer)
        return bool(REFUSED.search(answer))

    with ThreadPoolExecutor(CALLS_AT_ONCE) as pool:
        answers = list(pool.map(is_refused, found))
    visitor.close()
    return {listener.name for listener, turned_away in zip(found, answers, strict=True) if turned_away}


def closed(found: list[Listener]) -> list[Listener]:
    """Those that are not for everybody."""
    return [listener for listener in ours(found) if listener.role != "public"]


def beyond(role: str) -> set[str]:
    """The handlers that ask for more than `role`."""
    wanted: dict[str, str] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return {name for name, least in wanted.items() if RANK[least] > RANK[role]}


@pytest.mark.parametrize("caller", HAS)
def test_each_caller_of_a_space_is_turned_away_from_exactly_what_is_beyond(
    caller: str, at_the_space: App, of_the_space: list[Listener]
) -> None:
    token = space.TOKENS.get(caller)
    visitor = Visitor(at_the_space.url, cookie=space.cookie(token) if token else "")
    assert refused(visitor, ours(of_the_space)) == beyond(HAS[caller])


def test_the_person_at_this_machine_is_turned_away_from_nothing(at_home: App, of_home: list[Listener]) -> None:
    assert refused(Visitor(at_home.url), of_home) == set()


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_the_owner_who_looks_at_another_page_does_nothing_here_by_it(
    origin: str, at_the_space: App, at_home: App, of_the_space: list[Listener], of_home: list[Listener]
) -> None:
    """That page sends requests with the owner's cookie, or to the owner's own machine: those of no handler are answered."""
    owner = space.cookie(space.TOKENS["owner"])
    for visitor, found in ((Visitor(at_the_space.url, cookie=owner), of_the_space), (Visitor(at_home.url), of_home)):
        visitor.come_from(origin)
        answers = {visitor.call(listener, empty=True) for listener in found}
        assert len(answers) == 1 and "comes from another page" in answers.pop()
        visitor.close()


def test_the_owners_own_page_says_whose_it_is_and_is_answered(at_the_space: App, of_the_space: list[Listener]) -> None:
    listener = next(each for each in of_the_space if each.role == "owner" and each.name not in HARMFUL)
    for origin in (at_the_space.url, f"https://{space.environment('')['SPACE_HOST']}"):
        visitor = Visitor(at_the_space.url, cookie=space.cookie(space.TOKENS["owner"]))
        visitor.come_from(origin)
        answer = visitor.call(listener)
        assert "comes from another page" not in answer and not REFUSED.search(answer), origin
        visitor.close()


def test_a_cookie_that_this_space_has_not_signed_is_no_login(at_the_space: App, of_the_space: list[Listener]) -> None:
    for secret in ("", "another-secret"):
        visitor = Visitor(at_the_space.url, cookie=space.cookie(space.TOKENS["owner"], secret))
        assert refused(visitor, closed(of_the_space)) == beyond("public")


@pytest.mark.parametrize(
    ("token", "role"), [(space.TOKENS["owner"], "owner"), (space.TOKENS["other user"], "signed_in"), ("hf_made_up", "public")]
)
def test_a_token_in_the_call_gives_the_rights_of_its_owner_and_no_more(
    token: str, role: str, at_the_space: App, of_the_space: list[Listener]
) -> None:
    """As `gradio_client` sends ``Client(..., oauth_token=...)``."""
    assert refused(Visitor(at_the_space.url, oauth_token=token), closed(of_the_space)) == beyond(role)


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        (space.SCOPES, "Yes: kim/new does not exist yet"),
        (space.SCOPES.replace("contribute-repos", ""), "not allowed to make repositories and write to them (the scope contribute-repos)"),
    ],
)
def test_what_a_login_was_allowed_reaches_the_question_whether_it_can_publish(
    scope: str, said: str, at_the_space: App, of_the_space: list[Listener]
) -> None:
    visitor = Visitor(at_the_space.url, cookie=space.cookie(space.TOKENS["owner"], scope=scope))
    listener = next(each for each in of_the_space if each.name == "ui.train_publish.can_publish")
    assert said in visitor.call(listener, data=["kim/new", "starter"])
    visitor.close()


def test_a_page_that_has_its_own_name_point_at_this_machine_is_a_visitor(at_home: App, of_home: list[Listener]) -> None:
    visitor = Visitor(at_home.url, headers={"host": f"evil.example:{at_home.port}"})
    assert refused(visitor, closed(of_home)) == beyond("public") & {listener.name for listener in of_home}


def test_a_forged_login_gives_nothing_where_there_is_no_login(at_home: App, of_home: list[Listener]) -> None:
    visitor = Visitor(at_home.url, cookie=space.cookie(space.TOKENS["owner"], ""), headers={"host": f"evil.example:{at_home.port}"})
    assert refused(visitor, closed(of_home)) == beyond("public") & {listener.name for listener in of_home}

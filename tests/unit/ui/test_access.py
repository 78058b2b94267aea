"""Who may call what, derived from the request alone (reliability rules R1 to R3)."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from core.errors import UserError
from ui import access
from ui.access import Caller, allowed, identify

CREATOR, AUTHOR = "5f0c", "alchemists"
SPACE = {"SYSTEM": "spaces", "SPACE_ID": "alchemists/transmute", "OAUTH_CLIENT_ID": "x"}


def member(role: str, org: str = AUTHOR) -> dict[str, Any]:
    return {"type": "user", "id": "77aa", "name": "mira", "orgs": [{"name": org, "roleInOrg": role}]}


IDENTITIES = [  # whoami's answer, creator id, author name, is owner
    ({"type": "user", "id": CREATOR, "name": "kim"}, CREATOR, None, True),
    ({"type": "user", "sub": CREATOR, "name": "kim"}, CREATOR, None, True),
    ({"type": "user", "id": "other", "name": "kim"}, CREATOR, None, False),
    ({"type": "user", "id": "other", "name": AUTHOR}, None, AUTHOR, True),
    ({"type": "user", "id": "other", "name": AUTHOR.upper()}, None, AUTHOR, False),
    (member("admin"), None, AUTHOR, True),
    (member("write"), None, AUTHOR, True),
    (member("read"), None, AUTHOR, False),
    (member("contributor"), None, AUTHOR, False),
    (member("admin", "elsewhere"), None, AUTHOR, False),
    ({"type": "org", "id": CREATOR, "name": AUTHOR}, CREATOR, AUTHOR, False),
    ({"type": "user", "id": "", "name": ""}, None, None, False),
]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Space, no password, nothing remembered."""
    for name in (
        "SYSTEM",
        "SPACE_ID",
        "OAUTH_CLIENT_ID",
        "SPACE_CREATOR_USER_ID",
        "SPACE_AUTHOR_NAME",
        "ALLOW_PUBLIC",
        "TRANSMUTE_PASSWORD",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(access, "_identities", {})
    monkeypatch.setattr(access, "saved_token", lambda: None)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SPACE.items():
        monkeypatch.setenv(name, value)


def asked_at(host: str) -> Any:
    return SimpleNamespace(headers={"host": host})


@pytest.mark.parametrize(("known", "creator", "author", "expected"), IDENTITIES)
def test_the_owner_is_the_creator_the_author_or_a_writer_of_the_organisation(
    known: dict[str, Any], creator: str | None, author: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("SPACE_CREATOR_USER_ID", creator), ("SPACE_AUTHOR_NAME", author)):
        if value:
            monkeypatch.setenv(name, value)
    assert access.is_owner(known) is expected


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860"])
def test_at_this_machine_one_has_all_rights(host: str) -> None:
    caller = identify(asked_at(host), None)
    assert caller.is_local and caller.role == "owner"


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "", "localhost.evil.example:7860"])
def test_a_name_that_was_made_to_point_here_has_none(host: str) -> None:
    assert identify(asked_at(host), None).role == "public"


def test_with_a_password_the_login_decides_and_the_name_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSMUTE_PASSWORD", "long enough")
    assert identify(asked_at("my-box.lan:7860"), None).role == "owner"


@pytest.mark.parametrize(
    ("headers", "address", "is_local"),
    [
        ({"host": "127.0.0.1:7860"}, "127.0.0.1", True),
        ({"host": "localhost:7860"}, "::1", True),
        ({"host": "127.0.0.1:7860"}, "192.168.1.7", False),  # says that it is here
        ({"host": "abc.gradio.live"}, "127.0.0.1", False),  # through the tunnel of --share
        ({"host": "127.0.0.1:7860", "x-forwarded-for": "8.8.8.8"}, "127.0.0.1", False),
        ({"host": "127.0.0.1:7860", "x-forwarded-host": "abc.gradio.live"}, "127.0.0.1", False),
    ],
)
def test_with_the_password_alone_nobody_sits_at_this_machine(
    headers: dict[str, str], address: str, is_local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rights, but the files of this machine by their path are for who sits at it."""
    monkeypatch.setenv("TRANSMUTE_PASSWORD", "long enough")
    request: Any = SimpleNamespace(headers=headers, client=SimpleNamespace(host=address))
    caller = identify(request, None)
    assert caller.role == "owner" and caller.is_local is is_local


@pytest.mark.usefixtures("space")
def test_on_a_space_nobody_is_local_and_a_visitor_may_only_look() -> None:
    assert identify(asked_at("127.0.0.1:7860"), None) == Caller("a visitor", "public")
    assert identify(None, None).role == "public"


@pytest.mark.usefixtures("space")
def test_the_token_is_asked_about_once_and_kept_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[str] = []

    def whoami(token: str) -> dict[str, Any]:
        asked.append(token)
        return {"type": "user", "id": CREATOR, "name": "kim"}

    monkeypatch.setattr(huggingface_hub, "whoami", whoami)
    monkeypatch.setenv("SPACE_CREATOR_USER_ID", CREATOR)
    token = "hf_CANARY" + "x" * 30
    first, second = identify(None, token), identify(None, token)
    assert first.role == second.role == "owner" and first.token == token
    assert asked == [token]
    assert token not in repr(access._identities) + repr(first)
    monkeypatch.delenv("SPACE_CREATOR_USER_ID")
    assert identify(None, token).role == "signed_in", "without the variable nobody is the owner"


@pytest.mark.usefixtures("space")
def test_a_token_the_hub_does_not_know_is_a_visitor(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def whoami(token: str) -> dict[str, Any]:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "whoami", whoami)
    assert identify(None, "hf_" + "y" * 30).role == "public"


@pytest.mark.usefixtures("space")
def test_allow_public_loosens_it_on_purpose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOW_PUBLIC", "1")
    assert identify(None, None).role == "owner"
    assert not identify(None, None).is_local, "files of the server stay out of reach"


@allowed("owner")
def act(what: str, caller: Caller) -> str:
    return f"{what} by {caller.name}"


@allowed("owner")
def count_up(to: int):
    yield from range(to)


def test_a_handler_gets_its_caller_and_gradio_sees_only_its_inputs() -> None:
    assert act(None, None, "done") == "done by this machine"
    assert list(inspect.signature(act).parameters) == ["_request", "_token", "what"]
    assert act.__annotations__["_request"] is gr.Request
    assert act.allowed_role == "owner"


@pytest.mark.usefixtures("space")
def test_who_may_not_is_told_what_to_do() -> None:
    with pytest.raises(UserError, match="only its owner") as caught:
        act(None, None, "done")
    assert "Sign in" in caught.value.remedy
    with pytest.raises(UserError):
        list(count_up(None, None, 3))


@allowed("public")
def tell_scope(caller: Caller) -> str:
    return caller.scope


@pytest.mark.usefixtures("space")
def test_the_scope_of_a_login_is_its_callers_and_nobody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_whoami", lambda token: {"name": "kim"} if token == "good" else None)
    request = SimpleNamespace(session_hash="abc", headers={}, client=None)
    assert tell_scope(request, gr.OAuthToken("good", "openid jobs", 0)) == "openid jobs"
    assert tell_scope(request, gr.OAuthToken("unknown", "openid jobs", 0)) == tell_scope(request, None) == ""


@pytest.mark.usefixtures("space")
def test_a_login_that_ended_asks_again_and_is_not_taken_for_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_CREATOR_USER_ID", CREATOR)
    monkeypatch.setattr(access, "_whoami", lambda token: {"id": CREATOR, "name": "kim"} if token == "good" else None)
    page, other = SimpleNamespace(session_hash="abc", headers={}, client=None), SimpleNamespace(session_hash="def", headers={}, client=None)
    assert act(page, SimpleNamespace(token="good", scope=""), "done") == "done by kim"
    for token in (None, SimpleNamespace(token="revoked", scope="")):
        with pytest.raises(UserError, match="login has ended") as caught:
            act(page, token, "done")
        assert caught.value.code == "LOGIN" and "what was prepared is kept" in caught.value.remedy
        with pytest.raises(UserError, match="only its owner"):
            act(other, token, "done")
    monkeypatch.delenv("SPACE_CREATOR_USER_ID")
    with pytest.raises(UserError, match="only its owner"):  # signed in, and not as the owner
        act(page, SimpleNamespace(token="good", scope=""), "done")


def test_a_space_without_login_points_to_a_copy_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "alchemists/transmute")
    assert "Duplicate" in access.refusal("owner").remedy

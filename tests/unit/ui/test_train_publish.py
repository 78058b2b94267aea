"""Before training it is known whether the result could be published where the recipe says, and what waits is sent at one click."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from core import hubclient
from core.errors import UserError
from core.export import artifacts
from core.publish.waiting import waiting
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from tests.unit.publish.test_waiting import REPO, RUN_ID, finished
from ui import programs, publish_name, publish_send, publish_tab, run_view, train_publish
from ui.access import Caller
from ui.feedback import as_user_error

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Hub]:
    base = Repo("meta/base", kind="models", access="gated", card={"license": "llama3.2"})
    with Hub([base, Repo("other/there", kind="models")]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        monkeypatch.setattr(publish_send, "_shown", {})  # of another test
        yield running


def test_the_train_tab_says_whether_one_can_publish_there(hub: Hub) -> None:
    said = train_publish.can_publish(None, None, " someone/new ", "meta/base")
    assert "Yes: someone/new does not exist yet" in said and "Built with Llama" in said and "is gated" in said
    assert "Name a repository first" in train_publish.can_publish(None, None, "", "starter")
    assert "neither someone nor an organisation" in train_publish.can_publish(None, None, "stranger/new", "starter")
    theirs = train_publish.can_publish(None, None, "other/there", "starter")
    assert "pull request" in theirs and "Yes" not in theirs
    assert hub.paths("POST") == []


def test_what_waits_is_shown_and_sent_at_one_click(hub: Hub) -> None:
    run = finished()
    assert "waits to be published to someone/x" in run_view._waits(run)
    choice, button = publish_send.waits()
    assert (choice.value, button.visible) == (RUN_ID, True)
    *_, last = publish_send.send_waiting(None, None, RUN_ID)
    assert "Published" in last[0] and REPO in last[1] and last[4].visible is False
    assert waiting(run) is None and run_view._waits(run) == "" and ("models", REPO) in hub.repos
    with pytest.raises(UserError, match="Nothing of this run waits"):
        list(publish_send.send_waiting(None, None, RUN_ID))


def test_a_login_that_was_not_allowed_to_write_sends_nothing_from_anywhere(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    run, picked = finished(), [f"{RUN_ID}-merged"]
    narrow = Caller("someone", "owner", token=GOOD_TOKEN, scope="openid profile read-repos")
    monkeypatch.setattr("ui.access.identify", lambda *_: narrow)
    lacks = "the scope contribute-repos"
    assert lacks in train_publish.can_publish(None, None, REPO, "starter")
    assert lacks in programs.publish(None, None, picked, REPO, dry_run=True)["hub"]["why"]
    plan = publish_send.planned(picked, REPO, "parquet")
    card = next(file.text for file in plan.files if file.path == "README.md")
    assert lacks in publish_send.look(None, None, picked, REPO, "parquet", card, None)
    sends = (
        lambda: programs.publish(None, None, picked, REPO),
        lambda: list(publish_send.send_waiting(None, None, RUN_ID)),
        lambda: list(publish_send.send(None, None, picked, REPO, "parquet", card, True, False, False, False, None)),
    )
    for send in sends:
        with pytest.raises(UserError, match=lacks):
            send()
    assert hub.paths("POST") == [] and waiting(run)
    assert publish_send.scope_of("hf_pasted", narrow) == "", "of a pasted token nobody says"


def test_without_a_login_it_goes_on_waiting(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    run = finished()
    with pytest.raises(UserError) as raised:
        list(publish_send.send_waiting(None, None, RUN_ID))
    assert "Sign in" in as_user_error(raised.value).remedy and waiting(run) and not hub.objects


def test_a_publication_that_fails_behind_a_closed_page_is_in_the_list(hub: Hub) -> None:
    finished()
    hub.faults.append(Fault("POST .*/commit/", "status", status=500, times=99))
    with pytest.raises(UserError):
        list(publish_send.send_waiting(None, None, RUN_ID))
    assert "not sent: The Hub has a fault of its own (HTTP 500)." in publish_send.before()
    assert publish_send.stop_button().visible is False


def test_a_publication_can_be_stopped_and_is_sent_later(hub: Hub) -> None:
    run = finished()
    is_stopped = threading.Event()
    hub.faults.append(Fault("PUT /lfs/", "slow", seconds=60, until=is_stopped))
    sending = publish_send.send_waiting(None, None, RUN_ID)
    assert next(sending)[2].visible is True
    while not any(path.startswith("/lfs/") for path in hub.paths("PUT")):
        next(sending)
    assert publish_send.stop(None, None).interactive is False
    is_stopped.set()
    with pytest.raises(UserError, match="was stopped"):
        list(sending)
    assert "not sent: It was stopped." in publish_send.before()
    assert hub.repos[("models", REPO)].files == {} and waiting(run)
    *_, last = publish_send.send_waiting(None, None, RUN_ID)
    assert "press Send again" in last[0], "the repository was made already"
    *_, last = publish_send.send_waiting(None, None, RUN_ID)
    assert "Published" in last[0]


def test_a_program_whose_login_may_not_publish_there_is_refused_before_anything_is_sent(hub: Hub) -> None:
    run = finished()
    access = {"displayName": "mine", "role": "read"}
    hub.people[GOOD_TOKEN] = {"type": "user", "name": "someone", "orgs": [], "auth": {"accessToken": access}}
    with pytest.raises(UserError, match="'mine' can only read") as raised:
        programs.publish(None, None, [f"{RUN_ID}-merged"], REPO)
    assert raised.value.code == "ACCESS" and hub.paths("POST") == [] and ("models", REPO) not in hub.repos
    del hub.people[GOOD_TOKEN]
    assert programs.publish(None, None, [f"{RUN_ID}-merged"], REPO)["commit"] and waiting(run) is None


def test_an_existing_repository_shows_its_difference_before_it_is_sent_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared while logged out, and sent with a pasted token: the difference was never on the page."""
    monkeypatch.delenv("HF_TOKEN")
    finished()
    repo = hub.repos[("models", REPO)] = Repo(REPO, {"transmute.json": b"{}", "old.txt": b"old"}, kind="models")
    before, picked = dict(repo.files), [f"{RUN_ID}-merged"]
    plan = publish_send.planned(picked, REPO, None)
    card = next(file.text or "" for file in plan.files if file.path == "README.md")

    def clicked(card: str) -> tuple[object, ...]:
        *_, last = publish_send.send(None, None, picked, REPO, None, card, True, False, False, False, GOOD_TOKEN)
        return last

    first = clicked(card)
    assert all(said in str(first[0]) for said in ("It was made here", "changed", "old.txt", "press Send again"))
    assert repo.files == before and first[3] != "", "nothing was sent, and the token stays for the second click"
    repo.files = before | {"new.txt": b"by somebody else meanwhile"}
    assert "press Send again" in str(clicked(card)[0]) and "model.safetensors" not in repo.files
    sent = clicked(card)
    assert "Published" in str(sent[0]) and sent[3] == "" and repo.files["model.safetensors"] == b"merged"
    assert "Everything is there already" in str(clicked(card)[0]), "nothing changes, so nothing is asked"
    assert "README.md" in publish_send.look(None, None, picked, REPO, None, card, GOOD_TOKEN)
    assert "press Send again" in str(clicked(card + "Mine.")[0]), "an edited card is another difference"


def test_what_was_shown_is_sent_at_one_click(hub: Hub) -> None:
    finished()
    picked = [f"{RUN_ID}-merged"]
    hub.repos[("models", REPO)] = Repo(REPO, {"transmute.json": b"{}"}, kind="models")
    told = programs.publish(None, None, picked, REPO, dry_run=True)["hub"]
    assert told["asked"] and "transmute.json" in told["difference"]["changed"] and hub.paths("POST") == []
    card = next(file.text for file in publish_send.planned(picked, REPO, None).files if file.path == "README.md")
    assert "changed" in publish_send.look(None, None, picked, REPO, None, card, None)
    *_, last = publish_send.send_waiting(None, None, RUN_ID)
    assert "Published" in last[0]


@pytest.mark.parametrize("way", ["prepared again", "compared"])
def test_what_was_shown_with_an_edited_card_is_sent_at_one_click(way: str, hub: Hub) -> None:
    """The comparison is made of the card as it stands on the page, which is the one that is sent."""
    finished()
    picked = [f"{RUN_ID}-merged"]
    kept = {"key": publish_tab._key(picked, REPO), "card": publish_tab.prepare(None, None, picked, REPO, *[None] * 4, {})[5] + "Mine."}

    def sent() -> str:
        *_, last = publish_send.send(None, None, picked, REPO, None, kept["card"], True, False, False, False, None)
        return str(last[0])

    assert "Published" in sent()
    repo = hub.repos[("models", REPO)]
    repo.files = repo.files | {"config.json": b"[]"}
    shown = (
        publish_tab.prepare(None, None, picked, REPO, *[None] * 4, kept)[-1]
        if way == "prepared again"
        else publish_send.look(None, None, picked, REPO, None, kept["card"], None)
    )
    assert "<td>changed</td>" in shown and "config.json" in shown
    assert "Published 1 file" in sent() and repo.files["README.md"].endswith(b"Mine.")


def test_a_kept_card_with_a_broken_front_matter_is_prepared_and_refused_when_it_is_sent(hub: Hub) -> None:
    finished()
    picked, broken = [f"{RUN_ID}-merged"], "---\nlicense: [\n---\n"
    kept = {"key": publish_tab._key(picked, REPO), "card": broken}
    assert "does not exist yet" in publish_tab.prepare(None, None, picked, REPO, *[None] * 4, kept)[-1]
    with pytest.raises(UserError, match="not YAML"):
        list(publish_send.send(None, None, picked, REPO, None, broken, True, False, False, False, None))


def test_the_repository_is_named_without_typing(hub: Hub) -> None:
    """Whoever is logged in chooses a model and finds a name; what they type themselves stays."""
    hub.people[GOOD_TOKEN] = {
        "type": "user",
        "name": "me",
        "orgs": [{"name": "team", "roleInOrg": "write"}, {"name": "readers", "roleInOrg": "read"}],
    }
    finished()
    owner = publish_name.whose(None, None, None)
    assert (owner.value, [choice for choice, _ in owner.choices], owner.visible) == ("me", ["me", "team"], True)
    (adapter,) = [each for each in artifacts.everywhere() if each.kind == "adapter"]

    def named(repo_id: str, kept: str = "", owner: str = "me") -> object:
        return publish_name.name_it(None, None, [adapter.id], repo_id, kept, owner)

    assert str(named("")).split("\n")[:2] == ["", f"me/{adapter.name}-adapter"]
    assert str(named(f"me/{adapter.name}-adapter", owner="team")).split("\n")[:2] == [
        f"me/{adapter.name}-adapter",
        f"team/{adapter.name}-adapter",
    ]
    for repo_id, kept in (("me/typed-by-hand", ""), ("", "me/kept-by-the-browser"), (f"me/{adapter.name}-adapter", "")):
        assert named(repo_id, kept)["__type__"] == "update", "nothing changes"  # type: ignore[index]
    assert publish_name.name_it(None, None, [], "", "", "me")["__type__"] == "update"

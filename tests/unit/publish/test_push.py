"""Publications reach the Hub through the real client: whole or not at all, only what is missing, and no token left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

from core import hubclient
from core.errors import UserError
from core.publish.ledger import is_ours, ledger
from core.publish.preflight import Plan, PlannedFile
from core.publish.push import Pushed, compare, push, with_card
from core.publish.standing import standing
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, LFS_BYTES, OTHER_TOKEN, Repo
from tests.hub.server import Hub

# The client sends files in a way that its HTTP library calls out of date.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CARD = "---\nlicense: apache-2.0\n---\n\n# A model\n" + "It answers.\n" * 100  # long enough for LFS on the Hub of the tests
REPO = "someone/model-GGUF"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Hub]:
    with Hub([Repo("org/theirs", {"README.md": b"theirs", "old.bin": b"old"}, kind="models")]) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda _: None))  # the client's own patience
        yield running


def plan_of(folder: Path, repo_id: str = REPO, **changed: bytes) -> Plan:
    """Two files on disk (one of them large enough for LFS) and a card."""
    contents = {"model.gguf": b"GGUF" * LFS_BYTES, "config.json": b"{}"} | {
        name.replace("_", "."): value for name, value in changed.items()
    }
    files: list[PlannedFile] = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        files.append(PlannedFile(name, len(content), folder / name))
    return Plan(repo_id, repo_id, (*files, PlannedFile("README.md", len(CARD), text=CARD)))


def files_of(hub: Hub, repo_id: str = REPO) -> dict[str, bytes]:
    return hub.repos[("models", repo_id)].files


def refused(*args: object, **options: object) -> UserError:
    with pytest.raises(UserError) as raised:
        push(*args, **options)  # type: ignore[arg-type]
    return raised.value


def test_a_new_repository_is_private_and_holds_exactly_the_plan(hub: Hub, tmp_path: Path) -> None:
    heard: list[tuple[int, int]] = []
    plan = plan_of(tmp_path)
    pushed = push(plan, GOOD_TOKEN, on_progress=lambda done, total: heard.append((done, total)))
    assert files_of(hub) == {"model.gguf": b"GGUF" * LFS_BYTES, "config.json": b"{}", "README.md": CARD.encode()}
    assert hub.repos[("models", REPO)].access == "private"
    assert pushed.url == f"{hub.url}/{REPO}" and pushed.commit and not pushed.pull_request
    assert heard == sorted(heard) and heard[-1] == (plan.total_bytes, plan.total_bytes)
    assert is_ours(REPO)


def test_a_public_repository_is_public(hub: Hub, tmp_path: Path) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN, private=False)
    assert hub.repos[("models", REPO)].access == "open"


def test_sending_again_sends_only_what_changed(hub: Hub, tmp_path: Path) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN)
    sent_before = hub.paths("PUT")
    assert push(plan_of(tmp_path), GOOD_TOKEN) == Pushed(REPO, f"{hub.url}/{REPO}", "", "", (), 0)
    again = plan_of(tmp_path, config_json=b'{"a": 1}')
    difference = compare(again, GOOD_TOKEN)
    assert (difference.new, difference.changed, difference.same) == ((), ("config.json",), ("README.md", "model.gguf"))
    assert push(again, GOOD_TOKEN).sent == ("config.json",)
    assert files_of(hub)["config.json"] == b'{"a": 1}'
    assert hub.paths("PUT") == sent_before


def test_a_repository_of_somebody_else_is_reached_by_pull_request_and_stays_as_it_is(hub: Hub, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "org/theirs")
    difference = compare(plan, GOOD_TOKEN)
    assert difference.by_pull_request and difference.only_there == ("old.bin",) and difference.changed == ("README.md",)
    pushed = push(plan, GOOD_TOKEN)
    assert pushed.pull_request == f"{hub.url}/org/theirs/discussions/1"
    assert files_of(hub, "org/theirs") == {"README.md": b"theirs", "old.bin": b"old"}
    assert hub.repos[("models", "org/theirs")].branches["refs/pr/1"]["old.bin"] == b"old"


def test_a_pull_request_can_be_asked_for(hub: Hub, tmp_path: Path) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN)
    pushed = push(plan_of(tmp_path, config_json=b"[]"), GOOD_TOKEN, pull_request=True)
    assert pushed.pull_request and files_of(hub)["config.json"] == b"{}"


@pytest.mark.parametrize(
    ("token", "repo_id", "code", "said"),
    [
        (None, REPO, "LOGIN", "Nobody is logged in"),
        ("hf_" + "x" * 30, REPO, "LOGIN", "does not accept this login"),
        (OTHER_TOKEN, "someone/new", "ACCESS", "may not write"),
    ],
)
def test_without_a_right_nothing_is_sent_and_the_reason_is_said(
    token: str | None, repo_id: str, code: str, said: str, hub: Hub, tmp_path: Path
) -> None:
    error = refused(plan_of(tmp_path, repo_id), token)
    assert error.code == code and said in error.problem and error.remedy
    assert not hub.objects and ("models", repo_id) not in hub.repos


@pytest.mark.parametrize(
    ("status", "place"),
    [(429, "POST .*/commit/main"), (500, "POST /api/models/.*/preupload"), (503, "PUT /lfs/"), (504, "GET /api/models/")],
)
def test_a_fault_that_passes_is_waited_for(status: int, place: str, hub: Hub, tmp_path: Path) -> None:
    hub.faults.append(Fault(place, "status", status=status, times=1))
    assert push(plan_of(tmp_path), GOOD_TOKEN).commit
    assert set(files_of(hub)) == {"model.gguf", "config.json", "README.md"}


def test_after_a_break_nothing_half_sent_is_visible_and_what_arrived_is_not_sent_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults.append(Fault("POST .*/commit/main", "status", status=500, times=50))
    error = refused(plan_of(tmp_path), GOOD_TOKEN)
    assert error.code == "NET" and "500" in error.problem
    assert files_of(hub) == {}
    hub.faults.clear()
    sent_before = len([path for path in hub.paths("PUT") if path.startswith("/lfs/")])
    assert push(plan_of(tmp_path), GOOD_TOKEN).commit
    assert len([path for path in hub.paths("PUT") if path.startswith("/lfs/")]) == sent_before
    assert len(files_of(hub)) == 3


SECOND = b"other" * LFS_BYTES  # is sent after model.gguf
PUT_SECOND = f"PUT /lfs/{hashlib.sha256(SECOND).hexdigest()}"


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (Fault(PUT_SECOND, "cut", after_bytes=LFS_BYTES, times=99), "NET", "could not be reached"),
        (Fault(PUT_SECOND, "status", status=504, times=99), "NET", "504"),
        (Fault(PUT_SECOND, "status", status=403, times=99), "ACCESS", "may not write"),
        (Fault("POST .*/preupload/", "status", status=401, times=99), "LOGIN", "does not accept this login"),
        (Fault("POST .*/info/lfs/objects/batch", "status", status=401, times=99), "LOGIN", "does not accept this login"),
        (Fault("POST .*/preupload/", "status", status=404, times=99), "MISSING", "There is no"),
        (Fault("POST .*/commit/", "status", status=401, times=99), "LOGIN", "does not accept this login"),
        (Fault("POST .*/commit/", "status", status=409, times=99), "CHANGED", "Somebody changed"),
        (Fault("POST .*/commit/", "cut", after_bytes=100, times=99), "NET", "could not be reached"),
        (Fault("POST .*/commit/", "status", status=429, times=99), "NET", "too often"),
    ],
)
def test_a_break_in_the_middle_is_said_shows_nothing_half_and_costs_no_byte_twice(
    fault: Fault, code: str, said: str, hub: Hub, tmp_path: Path
) -> None:
    plan = plan_of(tmp_path, second_gguf=SECOND)
    through: list[tuple[int, int]] = []

    def break_now(done: int, total: int) -> None:
        through.append((done, total))
        if done == len(b"GGUF" * LFS_BYTES) and fault not in hub.faults:  # the first file is through
            hub.faults.append(fault)

    error = refused(plan, GOOD_TOKEN, on_progress=break_now)
    assert (error.code, said in error.problem, bool(error.remedy)) == (code, True, True), error
    assert files_of(hub) == {} and through
    hub.faults.clear()
    hub.asked.clear()
    first = hashlib.sha256(b"GGUF" * LFS_BYTES).hexdigest()
    assert push(plan_of(tmp_path, second_gguf=SECOND), GOOD_TOKEN).commit
    assert set(files_of(hub)) == {"model.gguf", "second.gguf", "config.json", "README.md"} and files_of(hub)["second.gguf"] == SECOND
    assert f"/lfs/{first}" not in hub.paths("PUT")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT /lfs/", "cut", after_bytes=LFS_BYTES),
        Fault("POST .*/commit/", "cut", after_bytes=10),
        Fault("PUT /lfs/", "slow", seconds=1.5),
        Fault("POST /api/repos/create", "late", status=504),
        Fault("POST .*/commit/", "late", status=504),
    ],
    ids=["cut in a file", "cut in the commit", "slow", "made and not answered", "committed and not answered"],
)
def test_what_passes_is_outlived_without_a_word(fault: Fault, hub: Hub, tmp_path: Path) -> None:
    hub.faults.append(replace(fault))
    assert push(plan_of(tmp_path), GOOD_TOKEN).commit
    assert set(files_of(hub)) == {"model.gguf", "config.json", "README.md"}
    assert is_ours(REPO) and hub.repos[("models", REPO)].access == "private"
    assert push(plan_of(tmp_path), GOOD_TOKEN).commit == ""


def test_a_commit_that_was_made_and_not_answered_is_found_by_the_next_try(hub: Hub, tmp_path: Path) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN)
    hub.faults.append(Fault("POST .*/commit/", "late", status=504))
    error = refused(plan_of(tmp_path, config_json=b"[2]"), GOOD_TOKEN)
    assert error.code == "CHANGED" and "Compare again" in error.remedy
    assert push(plan_of(tmp_path, config_json=b"[2]"), GOOD_TOKEN).commit == "" and files_of(hub)["config.json"] == b"[2]"


@pytest.mark.parametrize("is_stopped", [False, True], ids=["found by the next try", "found by the next click"])
def test_a_pull_request_that_was_opened_and_not_answered_is_found_and_not_opened_twice(is_stopped: bool, hub: Hub, tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "org/theirs")
    hub.faults.append(Fault("POST .*/commit/", "late", status=504))
    if is_stopped:
        with pytest.raises(hubclient.Stopped):
            push(plan, GOOD_TOKEN, should_stop=lambda: any("/commit/" in path for path in hub.paths("POST")))
    pushed = push(plan, GOOD_TOKEN)
    repo = hub.repos[("models", "org/theirs")]
    assert list(repo.branches) == ["refs/pr/1"] and pushed.pull_request == f"{hub.url}/org/theirs/discussions/1"
    assert pushed.commit == repo.commit(repo.branches["refs/pr/1"])
    push(plan_of(tmp_path, "org/theirs", config_json=b"[7]"), GOOD_TOKEN)
    assert len(repo.branches) == 2, "other files are another pull request"


@pytest.mark.parametrize(("files", "tags"), [({"transmute.json": b"{}"}, []), ({}, ["transmute"])], ids=["model", "dataset"])
def test_after_the_workspace_was_lost_ones_own_repository_is_known_by_what_it_holds(
    files: dict[str, bytes], tags: list[str], hub: Hub, tmp_path: Path
) -> None:
    """A Space without a volume forgets what it published at every restart."""
    for repo_id in ("someone/mine", "org/shared"):
        hub.repos[("models", repo_id)] = Repo(repo_id, dict(files), kind="models", card={"tags": tags})
    hub.repos[("models", "someone/other")] = Repo("someone/other", {"README.md": b"by hand"}, kind="models")
    assert push(plan_of(tmp_path, "someone/mine"), GOOD_TOKEN).pull_request == ""
    assert standing("someone/mine", GOOD_TOKEN).notes == ()
    assert push(plan_of(tmp_path, "org/shared"), GOOD_TOKEN).pull_request, "others work there too"
    assert push(plan_of(tmp_path, "someone/other"), GOOD_TOKEN).pull_request


def test_a_repository_that_was_reached_by_pull_request_is_not_ours_once_that_is_merged(hub: Hub, tmp_path: Path) -> None:
    theirs = hub.repos[("models", "someone/by-hand")] = Repo("someone/by-hand", {"README.md": b"by hand"}, kind="models")
    assert push(plan_of(tmp_path, "someone/by-hand", transmute_json=b"{}"), GOOD_TOKEN).pull_request
    theirs.files = theirs.branches["refs/pr/1"]
    again = plan_of(tmp_path, "someone/by-hand", transmute_json=b"[]")
    assert compare(again, GOOD_TOKEN).by_pull_request and "pull request" in standing("someone/by-hand", GOOD_TOKEN).notes[0]
    assert push(again, GOOD_TOKEN).pull_request and theirs.files["transmute.json"] == b"{}"


def test_where_the_login_may_not_write_the_same_push_opens_a_pull_request(hub: Hub, tmp_path: Path) -> None:
    """The scope contribute-repos of a Space writes only to what that Space made."""
    mine = hub.repos[("models", "someone/mine")] = Repo("someone/mine", {"transmute.json": b"{}"}, kind="models")
    hub.asks_only.add(GOOD_TOKEN)
    plan = plan_of(tmp_path, "someone/mine")
    assert not compare(plan, GOOD_TOKEN).by_pull_request
    assert push(plan, GOOD_TOKEN).pull_request == f"{hub.url}/someone/mine/discussions/1"
    assert mine.files == {"transmute.json": b"{}"} and "model.gguf" in mine.branches["refs/pr/1"]
    assert [entry["kind"] for entry in ledger()] == ["pull_request"] and compare(plan, GOOD_TOKEN).by_pull_request


@pytest.mark.parametrize(("times", "code"), [(1, ""), (2, "ACCESS")], ids=["the commit alone", "the pull request too"])
def test_a_refused_commit_goes_on_as_a_pull_request_and_a_refused_pull_request_ends_it(
    times: int, code: str, hub: Hub, tmp_path: Path
) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN)
    hub.faults.append(Fault("POST .*/commit/", "status", status=403, times=times))
    plan = plan_of(tmp_path, config_json=b"[3]")
    if code:
        assert refused(plan, GOOD_TOKEN).code == code
    else:
        assert push(plan, GOOD_TOKEN).pull_request
    assert hub.faults[0].times == 0 and files_of(hub)["config.json"] == b"{}"
    assert len(hub.repos[("models", REPO)].pull_requests) == (0 if code else 1)


def test_a_change_by_somebody_else_meanwhile_is_not_overwritten(hub: Hub, tmp_path: Path) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN)
    hub.faults.append(Fault("POST .*/commit/main", "status", status=412, times=1))
    assert refused(plan_of(tmp_path, config_json=b"[1]"), GOOD_TOKEN).code == "CHANGED"
    assert files_of(hub)["config.json"] == b"{}"


def test_problems_stop_it_and_only_proofs_can_be_overruled(hub: Hub, tmp_path: Path) -> None:
    unproved, broken = "A proof of x does not hold.", "There are no weights."
    plan = plan_of(tmp_path)
    proofs_only = Plan(plan.repo_id, plan.repo_id, plan.files, problems=(unproved,), proof_problems=(unproved,))
    both = Plan(plan.repo_id, plan.repo_id, plan.files, problems=(unproved, broken), proof_problems=(unproved,))
    assert unproved in refused(proofs_only, GOOD_TOKEN).problem
    assert broken in refused(both, GOOD_TOKEN, despite_proofs=True).problem
    assert not hub.repos.get(("models", REPO))
    assert push(proofs_only, GOOD_TOKEN, despite_proofs=True).commit


def test_an_edited_card_is_sent_and_a_bad_one_refused(hub: Hub, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    push(with_card(plan, CARD + "Mine.\n"), GOOD_TOKEN)
    assert files_of(hub)["README.md"].endswith(b"Mine.\n")
    leaky = with_card(plan, CARD + GOOD_TOKEN)
    assert "access token" in refused(leaky, GOOD_TOKEN).problem and "box on the page" in refused(leaky, GOOD_TOKEN).remedy
    with pytest.raises(UserError, match="not YAML"):
        with_card(plan, "---\nlicense: [\n---\n")


def test_a_card_that_the_hub_refuses_is_refused_before_anything_is_made_or_sent(hub: Hub, tmp_path: Path) -> None:
    error = refused(with_card(plan_of(tmp_path), CARD.replace("apache-2.0", "my own")), GOOD_TOKEN)
    assert error.code == "CARD" and "license" in error.problem and "front matter" in error.remedy
    assert ("models", REPO) not in hub.repos and not hub.objects and not hub.paths("PUT")
    assert not [path for path in hub.paths("POST") if "preupload" in path]


def test_no_token_stays_behind(hub: Hub, tmp_path: Path, workspace: Path) -> None:
    push(plan_of(tmp_path), GOOD_TOKEN)
    kept = [path.read_bytes() for path in workspace.rglob("*") if path.is_file()]
    assert kept and not any(GOOD_TOKEN.encode() in content for content in kept)
    assert [entry["kind"] for entry in ledger()] == ["created", "committed"]
    assert not any(GOOD_TOKEN.encode() in content for content in files_of(hub).values())

"""A run is kept on the Hub while it trains, its disk is lost, and it comes back to the losses of a run that was left alone."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from core import events, paths
from core.errors import UserError
from core.jobs import bundle, safekeeping
from core.running import runs
from core.training.hardware import detect
from core.training.presets import preset
from core.training.recipe import override
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub 2.4 hands httpx a file under its old name
]
STEPS = 12


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def disk(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gives a workspace on a disk of its own each time it is called."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return lambda name: monkeypatch.setenv("TRANSMUTE_HOME", str(tmp_path / name))


def begun() -> str:
    knobs = [f"max_steps={STEPS}", "levels=", "logging_steps=1", "save_steps=3", "eval_dataset=", "eval_fraction=0"]
    # With one thread: each new run measures how many are fastest, and their number can show in the last bits of a loss.
    run_id = runs.create(override(preset("demo"), knobs), hardware=dataclasses.replace(detect(), cpu_count=1), steps=("train", "merge"))
    runs.start(run_id)
    return run_id


def wait_for_the_last_one(run_id: str) -> None:
    while safekeeping.is_kept(run_id):
        time.sleep(0.1)


def test_a_run_whose_disk_is_lost_comes_back_and_ends_as_if_nothing_had_happened(hub: Hub, disk):
    disk("alone")
    *_, alone = runs.follow(begun())
    disk("lost")
    run_id = begun()
    repo_id = safekeeping.keep(run_id, GOOD_TOKEN)
    assert hub.repos[("models", repo_id)].access == "private"
    with pytest.raises(UserError, match="being kept already"):
        safekeeping.keep(run_id, GOOD_TOKEN)
    for run in runs.follow(run_id):
        if run.optimizer_step >= 5:
            break
    stopped = runs.stop(run_id)
    wait_for_the_last_one(run_id)
    kept = runs.load(run_id).kept
    assert kept["repo_id"] == repo_id and kept["checkpoint"] == f"checkpoint-{stopped.optimizer_step}" and "error" not in kept

    disk("new")
    assert not paths.home().exists()
    assert safekeeping.bring_back(repo_id, GOOD_TOKEN) == run_id
    back = runs.load(run_id)
    assert back.state == "interrupted" and back.losses == stopped.losses
    assert f"It was brought back from {repo_id}, at {kept['checkpoint']}." in back.notes
    with pytest.raises(UserError, match="This run is here"):
        safekeeping.bring_back(repo_id, GOOD_TOKEN)
    runs.start(run_id)
    safekeeping.keep(run_id, GOOD_TOKEN)
    *_, ended = runs.follow(run_id)
    wait_for_the_last_one(run_id)
    assert ended.state == "done", ended.error
    assert ended.losses == alone.losses
    assert [event["step"] for event in events.read(runs.folder(run_id)) if event["kind"] == "train_began"] == [0, stopped.optimizer_step]


def test_no_token_lies_on_the_disk_or_in_the_repository(hub: Hub, tmp_path: Path, disk):
    disk("held")
    run_id = begun()
    repo_id = safekeeping.keep(run_id, GOOD_TOKEN)
    *_, ended = runs.follow(run_id)
    wait_for_the_last_one(run_id)
    assert ended.state == "done"
    found = [path for path in tmp_path.rglob("*") if path.is_file() and GOOD_TOKEN.encode() in path.read_bytes()]
    assert not found and all(GOOD_TOKEN.encode() not in content for content in hub.repos[("models", repo_id)].files.values())


@pytest.mark.parametrize(
    ("repo_id", "said"),
    [
        ("someone/other", "is not a repository in which you keep a run"),
        ("else/transmute-261128-120000-abcd", "is not a repository in which you keep a run"),
        ("someone/transmute-../../x", "is not a repository in which you keep a run"),
        ("someone/transmute-261128-120000-0000", "someone/transmute-261128-120000-0000"),
        ("someone/transmute-261128-120000-0001", "keeps no run"),
        ("someone/transmute-261128-120000-0002", "cannot be unpacked"),
    ],
)
def test_what_cannot_be_brought_back_is_said_and_nothing_is_left(hub: Hub, disk, repo_id: str, said: str):
    hub.repos[("models", "someone/transmute-261128-120000-0001")] = Repo(
        "someone/transmute-261128-120000-0001", {"a.txt": b"a"}, kind="models"
    )
    torn = {bundle.NAME: b"no archive"}
    hub.repos[("models", "someone/transmute-261128-120000-0002")] = Repo("someone/transmute-261128-120000-0002", torn, kind="models")
    disk("nothing")
    with pytest.raises(UserError) as refused:
        safekeeping.bring_back(repo_id, GOOD_TOKEN)
    assert said in f"{refused.value.problem} {refused.value.where}"
    assert not paths.runs_dir().exists() and not list(paths.home().glob("bring-back-*"))


def test_nothing_in_a_bundle_gets_out_of_its_folder(hub: Hub, disk, tmp_path: Path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("job/../../escaped", "core/evil.py", "/tmp/escaped-by-name"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            archive.addfile(entry, io.BytesIO(b"evil"))
    repo_id = "someone/transmute-261128-120000-0003"
    hub.repos[("models", repo_id)] = Repo(repo_id, {bundle.NAME: packed.getvalue()}, kind="models")
    disk("escape")
    with pytest.raises(UserError, match="cannot be unpacked"):
        safekeeping.bring_back(repo_id, GOOD_TOKEN)
    assert not list(tmp_path.rglob("escaped")) and not list(tmp_path.rglob("evil.py"))


def test_a_run_is_not_kept_without_a_login_or_when_it_is_over(hub: Hub, disk):
    disk("over")
    run_id = runs.create(override(preset("demo"), ["max_steps=1", "levels=", "eval_dataset=", "eval_fraction=0"]), steps=("train",))
    with pytest.raises(UserError, match="does not go on"):
        safekeeping.keep(run_id, GOOD_TOKEN)
    runs.start(run_id)
    with pytest.raises(UserError, match="Nobody is logged in"):
        safekeeping.keep(run_id, None)
    *_, ended = runs.follow(run_id)
    assert ended.state == "done"

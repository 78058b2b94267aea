"""A run that was told to write for Weights & Biases does so without a network, and is sent at one request, by the real client."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from core.errors import UserError
from core.running import runs, sync
from core.training.presets import preset
from core.training.recipe import override
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
KNOBS = ["max_steps=3", "levels=", "logging_steps=1", "eval_dataset=", "eval_fraction=0"]
KEY = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module")
def run_id(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSMUTE_HOME", str(tmp_path_factory.mktemp("home")))
        made = runs.create(override(preset("demo"), [*KNOBS, "report_to=wandb"]), steps=("train",))
        runs.start(made)
        *_, run = runs.follow(made)
        assert run.state == "done", run.error
        yield made


def test_trackio_writes_its_file_into_the_run_and_asks_for_no_network(workspace: Path):
    """Looked for by its real package, which nothing here needs: ``pip install trackio``."""
    pytest.importorskip("trackio")
    made = runs.create(override(preset("demo"), [*KNOBS, "report_to=trackio"]), steps=("train",))
    runs.start(made)
    *_, run = runs.follow(made)
    assert run.state == "done", run.error
    with closing(sqlite3.connect(runs.folder(made) / "trackio" / "transmute.db")) as file:
        told = [json.loads(metrics) for (metrics,) in file.execute("select metrics from metrics")]
    losses = {line["train/global_step"]: line["train/loss"] for line in told if "train/loss" in line}
    assert losses == pytest.approx(run.losses)


def test_training_left_an_offline_run_and_no_key_is_needed_for_that(run_id: str):
    (folder,) = sync.unsent(run_id)
    assert list(folder.glob("*.wandb")) and sync.has_offline(run_id)


def test_a_wrong_key_is_said_and_nothing_is_marked_as_sent(run_id: str, monkeypatch: pytest.MonkeyPatch):
    with WandbServer(KEY) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        with pytest.raises(UserError) as refused:
            sync.send(run_id, "f" * 40)
        assert refused.value.code == "SYNC" and "f" * 40 not in str(refused.value)
        assert sync.unsent(run_id) and not server.history


@pytest.mark.parametrize(("key", "said"), [("", "There is no key"), ("short", "The server did not take it")])
def test_what_is_no_key_is_said(run_id: str, key: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=said):
        sync.send(run_id, key)


def test_the_losses_arrive_once_and_the_key_lies_nowhere(run_id: str, monkeypatch: pytest.MonkeyPatch):
    with WandbServer(KEY) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        (page,) = sync.send(run_id, KEY)
        assert page.startswith(server.url) and "/runs/" in page
        losses = {line["train/global_step"]: line["train/loss"] for line in server.history if "train/loss" in line}
        assert losses == pytest.approx(runs.load(run_id).losses)
        assert not any("entropy" in key for line in server.history for key in line), "what was not counted is not told as 0"
        with pytest.raises(UserError, match="sent already"):
            sync.send(run_id, KEY)
    places = [runs.folder(run_id), Path.home() / ".config" / "wandb", Path.home() / ".netrc"]
    files = [path for place in places for path in ([place] if place.is_file() else place.rglob("*")) if path.is_file()]
    assert files and all(KEY.encode() not in path.read_bytes() for path in files)

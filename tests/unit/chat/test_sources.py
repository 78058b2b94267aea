"""Whatever one may chat with is found by its name, and nothing else is."""

import json
import shutil

import pytest

from core.chat import memory, sources
from core.chat.memory import Need, Room
from core.cli import chat
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.paths import STARTER

HERE = Room(10**12)


@pytest.fixture
def adapter(tmp_path):
    config = {"base_model_name_or_path": str(STARTER)}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "mine" / "adapter_model.safetensors").touch()
    return str(tmp_path / "mine")


def test_an_adapter_and_its_bare_base_share_one_process(adapter):
    on, off = sources.resolve(adapter), sources.resolve(adapter + "@base")
    assert (on.level, off.level) == ("adapter", "adapter off") and on.id != off.id
    assert on.engine_id == off.engine_id and on.with_adapter and not off.with_adapter
    assert memory.needed([on, off], HERE) == memory.needed([on], HERE)


def test_only_an_adapter_can_be_switched_off():
    with pytest.raises(UserError, match="merged artifact"):
        sources.resolve("starter@base")


def test_an_endpoint_is_named_by_its_address_and_model():
    found = sources.resolve("http://127.0.0.1:8000/v1/#tiny")
    assert (found.url, found.model, found.level) == ("http://127.0.0.1:8000/v1", "tiny", "endpoint")
    assert memory.needed([found], HERE) == Need()


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://x/v1", "http://", "http://user:secret@host/v1", "http://[::1/v1", "http://h:0/v1", "http://h:x/v1"],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UserError, match="not the address of an endpoint"):
        sources.resolve(address)


def test_folders_outside_the_runs_are_told_apart_by_their_paths(workspace, tmp_path):
    """Both manifests say the same id, as does that of a run's own artifact."""
    run = workspace / "runs" / "r" / "artifacts" / "merged"
    for folder in (tmp_path / "one", tmp_path / "two", run):
        shutil.copytree(STARTER, folder)
        artifacts.write(Artifact(id="merged", kind="merged", name="m"), folder)
    found = [sources.resolve(str(folder)) for folder in (tmp_path / "one", tmp_path / "two", run)]
    assert [source.id for source in found] == [str(tmp_path / "one"), str(tmp_path / "two"), "merged"]
    assert len({source.engine_id for source in found}) == 3
    assert len(chat._resolve([str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "one")])) == 2


@pytest.mark.parametrize("reference", ["nothing-here", "../../etc", "", "a/b/c", "me/../../x.gguf"])
def test_what_is_nowhere_is_refused(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        sources.resolve(reference)

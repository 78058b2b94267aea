"""Whatever one may chat with is found by its name, and nothing else is."""

import json

import pytest

from core.chat import memory, sources
from core.errors import UserError
from core.export.artifacts import Artifact
from core.paths import STARTER


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
    assert memory.needed_bytes([on, off]) == memory.needed_bytes([on])


def test_only_an_adapter_can_be_switched_off():
    with pytest.raises(UserError, match="merged artifact"):
        sources.resolve("starter@base")


def test_an_endpoint_is_named_by_its_address_and_model():
    found = sources.resolve("http://127.0.0.1:8000/v1/#tiny")
    assert (found.url, found.model, found.level) == ("http://127.0.0.1:8000/v1", "tiny", "endpoint")
    assert memory.needed_bytes([found]) == 0


@pytest.mark.parametrize(
    "address",
    ["file:///etc/passwd", "ftp://x/v1", "http://", "http://user:secret@host/v1", "http://[::1/v1", "http://h:0/v1", "http://h:x/v1"],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UserError, match="not the address of an endpoint"):
        sources.resolve(address)


@pytest.mark.parametrize("reference", ["nothing-here", "../../etc", "", "a/b/c", "me/../../x.gguf"])
def test_what_is_nowhere_is_refused(reference, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        sources.resolve(reference)


def test_memory_grows_with_the_context_up_to_what_the_model_was_trained_for(adapter):
    starter = sources.resolve("starter")
    trained = json.loads((STARTER / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    short, full, beyond = (memory.needed_bytes([starter], length) for length in (64, trained, 100 * trained))
    assert short < full == beyond
    gone = sources.of_artifact(Artifact(id="x", kind="adapter", name="x", base_path="/nowhere"))
    assert memory.needed_bytes([gone]) > 0

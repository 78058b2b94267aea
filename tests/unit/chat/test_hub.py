"""Models, adapters and GGUF files of the Hub are fetched through the real client, and what cannot be had is said in words."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from core import hubclient, paths
from core.chat import sources
from core.chat.engine import child_payload
from core.chat.hub import SeveralFilesError
from core.cli.app import app as command_line
from core.errors import UserError
from core.export.header import gguf_header
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo
from tests.hub.server import Hub
from tests.unit.export.gguf_files import GOOD

STARTER = {file.name: file.read_bytes() for file in paths.STARTER.iterdir() if file.is_file()}


def adapter_of(base, **more):
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": base} | more
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": b"weights"}


PARTS = {f"q4_0/Model-Q4_0-0000{number}-of-00003.gguf": GOOD + bytes(number) for number in (1, 2, 3)}
LEVELS = {"Model-7B.f16.gguf": GOOD + bytes(1000), "Model-7B.Q4_K_M.gguf": GOOD, "Model-7B-UD-XL.gguf": GOOD + bytes(32)}
REPOS = {
    "org/base": STARTER,
    "org/adapter": adapter_of("org/base"),
    "org/pinned": adapter_of("org/base", revision="v1"),
    "org/of-gated": adapter_of("org/gated"),
    "org/of-nothing": adapter_of("org/nothing"),
    "org/of-path": adapter_of("/home/somebody/llama"),
    "org/of-none": adapter_of(None),
    "org/ia3": adapter_of("org/base", peft_type="IA3"),
    "org/pickle": {"adapter_config.json": adapter_of("org/base")["adapter_config.json"], "adapter_model.bin": b"pickle"},
    "org/ggufs": PARTS | LEVELS | {"mmproj-f16.gguf": GOOD, "imatrix.gguf": GOOD, "README.md": b"#"},
    "org/twice": {"a-Q4_0.gguf": GOOD, "b-q4_0.gguf": GOOD},
    "org/one": {"only.gguf": GOOD, "config.json": b"{}"},
    "org/claims": STARTER | {"manifest.json": json.dumps({"id": "x", "kind": "adapter", "name": "x", "base_path": "/etc"}).encode()},
    "org/none": {"README.md": b"#"},
}


@pytest.fixture
def hub(tmp_path, workspace, monkeypatch):
    from huggingface_hub import constants

    repos = [Repo(name, files, kind="models") for name, files in REPOS.items()]
    with Hub([*repos, Repo("org/gated", STARTER, kind="models", access="gated")]) as running:
        running.repos["models", "org/base"].branches["v1"] = STARTER | {"note.json": b"{}"}
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def test_an_adapter_comes_with_its_base_and_can_be_switched_off_in_the_same_process(hub):
    on, off = sources.resolve("org/adapter"), sources.resolve("org/adapter@base")
    assert (on.level, off.level) == ("adapter", "adapter off") and on.name == "org/adapter"
    assert on.engine_id == off.engine_id and on.id != off.id and not off.with_adapter
    payload = child_payload(on.artifact, 64)
    assert payload["adapter"] == str(on.artifact.folder)
    assert paths.read_json(Path(payload["folder"]) / "config.json")["model_type"] == "llama"
    with pytest.raises(UserError, match="org/base is a merged artifact"):
        sources.resolve("org/base@base")


def test_the_base_is_of_the_revision_that_the_adapter_names(hub):
    pinned, newest = (sources.resolve(f"org/{name}").artifact for name in ("pinned", "adapter"))
    assert pinned.base_revision != newest.base_revision and pinned.base_path.endswith(pinned.base_revision)


@pytest.mark.parametrize(
    ("name", "token", "said", "remedy"),
    [
        ("of-gated", OTHER_TOKEN, "org/of-gated is an adapter of org/gated. org/gated is gated", "Accept its terms"),
        ("of-nothing", None, "org/of-nothing is an adapter of org/nothing. There is no model", "Check the spelling"),
        ("of-path", None, "which is no model of the Hub", "the base's id on the Hub"),
        ("of-none", None, "an adapter of None", "the base's id on the Hub"),
        ("ia3", None, "of the kind 'IA3'", "Take a LoRA adapter"),
        ("pickle", None, "no adapter_model.safetensors", "safe_serialization"),
        ("none", None, "config", ""),
        ("ggufs/gone.gguf", None, "has no file gone.gguf", "alone lists what there is"),
        ("ggufs/../../../../x.gguf", None, "has no file", ""),
        ("none:q4_0", None, "names no GGUF file of org/none", "Check the spelling"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_to_do(name, token, said, remedy, hub):
    with pytest.raises(UserError, match=said) as refusal:
        sources.resolve(f"org/{name}", token, allow_paths=False)
    assert remedy in refusal.value.remedy


def test_a_gated_base_is_fetched_for_those_who_may(hub):
    assert sources.resolve("org/of-gated", GOOD_TOKEN).artifact.base_model == "org/gated"


def test_a_repository_of_gguf_files_offers_its_levels_with_their_sizes(hub):
    with pytest.raises(SeveralFilesError, match="holds 4 GGUF files; one of them has to be named") as several:
        sources.resolve("org/ggufs")
    found = [(file.reference, file.level, file.size_bytes) for file in several.value.files]
    assert found == [
        ("org/ggufs:q4_0", "q4_0", 3 * len(GOOD) + 6),
        ("org/ggufs:f16", "f16", len(GOOD) + 1000),
        ("org/ggufs/Model-7B-UD-XL.gguf", "", len(GOOD) + 32),
        ("org/ggufs:Q4_K_M", "Q4_K_M", len(GOOD)),
    ]
    assert several.value.remedy.startswith("Name one: org/ggufs:q4_0 (")


def test_a_level_is_fetched_with_all_its_parts_and_nothing_besides(hub):
    artifact = sources.resolve("org/ggufs:Q4_0").artifact
    assert artifact.gguf_path.name == "Model-Q4_0-00001-of-00003.gguf" and artifact.size_bytes == 3 * len(GOOD) + 6
    fetched = [path for path in hub.paths() if "/resolve/" in path and path.endswith(".gguf")]
    assert {path.rpartition("/")[2] for path in fetched} == {name.rpartition("/")[2] for name in PARTS}
    by_part = sources.resolve("org/ggufs/q4_0/Model-Q4_0-00002-of-00003.gguf").artifact
    assert (by_part.id, by_part.files) == (artifact.id, artifact.files)
    assert sources.resolve("org/ggufs:q4_k_m").artifact.level == "f16", "the file's own header says what it is"


def test_levels_that_a_name_does_not_tell_apart_are_named_by_their_files(hub):
    with pytest.raises(SeveralFilesError) as several:
        sources.resolve("org/twice:q4_0")
    assert [file.reference for file in several.value.files] == ["org/twice/a-Q4_0.gguf", "org/twice/b-q4_0.gguf"]
    assert gguf_header(sources.resolve("org/twice/b-q4_0.gguf").artifact.gguf_path).name == "Small"
    assert sources.resolve("org/one").artifact.gguf_path.name == "only.gguf", "there is nothing to choose"


def test_a_manifest_from_the_hub_is_not_believed(hub):
    artifact = sources.resolve("org/claims").artifact
    assert (artifact.kind, artifact.name, artifact.base_path) == ("merged", "org/claims", None)


def test_a_file_of_the_hub_is_served(hub, monkeypatch):
    asked = []

    class Served:
        def wait(self):
            return 0

    monkeypatch.setattr("core.chat.serve.start", lambda artifact, **_: asked.append(artifact.gguf_path.name) or Served())
    assert CliRunner().invoke(command_line, ["serve", "org/ggufs:q4_k_m"]).exit_code == 0 and asked == ["Model-7B.Q4_K_M.gguf"]
    assert CliRunner().invoke(command_line, ["serve", "http://127.0.0.1:9/v1"]).exit_code != 0

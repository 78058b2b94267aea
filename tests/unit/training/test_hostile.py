"""Models and adapters that want to be executed, on a Hub of this machine: each is refused in words, and nothing of them runs (R15, R16, R19)."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.training import models
from tests.hub.repos import Repo
from tests.hub.server import Hub

STARTER = {file.name: file.read_bytes() for file in paths.STARTER.iterdir() if file.is_file()}
CONFIG = json.loads(STARTER["config.json"])
MARK = "executed"


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self._mark,)


def without_weights() -> dict[str, bytes]:
    return {name: content for name, content in STARTER.items() if not name.endswith(".safetensors")}


def configured(**more: Any) -> dict[str, bytes]:
    return STARTER | {"config.json": json.dumps(CONFIG | more).encode()}


def repos(mark: Path) -> list[Repo]:
    code = f"open({str(mark)!r}, 'w').close()\n".encode()
    bomb = pickle.dumps(Bomb(mark))
    files = {
        "code": configured(auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}) | {"evil.py": code},
        "kernel": configured(_attn_implementation_internal="evil/kernel"),
        "type": configured(model_type="evil", architectures=["EvilForCausalLM"]),
        "typeless": configured(model_type=None),
        "class": configured(architectures=["EvilForCausalLM"]),
        "classes": configured(architectures={"a": 1}),
        "pickle": without_weights() | {"pytorch_model.bin": bomb},
        "both": STARTER | {"pytorch_model.bin": bomb, "training_args.bin": bomb, "evil.py": code, "optimizer.pt": bomb},
        "named": without_weights() | {"model.safetensors": bomb},
    }
    return [Repo(f"evil/{name}", held, kind="models") for name, held in files.items()]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / MARK


@pytest.fixture
def hub(mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with Hub(repos(mark)) as running:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield running


def test_the_bomb_is_one(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("code", "code of its own"),
        ("kernel", "attention kernel from elsewhere"),
        ("pickle", "no safetensors weights"),
        ("type", "the type 'evil'"),
        ("typeless", "the type 'None'"),
        ("class", "the class 'EvilForCausalLM'"),
        ("classes", "the class"),
    ],
)
def test_what_wants_to_run_is_refused(name: str, said: str, hub: Hub, mark: Path) -> None:
    with pytest.raises(UserError, match=said):
        models.resolve(f"evil/{name}")
    assert not mark.exists()


def test_pickles_and_code_beside_good_weights_are_not_even_fetched(hub: Hub, mark: Path) -> None:
    folder = models.resolve("evil/both").path
    assert not [path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".py")]
    assert not [path for path in hub.paths() if path.endswith((".bin", ".pt", ".py"))]
    load_tokenizer(folder)
    assert not mark.exists()


def test_a_pickle_under_the_name_of_safetensors_is_an_error_and_no_more(hub: Hub, mark: Path) -> None:
    from core.training.architecture import linear_names

    folder = models.resolve("evil/named").path
    with pytest.raises(UserError):
        linear_names(folder)
    assert not mark.exists()


@pytest.fixture
def adapter(mark: Path, tmp_path: Path) -> Path:
    """An adapter of the starter whose weights are a pickle alone, which PEFT would take."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": str(paths.STARTER)}
    paths.write_json(folder / "adapter_config.json", config)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(mark)))
    return folder


def test_an_adapter_of_a_pickle_is_taken_nowhere(adapter: Path, mark: Path, tmp_path: Path) -> None:
    from core.export import artifacts, merge_whole_child
    from core.export.adapter import read_adapter

    payload = {"base": str(paths.STARTER), "adapter": str(adapter), "out": str(tmp_path / "out"), "reason": "a test"}
    ways: list[Callable[[], Any]] = [
        lambda: artifacts.resolve(str(adapter)),
        lambda: read_adapter(adapter),
        lambda: merge_whole_child.merge(payload, lambda **_: None),
    ]
    for way in ways:
        with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
            way()
    assert not mark.exists()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_a_pickle_is_loaded_by_no_child(adapter: Path, mark: Path, tmp_path: Path) -> None:
    from core.chat import transformers_child
    from core.export import prove_child

    starter = str(paths.STARTER)
    payload = {"folder": starter, "adapter": str(adapter), "tokenizer": starter, "threads": 1, "context_length": 64}
    for way in (lambda: transformers_child.load(payload), lambda: prove_child.load(starter, str(tmp_path), str(adapter))):
        with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
            way()
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../escaped.json", "a/../../escaped.json", "/escaped.json"])
def test_a_file_that_is_named_out_of_its_folder_is_refused_and_written_nowhere(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.repos["models", "evil/path"] = Repo("evil/path", STARTER | {name: b"{}"}, kind="models")
    with pytest.raises(UserError, match="Invalid filename"):
        models.resolve("evil/path")
    assert not list(tmp_path.rglob("escaped.json"))
    assert not Path("/escaped.json").exists()


def test_the_types_read_from_the_file_are_those_that_transformers_loads() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known, classes = models.transformers_knows()
    assert known == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert {"LlamaForCausalLM", "Gemma3ForConditionalGeneration"} <= classes

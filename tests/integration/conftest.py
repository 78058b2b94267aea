"""What the integration tests share: the converter, and the starter model as GGUF at every level of the demo."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.converter import converter_dir
from core.export.gguf import make_gguf
from core.export.levels import DEMO_LEVELS
from core.paths import STARTER


@pytest.fixture(scope="session")
def converter():
    """llama.cpp's converter in the person's own workspace, where `make setup` puts it, rather than in the tests' empty one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRANSMUTE_HOME")
        folder = converter_dir()
    os.environ["LLAMA_CPP_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def starter() -> Artifact:
    return artifacts.resolve(str(STARTER)).model_copy(update={"name": "Starter", "base_model": "starter"})


@pytest.fixture
def no_numbers(tmp_path: Path) -> Path:
    """The starter with a weight that is no number."""
    base = tmp_path / "base"
    shutil.copytree(STARTER, base)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


@pytest.fixture(scope="session")
def gguf_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="session")
def levels(converter: Path, starter: Artifact, gguf_root: Path) -> dict[str, Artifact]:
    """The starter at every level of the demo, by level name."""
    made = make_gguf(starter, DEMO_LEVELS, gguf_root, run_id="test")
    return {artifact.level or "": artifact for artifact in made}

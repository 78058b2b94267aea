"""What the tests on a GPU share: a small model whose shapes the 16-bit kernels take, and runs of the real worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.families import build


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of random weights with a head size of 64 and grouped queries."""
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 2, "initializer_range": 0.02}
    return build("llama", tmp_path_factory.mktemp("small") / "model", **shape)

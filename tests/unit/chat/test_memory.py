"""What models take of a machine and of its GPUs is known before they are loaded."""

import importlib.util
import json
import struct

import pytest

from core import usage
from core.chat import memory, sources
from core.chat.memory import Need, Room
from core.export.artifacts import Artifact
from core.paths import STARTER
from core.training import hardware
from core.training.hardware import TorchBuild
from tests.unit.export.gguf_files import ARCHITECTURE, STRING, UINT32, entry, gguf, tensor, text

GB = 10**9
CPU = Room(100 * GB)
GPU = Room(100 * GB, (24 * GB, 8 * GB), has_torch_gpu=True, has_llama_gpu=True)
SMI = """#!/bin/sh
case "$*" in
  *utilization*) echo "0, GPU-aa, 5, 4096, 24576, 40, 50, 300, First"; echo "1, GPU-bb, 5, [N/A], 8192, 40, 50, 300, Second";;
  *compute_cap*) echo "0, GPU-aa, 24576, 8.6, First"; echo "1, GPU-bb, 8192, 8.6, Second";;
esac
"""


@pytest.fixture
def starter():
    return sources.resolve("starter")


@pytest.fixture
def llama(tmp_path):
    """A GGUF file with keys and values to keep: 4 layers of 2 heads with 16 numbers each."""
    sizes = {"context_length": 1024, "block_count": 4, "attention.head_count": 2, "embedding_length": 32}
    entries = [ARCHITECTURE, *(entry(f"llama.{name}", UINT32, struct.pack("<I", value)) for name, value in sizes.items())]
    entries.append(entry("tokenizer.ggml.model", STRING, text("llama")))
    (tmp_path / "m.gguf").write_bytes(gguf(entries, [tensor("token_embd.weight", (32, 4), 1, 0)], bytes(256)))
    return sources.resolve(str(tmp_path / "m.gguf"))


def test_it_grows_with_the_context_up_to_what_the_model_was_trained_for(starter):
    trained = json.loads((STARTER / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    for at in (CPU, GPU):
        short, full, beyond = (memory.needed([starter], at, length) for length in (64, trained, 100 * trained))
        assert (short.main, short.gpu) != (full.main, full.gpu) and full == beyond
        assert short.main + short.gpu < full.main + full.gpu
    gone = sources.of_artifact(Artifact(id="x", kind="adapter", name="x", base_path="/nowhere"))
    assert memory.needed([gone], CPU).main > 0


def test_where_an_engine_has_a_gpu_the_weights_and_the_context_lie_there(starter, llama):
    weights = (STARTER / "model.safetensors").stat().st_size
    for source, size_bytes in ((starter, weights), (llama, llama.size_bytes + 2 * 2 * 1024 * 4 * 32)):
        on_cpu, on_gpu = memory.needed([source], CPU), memory.needed([source], GPU)
        assert on_cpu.gpu == 0 and on_gpu.gpu >= memory.CUDA_CONTEXT + size_bytes
    assert memory.needed([starter], GPU).first_gpu and memory.needed([llama], GPU).any_gpu, "one GPU, and all of them"
    only_torch = Room(GB, (GB,), has_torch_gpu=True)
    assert memory.needed([llama], only_torch) == memory.needed([llama], CPU), "a llama.cpp without CUDA computes beside the GPU"


def test_models_side_by_side_are_added_up(starter, llama):
    one, two = memory.needed([starter], GPU), memory.needed([llama], GPU)
    assert memory.needed([starter, llama, starter], GPU) == one + two
    assert (one + two).gpu == one.gpu + two.gpu and (one + two).main == one.main + two.main


@pytest.mark.parametrize(
    ("need", "said"),
    [
        (Need(99 * GB), None),
        (Need(101 * GB), "101.0 GB of memory and 100.0 GB are free"),
        (Need(0, first_gpu=23 * GB, any_gpu=8 * GB), None),
        (Need(0, first_gpu=25 * GB), "25.0 GB of GPU memory and 24.0 GB are free"),
        (Need(0, any_gpu=31 * GB), None),
        (Need(0, first_gpu=23 * GB, any_gpu=10 * GB), "33.0 GB of GPU memory and 32.0 GB are free"),
    ],
)
def test_what_does_not_fit_is_said(need, said):
    short = memory.shortage(need, GPU)
    assert short is None if said is None else said in short


def test_what_a_model_gives_back_can_be_taken_again():
    back = GPU.with_back(Need(GB, first_gpu=2 * GB, any_gpu=4 * GB))
    assert (back.main, back.gpus) == (101 * GB, (28 * GB, 10 * GB))
    assert CPU.with_back(Need(GB, any_gpu=GB)).gpus == ()


@pytest.mark.parametrize(("visible", "free"), [(None, (20, 8)), ("1", (8,)), ("", ())])
def test_free_gpu_memory_is_what_the_driver_says_of_the_visible_ones(tmp_path, monkeypatch, visible, free):
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(usage, "_latest", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(memory, "_has_llama_cuda", lambda: False)
    monkeypatch.setattr(hardware, "torch_build", lambda: TorchBuild("2.13.0", None))
    assert memory.room().gpus == (), "nothing is built for CUDA"
    monkeypatch.setattr(hardware, "torch_build", lambda: TorchBuild("2.13.0", "12.8"))
    at = memory.room()
    assert at.gpus == tuple(count * 2**30 for count in free)
    assert at.has_torch_gpu == bool(free) and not at.has_llama_gpu and at.main > 0


def test_a_llama_cpp_for_cuda_is_told_by_its_files(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    spec = importlib.util.spec_from_file_location("llama_cpp", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert not memory._has_llama_cuda()
    (tmp_path / "lib" / "libggml-cuda.so").touch()
    assert memory._has_llama_cuda()

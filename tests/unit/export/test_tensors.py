"""Safetensors files are read as the library reads them, written as it can read them, and no damaged one gets past."""

import json
import random
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load, save, save_file

from core.errors import UserError
from core.export.tensors import file_metadata, model_files, model_tensors, new_header, stored_tensors
from core.export.weightfile import HashedFile, Reader
from core.paths import sha256_file

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def a_file(path, tensors=None):
    save_file(tensors or {"b": np.ones((2, 3), np.float32), "a": np.zeros(5, np.float16)}, path, metadata={"format": "pt"})
    return path


@given(shapes=st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), SHAPES, max_size=5))
def test_what_the_library_writes_is_read_and_what_is_written_it_reads(shapes, tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    tensors = {name: np.random.default_rng(0).standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    path.write_bytes(save(tensors))
    found = stored_tensors(path)
    assert {name: stored.shape for name, stored in found.items()} == shapes
    data = path.read_bytes()
    parts = [data[stored.offset : stored.offset + stored.size_bytes] for stored in found.values()]
    again = load(new_header([(name, "F32", stored.shape) for name, stored in found.items()], {}) + b"".join(parts))
    assert again.keys() == tensors.keys() and all(np.array_equal(again[name], tensors[name]) for name in tensors)


def test_every_truncation_of_a_file_is_refused(tmp_path):
    data = a_file(tmp_path / "model.safetensors").read_bytes()
    for length in range(len(data)):
        (tmp_path / "model.safetensors").write_bytes(data[:length])
        with pytest.raises(UserError) as refusal:
            stored_tensors(tmp_path / "model.safetensors")
        assert refusal.value.code == "WEIGHTS"


def test_mutants_give_tensors_inside_the_file_or_a_refusal(tmp_path):
    path, generator = tmp_path / "model.safetensors", random.Random(0)
    data, refused = a_file(path).read_bytes(), 0
    for _ in range(1000):
        mutant = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            mutant[generator.randrange(160)] = generator.randrange(256)
        path.write_bytes(mutant)
        try:
            found = stored_tensors(path).values()
            assert found and all(stored.offset + stored.size_bytes <= len(mutant) for stored in found)
        except UserError as refusal:
            assert refusal.code == "WEIGHTS"
            refused += 1
    assert 0 < refused < 1000


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{}" * 9,
        b'{"a": 3}',
        b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"a": ' * 5000,
    ],
)
def test_headers_that_contradict_themselves_are_refused(header, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(UserError, match="not a usable safetensors file"):
        stored_tensors(tmp_path / "model.safetensors")


def test_the_index_decides_which_files_belong_to_a_model(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors"):
        a_file(tmp_path / name, {name: np.zeros(2, np.float32)})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}))
    assert [path.name for path in model_files(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]
    assert set(model_tensors(tmp_path)) == {"model-1.safetensors", "model-2.safetensors"}
    for broken in ({"weight_map": {"a": "../model-1.safetensors"}}, {"weight_map": {"a": "model-9.safetensors"}}, {}, []):
        index.write_text(json.dumps(broken))
        with pytest.raises(UserError):
            model_files(tmp_path)
    index.unlink()
    with pytest.raises(UserError, match="several weight files and no index"):
        model_files(tmp_path)
    with pytest.raises(UserError, match="no safetensors weights"):
        model_files(tmp_path / "nowhere")


def test_a_file_is_hashed_while_it_is_written(tmp_path):
    blocks = [bytes([number]) * (number * 1000) for number in range(20)]
    with HashedFile(tmp_path / "out") as file:
        for block in blocks:
            file.write_bytes(block)
        assert file.sha256() == sha256_file(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"".join(blocks)
    reader = Reader()
    assert reader.read(tmp_path / "out", 1000, 2000) == blocks[2]
    with pytest.raises(OSError, match="shorter"):
        reader.read(tmp_path / "out", 0, 10**6)
    reader.close()


def test_metadata_is_kept(tmp_path):
    path = a_file(tmp_path / "model.safetensors")
    assert file_metadata(path) == {"format": "pt"}
    (tmp_path / "new.safetensors").write_bytes(new_header([("a", "F16", (2,))], file_metadata(path)) + bytes(4))
    with safe_open(tmp_path / "new.safetensors", framework="numpy") as opened:
        assert opened.metadata() == {"format": "pt"} and opened.get_slice("a").get_shape() == [2]

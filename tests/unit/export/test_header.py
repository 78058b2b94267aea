"""The header of a GGUF file is read fully, and no damaged or hostile file gets past it, or hangs it, or makes it eat memory."""

import os
import random
import struct
import tracemalloc

import pytest

from core.errors import UserError
from core.export.header import gguf_header, gguf_template, tensor_bytes
from tests.unit.export.gguf_files import ARCHITECTURE, ARRAY, GOOD, STRING, entry, gguf, strings, tensor, text

HUGE = 2**63


def one_tensor(shape, type_number=0, offset=0, data=bytes(128)):
    return gguf([ARCHITECTURE], [tensor("a", shape, type_number, offset)], data)


BOMBS = {
    "more tensors than fit": gguf([ARCHITECTURE], num_tensors=2**40),
    "more keys than fit": gguf([ARCHITECTURE], num_entries=2**40),
    "tensors that are not there": gguf([ARCHITECTURE], num_tensors=3),
    "keys that are not there": gguf([ARCHITECTURE], num_entries=9),
    "a key of 2^63 bytes": gguf([struct.pack("<Q", HUGE)]),
    "a text of 2^62 bytes": gguf([entry("a", STRING, struct.pack("<Q", 2**62))]),
    "a text longer than the file": gguf([entry("a", STRING, struct.pack("<Q", 2**20))]),
    "an array of 2^60 numbers": gguf([entry("a", ARRAY, struct.pack("<IQ", 6, 2**60))]),
    "an array longer than the file": gguf([entry("a", ARRAY, struct.pack("<IQ", 6, 2**20))]),
    "a list of 2^28 texts": gguf([entry("a", ARRAY, struct.pack("<IQ", STRING, 2**28))]),
    "a list of texts cut short": gguf([entry("a", ARRAY, struct.pack("<IQ", STRING, 2**20) + text("x"))]),
    "a text in a list of 2^64 bytes": gguf([entry("a", ARRAY, struct.pack("<IQQ", STRING, 1, 2**64 - 1))]),
    "an array of arrays": gguf([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1) + strings(["x"]))]),
    "an unknown kind of value": gguf([entry("a", 77, b"\0" * 8)]),
    "an unknown kind of item": gguf([entry("a", ARRAY, struct.pack("<IQ", 77, 1))]),
    "the same key twice": gguf([ARCHITECTURE, ARCHITECTURE]),
    "no dimensions": one_tensor(()),
    "five dimensions": one_tensor((1, 1, 1, 1, 1)),
    "a dimension of zero": one_tensor((0, 4)),
    "a product that overflows": one_tensor((2**40, 2**40)),
    "an unknown tensor type": one_tensor((32,), type_number=999),
    "a removed tensor type": one_tensor((32,), type_number=4),
    "rows that are no whole blocks": one_tensor((33,), type_number=2),
    "data behind the end": one_tensor((32,), offset=2**40),
    "data that the file cuts off": one_tensor((64,), data=bytes(128)),
    "an offset out of step": one_tensor((8,), offset=7),
    "two tensors of one name": gguf([ARCHITECTURE], [tensor("a", (8,), 0, 0), tensor("a", (8,), 0, 32)], bytes(128)),
    "alignment zero": gguf([entry("general.alignment", 4, struct.pack("<I", 0))]),
    "alignment three": gguf([entry("general.alignment", 4, struct.pack("<I", 3))]),
    "alignment 2^31": gguf([entry("general.alignment", 4, struct.pack("<I", 2**31))]),
    "alignment as a text": gguf([entry("general.alignment", STRING, text("32"))]),
    "version 1": gguf(version=1),
    "version 99": gguf(version=99),
    "big-endian": gguf(version=3 << 24),
    "empty": b"",
    "the magic alone": b"GGUF",
    "a page of HTML": b"<!DOCTYPE html><html></html>",
    "a zip": b"PK\x03\x04" + bytes(60),
    "a pickle": b"\x80\x02" + bytes(60),
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
}


def written(tmp_path, data):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return path


def test_a_good_header_says_what_the_model_is(tmp_path):
    header = gguf_header(written(tmp_path, GOOD))
    assert (header.architecture, header.name, header.tokenizer) == ("llama", "Small", "llama")
    assert (header.context_length, header.vocabulary_size, header.file_type, header.version) == (64, 4, 1, 3)
    assert header.num_parameters == 256
    assert [(tensor.type, tensor.size_bytes) for tensor in header.tensors] == [("F16", 256), ("Q4_0", 72)]
    assert header.data_offset == len(GOOD) - 328
    assert gguf_template(header.path) == "{{ messages }}"


@pytest.mark.parametrize("name", BOMBS)
def test_a_hostile_file_is_refused_in_words_and_without_memory(tmp_path, name):
    path = written(tmp_path, BOMBS[name])
    tracemalloc.start()
    with pytest.raises(UserError, match=r"model\.gguf is not a usable GGUF file") as refusal:
        gguf_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refusal.value.code == "GGUF" and peak < 8 * 2**20


@pytest.mark.parametrize("magic", [b"lmgg", b"tjgg", b"fmgg", b"algg", b"ggml", b"ggjt", b"ggla"])
def test_an_old_ggml_file_is_recognised_and_the_way_out_is_named(tmp_path, magic):
    with pytest.raises(UserError, match="no longer reads") as refusal:
        gguf_header(written(tmp_path, magic + bytes(100)))
    assert refusal.value.code == "GGML" and "core gguf" in refusal.value.remedy


def test_every_truncation_of_a_good_file_is_refused(tmp_path):
    for length in range(len(GOOD)):
        with pytest.raises(UserError):
            gguf_header(written(tmp_path, GOOD[:length]))


def test_a_thousand_mutants_give_a_header_or_a_refusal_and_nothing_else(tmp_path):
    generator = random.Random(0)
    path = tmp_path / "mutant.gguf"
    for _ in range(1000):
        data = bytearray(GOOD)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        try:
            gguf_header(path)
        except UserError as refusal:
            assert refusal.code in ("GGUF", "GGML")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            gguf_header(path)


def test_only_the_header_is_read_of_a_large_file(tmp_path):
    path = written(tmp_path, gguf([ARCHITECTURE], [tensor("a", (2**31,), 0, 0)]))
    with path.open("r+b") as file:
        os.truncate(file.fileno(), 2**33 + 4096)  # sparse: takes no room
    assert gguf_header(path).num_parameters == 2**31


def test_a_large_vocabulary_is_stepped_over(tmp_path):
    words = ["word" * (index % 40) for index in range(100_000)]
    path = written(tmp_path, gguf([entry("tokenizer.ggml.tokens", ARRAY, strings(words)), ARCHITECTURE]))
    header = gguf_header(path)
    assert header.vocabulary_size == 100_000 and header.architecture == "llama"


def test_bytes_of_a_tensor_follow_its_blocks():
    assert tensor_bytes((256, 10), 0) == 10_240
    assert tensor_bytes((256, 10), 2) == 10 * 8 * 18
    assert tensor_bytes((256, 10), 12) == 10 * 144

"""What ends early or comes in parts: a full disk, a model's context, a split file, keys and values of a width of their own."""

import errno
import struct

import pytest

from core.conversation import Conversation, Turn
from core.errors import UserError
from core.export import artifacts, convert_child, imatrix, imatrix_child, quantise_child
from core.export.header import cache_bytes, gguf_header
from core.export.split import split_gguf
from core.paths import STARTER
from tests.unit.export.gguf_files import ARCHITECTURE, GOOD, UINT32, entry, gguf
from tests.unit.export.test_split import a_file


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        ("OSError(28, 'No space left on device')", "DISK"),
        ("RuntimeError('not a model proto')", "CONVERT"),
        ("OSError(5, 'Input')", "CONVERT"),
        ("MemoryError()", "OOM"),
    ],
)
def test_a_full_disk_too_little_memory_and_a_damaged_file_are_told_apart_while_converting(raised, code, tmp_path):
    assert errno.ENOSPC == 28
    (tmp_path / "script.py").write_text(f"raise {raised}")
    with pytest.raises(UserError) as refusal:
        convert_child._run(tmp_path / "script.py", [], {"name": "m", "out_file": str(tmp_path / "out")})
    assert refusal.value.code == code


def test_a_full_disk_and_too_little_memory_while_quantising_are_called_so():
    assert quantise_child.explain("failed to quantize: std::bad_alloc", "q4_0").code == "OOM"
    assert quantise_child.explain("failed to quantize: basic_ios::clear: iostream error", "q4_0").code == "DISK"
    assert quantise_child.explain("tensor cols not divisible", "q4_0").code == "QUANTISE"


def test_the_importance_matrix_reads_no_further_than_the_models_context(monkeypatch, tmp_path):
    (tmp_path / "f16.gguf").write_bytes(GOOD)
    sent = []
    monkeypatch.setattr(imatrix, "call_child", lambda _module, payload, **_options: sent.append(payload))
    monkeypatch.setattr(imatrix.converter, "converter_dir", lambda: tmp_path)
    talk = Conversation("long", (Turn("user", "Count."), Turn("assistant", "one " * 300)))
    for max_length in (None, 50):
        imatrix.make_imatrix(STARTER, tmp_path / "f16.gguf", [talk], tmp_path / "out.gguf", max_length=max_length)
    assert gguf_header(tmp_path / "f16.gguf").context_length == 64
    assert [len(payload["rows"][0]) for payload in sent] == [64, 50]


def test_the_importance_matrix_asks_for_the_logits_of_one_place_only():
    asked = []

    class Model:
        device = "cpu"

        def forward(self, input_ids, use_cache=True, logits_to_keep=0):
            asked.append(logits_to_keep)

        __call__ = forward

    imatrix_child.run(Model(), [[1, 2, 3], [4]], lambda _message: None)
    assert asked == [1, 1]


def test_a_split_file_of_nobodys_manifest_is_all_its_parts(tmp_path):
    parts = split_gguf(a_file(tmp_path / "m.gguf"), 600)
    found = artifacts.resolve(str(parts[0]))
    assert len(parts) > 1 and [file.name for file in found.files] == [part.name for part in parts] and found.gguf_path == parts[0]
    assert found.size_bytes == sum(part.stat().st_size for part in parts)


def test_keys_and_values_of_a_width_of_their_own_are_counted(tmp_path):
    """As in Qwen3-0.6B, whose heads are wider than its embedding divided by them."""
    known = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}

    def needed(settings):
        entries = [ARCHITECTURE, *(entry(f"llama.{key}", UINT32, struct.pack("<I", value)) for key, value in settings.items())]
        (tmp_path / "m.gguf").write_bytes(gguf(entries))
        return cache_bytes(gguf_header(tmp_path / "m.gguf"), 10)

    assert needed(known) == 2 * 10 * 2 * 2 * (16 + 16)
    assert needed(known | {"attention.key_length": 32, "attention.value_length": 24}) == 2 * 10 * 2 * 2 * (32 + 24)

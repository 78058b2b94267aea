"""Large GGUF files in parts: nothing is lost, no part is too large, and what is missing is named."""

import random
import struct

import pytest

from core.errors import UserError
from core.export.header import gguf_header
from core.export.split import all_tensors, gguf_parts, num_parameters, split_gguf
from tests.unit.export.gguf_files import ARCHITECTURE, STRING, entry, gguf, tensor, text


def a_file(path, sizes=(40, 8, 200, 64, 1), alignment=32):
    generator = random.Random(0)
    entries = [ARCHITECTURE, entry("general.name", STRING, text("你好"))]
    if alignment != 32:
        entries.append(entry("general.alignment", 4, struct.pack("<I", alignment)))
    tensors, data = [], b""
    for number, size in enumerate(sizes):
        tensors.append(tensor(f"t{number}", (size,), 0, len(data)))
        data += generator.randbytes(4 * size)
        data += bytes(-len(data) % alignment)
    whole = gguf(entries, tensors, b"")
    path.write_bytes(whole + bytes(-len(whole) % alignment) + data)
    return path


def contents(path):
    """The bytes of every tensor by name, over all parts."""
    found = {}
    for part in gguf_parts(path):
        header, data = gguf_header(part), part.read_bytes()
        for stored in header.tensors:
            begin = header.data_offset + stored.offset
            found[stored.name] = data[begin : begin + stored.size_bytes]
    return found


@pytest.mark.parametrize("alignment", [32, 64])
@pytest.mark.parametrize("limit", [400, 700, 1100])
def test_the_parts_hold_everything_and_none_is_too_large(limit, alignment, tmp_path):
    source = a_file(tmp_path / "Name-1B-Q4_0.gguf", alignment=alignment)
    before, metadata = contents(source), gguf_header(source).metadata
    parts = split_gguf(source, limit)
    assert len(parts) > 1 and not source.exists()
    assert [part.name for part in parts] == [f"Name-1B-Q4_0-{n:05d}-of-{len(parts):05d}.gguf" for n in range(1, len(parts) + 1)]
    assert contents(parts[0]) == before and num_parameters(parts[0]) == 313
    first = gguf_header(parts[0]).metadata
    assert metadata.items() <= first.items()
    for number, part in enumerate(parts):
        header = gguf_header(part)
        assert {"split.no": number, "split.count": len(parts), "split.tensors.count": 5}.items() <= header.metadata.items()
        data = sum(tensor.size_bytes for tensor in header.tensors)
        assert data <= max(limit, 800) and header.alignment == alignment


def test_a_small_file_stays_whole(tmp_path):
    source = a_file(tmp_path / "a.gguf")
    before = source.read_bytes()
    assert split_gguf(source, 10**6) == [source] and source.read_bytes() == before
    assert gguf_parts(source) == [source] and len(all_tensors(source)) == 5


def test_a_missing_part_and_the_wrong_part_are_named(tmp_path):
    parts = split_gguf(a_file(tmp_path / "a.gguf"), 400)
    with pytest.raises(UserError, match="is part 2"):
        gguf_parts(parts[1])
    parts[1].unlink()
    with pytest.raises(UserError, match="00002-of"):
        gguf_parts(parts[0])

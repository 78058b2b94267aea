"""A model goes where it has room, in the quickest way that it has room for."""

import json
import struct

import pytest

from core.errors import UserError
from core.export.room import SPARE_BYTES, Room, find_room

GIB = 2**30


@pytest.fixture
def folder(tmp_path):
    """A model of 4 GiB in bfloat16, 8 in float32; the file is as long as its header says and takes no disk."""
    header = json.dumps({"weight": {"dtype": "BF16", "shape": [2**16, 2**15], "data_offsets": [0, 4 * GIB]}}).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * GIB)
    return tmp_path


@pytest.mark.parametrize(
    ("free", "room"),
    [
        ([("cuda", 24 * GIB), ("cpu", 64 * GIB)], Room("cuda")),
        ([("cuda", 8 * GIB), ("cpu", 64 * GIB)], Room("cuda", as_stored=True)),
        ([("cuda", 3 * GIB), ("cpu", 64 * GIB)], Room("cpu")),
        ([("cpu", 6 * GIB)], Room("cpu", as_stored=True)),
        ([("cuda", GIB), ("cpu", 2 * GIB)], Room("disk")),
    ],
)
def test_the_first_place_with_room_is_taken(folder, free, room):
    assert find_room(folder, free, may_use_disk=True) == room


def test_where_no_memory_will_do_the_need_is_named(folder):
    with pytest.raises(UserError, match=r"takes 5\.\d GB of memory, and 2\.1 GB are free") as caught:
        find_room(folder, [("cuda", GIB), ("cpu", 2 * GIB)], may_use_disk=False)
    assert caught.value.code == "MEMORY"


def test_a_small_model_leaves_room_for_what_runs_through_it(folder):
    just_the_weights = int(4 * GIB * 1.1) + 1
    assert find_room(folder, [("cpu", just_the_weights)], may_use_disk=True) == Room("disk")
    assert find_room(folder, [("cpu", just_the_weights + SPARE_BYTES)], may_use_disk=True) == Room("cpu", as_stored=True)

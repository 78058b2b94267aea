"""A checkpoint is used only when every byte is as it was sealed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.training import checkpoints

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "training_args.bin")


def make(root, step):
    folder = root / f"checkpoint-{step}"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(f"{name} {step} ".encode() * 50)
    checkpoints.seal(folder)
    return folder


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    for step in (9, 10, 100):
        make(tmp_path, step)
    assert checkpoints.newest_whole(tmp_path) == (tmp_path / "checkpoint-100", [])


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "halved": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "tail zeroed": lambda path: path.write_bytes(path.read_bytes()[:-64] + bytes(64)),
    "one byte flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, checkpoints.MANIFEST])
def test_every_damage_to_every_file_falls_back_to_the_older_checkpoint_and_says_so(name, damage, tmp_path):
    older, newer = make(tmp_path, 1), make(tmp_path, 2)
    DAMAGES[damage](newer / name)
    found, said = checkpoints.newest_whole(tmp_path)
    assert found == older
    assert len(said) == 1 and "checkpoint-2 is not used" in said[0]


def test_a_manifest_of_another_checkpoint_is_not_believed(tmp_path):
    older, newer = make(tmp_path, 1), make(tmp_path, 2)
    (newer / checkpoints.MANIFEST).write_bytes((older / checkpoints.MANIFEST).read_bytes())
    assert checkpoints.newest_whole(tmp_path)[0] == older


def test_a_folder_without_a_seal_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-tmp").mkdir()
    assert checkpoints.newest_whole(tmp_path) == (None, ["checkpoint-3 is not used: it was never finished."])


def test_rotation_deletes_only_sealed_checkpoints_older_than_those_kept(tmp_path):
    for step in (1, 2, 3):
        make(tmp_path, step)
    (tmp_path / "checkpoint-4").mkdir()  # being written
    checkpoints.rotate(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3", "checkpoint-4"]


NONSENSE = ["[]", "{}", "null", "17", '{"checkpoint": "checkpoint-2", "files": {}}', '{"checkpoint": "checkpoint-2", "files": {"a": 1}}',
            '{"checkpoint": "checkpoint-2", "files": []}', '{"checkpoint": "checkpoint-2", "files": {"a": {"size_bytes": "x", "sha256": 1}}}',
            '{"checkpoint": 2, "files": {"a": null}}', "\x00" * 300]  # fmt: skip


@pytest.mark.parametrize("manifest", NONSENSE)
def test_a_manifest_of_any_shape_is_refused_and_stops_nobody(manifest, tmp_path):
    older, newer = make(tmp_path, 1), make(tmp_path, 2)
    (newer / checkpoints.MANIFEST).write_text(manifest)
    assert checkpoints.newest_whole(tmp_path)[0] == older


def test_a_manifest_or_a_file_that_is_a_folder_is_refused(tmp_path):
    older, newer, newest = make(tmp_path, 1), make(tmp_path, 2), make(tmp_path, 3)
    for path in (newer / checkpoints.MANIFEST, newest / FILES[0]):
        path.unlink()
        path.mkdir()
    found, said = checkpoints.newest_whole(tmp_path)
    assert found == older and len(said) == 2


@given(st.sampled_from([*FILES, checkpoints.MANIFEST]), st.integers(0, 10**6), st.integers(1, 255))
def test_whatever_single_byte_changes_the_checkpoint_is_not_believed_or_means_the_same(tmp_path_factory, name, at, flip):
    root = tmp_path_factory.mktemp("flip")
    folder = make(root, 2)
    content = bytearray((folder / name).read_bytes())
    content[at % len(content)] ^= flip
    before = json.loads((folder / checkpoints.MANIFEST).read_text())
    (folder / name).write_bytes(content)
    if checkpoints.damage(folder) is None:
        assert name == checkpoints.MANIFEST and json.loads(content) == before, "only white space may differ"


def test_what_a_crash_inside_a_save_left_is_swept_and_named(tmp_path):
    make(tmp_path, 1)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"half")
    assert checkpoints.sweep(tmp_path) == ["checkpoint-2 is not used: it was never finished."]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert checkpoints.sweep(tmp_path / "nothing here") == []


def test_a_damaged_checkpoint_never_takes_the_place_of_a_whole_one_in_the_rotation(tmp_path):
    make(tmp_path, 20)
    (make(tmp_path, 40) / FILES[0]).unlink()
    assert checkpoints.newest_whole(tmp_path)[0].name == "checkpoint-20"
    checkpoints.set_aside_after(tmp_path, 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-20", "set-aside-40"]
    make(tmp_path, 30)
    checkpoints.rotate(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-30"]


def test_a_checkpoint_that_was_moved_to_another_disk_is_used_and_rotated_by_its_link(tmp_path):
    root, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    root.mkdir()
    make(root, 5).rename(elsewhere)
    (root / "checkpoint-5").symlink_to(elsewhere)
    assert checkpoints.newest_whole(root)[0].name == "checkpoint-5"
    make(root, 10)
    checkpoints.rotate(root, keep=1)
    assert [path.name for path in root.iterdir()] == ["checkpoint-10"] and (elsewhere / FILES[0]).exists()
    (root / "checkpoint-20").symlink_to(tmp_path / "elsewhere")  # nothing vouches for it now
    assert checkpoints.sweep(root) == ["checkpoint-20 is not used: it was never finished."] and (elsewhere / FILES[0]).exists()
    (root / "set-aside-30").symlink_to(tmp_path / "gone")
    checkpoints.rotate(root, keep=1)
    assert [path.name for path in root.iterdir()] == ["checkpoint-10"]


def test_training_from_the_start_sets_everything_aside_and_deletes_nothing(tmp_path):
    (make(tmp_path, 5) / FILES[0]).unlink()
    checkpoints.set_aside_after(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["set-aside-5"] and (tmp_path / "set-aside-5" / FILES[1]).exists()

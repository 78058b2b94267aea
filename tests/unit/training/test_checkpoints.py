"""A checkpoint is used only when every byte is as it was sealed."""

import pytest

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

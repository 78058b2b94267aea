"""An id names a folder of the workspace and nothing else, whatever somebody puts in its place meanwhile (reliability rule R10)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import paths
from core.errors import UserError
from core.training import models

NO_IDS = ("", ".", "..", "../secret", "/etc", "a/b", "a\x00b", "A", "-rf", "$(id)", "a;reboot", "a\nb", "a" * 41, "\N{FULLWIDTH FULL STOP}")


PARTS = st.sampled_from(
    ["..", ".", "", "secret", "root", "/", "\\", "~", "%2e%2e", "\N{FULLWIDTH FULL STOP}", "ds-1", "C:", "\x00", "\u2215", "con"]
)
SOMEBODYS = st.lists(PARTS | st.text(max_size=5), max_size=8).map("/".join) | st.lists(PARTS).map("".join) | st.text(max_size=60)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_a_model_in_the_hubs_cache_is_called_by_its_id_and_not_by_its_commit(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--me--My-Model-7B" / "snapshots" / ("ab12" * 10)
    assert paths.model_name(folder) == "me/My-Model-7B" and paths.model_name(tmp_path / "snapshots" / "mine") == "mine"
    paths.write_text(folder / "config.json", '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(UserError) as refusal:
        models.check_folder(folder)
    assert refusal.value.problem == "me/My-Model-7B has no safetensors weights." and "ab12" not in str(refusal.value)


def test_an_id_is_its_folder(root: Path) -> None:
    (root / "ds-1").mkdir()
    assert paths.by_id(root, "ds-1", "dataset") == root / "ds-1"


@pytest.mark.parametrize("name", NO_IDS)
def test_what_is_no_id_is_refused(root: Path, name: str) -> None:
    with pytest.raises(UserError, match="There is no dataset"):
        paths.by_id(root, name, "dataset")


@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(SOMEBODYS)
def test_whatever_is_asked_for_is_a_folder_right_under_the_root_or_refused(root: Path, name: str) -> None:
    """After Gradio's own strategy for its file routes: parts that climb, joined by what separates them somewhere."""
    for made in ("ds-1", "secret"):
        (root / made).mkdir(exist_ok=True)
    try:
        found = paths.by_id(root, name, "dataset")
    except UserError:
        return
    assert found.resolve().parent == root.resolve() and found.name == name


def test_a_link_and_a_file_are_no_folders(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "file").touch()
    for name in ("link", "file", "nothing"):
        with pytest.raises(UserError):
            paths.by_id(root, name, "dataset")


def test_a_link_that_comes_and_goes_is_never_followed(root: Path) -> None:
    """There is never a folder here, so every answer would be the link's."""
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            (root / "swapped").symlink_to(root.parent / "secret")
            (root / "swapped").unlink()

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(20_000):
            with pytest.raises(UserError):
                paths.by_id(root, "swapped", "dataset")
    finally:
        is_over.set()
        swapper.join()

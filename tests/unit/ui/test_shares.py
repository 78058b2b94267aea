"""What visitors may take up of a Space's disk: a share each, a part together, and nothing of it for what the owner has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.data import imports
from core.data.dataset import Dataset, open_dataset
from core.data.imports import ImportSource
from core.data.split import split_dataset
from core.errors import UserError
from tests.unit.ui.dataset_page import make, talk
from ui import shares
from ui.access import Caller

OWNER = Caller("kim", "owner")
A, B, MALLORY = (
    Caller("a visitor", "public", address="8.8.8.8"),
    Caller("a visitor", "public", address="9.9.9.9"),
    Caller("mallory", "signed_in"),
)


@pytest.fixture
def owners(workspace: Path, tmp_path: Path) -> Dataset:
    words = "apple bread chair door earth flame grass house".split()
    return make(tmp_path, [talk(f"What is {word}?", word * 50, identifier=word) for word in words], "owners")


def bring(caller: Caller, words: str) -> Dataset:
    """As the page imports what somebody pastes."""
    pasted = json.dumps([talk("Who?", words * 100)])
    shares.require_room(len(pasted), caller)
    *_, job = imports.follow(shares.imported(imports.start(ImportSource(kind="pasted", text=pasted)), caller))
    return open_dataset(str(job.dataset_id))


def test_each_visitor_has_a_share_and_the_owners_data_counts_for_nobody(owners: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "VISITOR_SHARE_BYTES", 1500)
    monkeypatch.setattr(shares, "VISITORS_BYTES", 10**6)
    assert owners.manifest.size_bytes > 1500
    shares.require_room(1400, A)
    brought = bring(A, "sesame")
    shares.require_room(1500 - brought.manifest.size_bytes, A)
    with pytest.raises(UserError, match="Your files take up"):
        shares.require_room(1501 - brought.manifest.size_bytes, A)
    for caller in (B, MALLORY, OWNER):
        shares.require_room(1400, caller)


def test_all_visitors_together_have_a_part(owners: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    brought = bring(A, "sesame"), bring(B, "poppy")
    monkeypatch.setattr(shares, "VISITORS_BYTES", sum(each.manifest.size_bytes for each in brought) + 10)
    shares.require_room(10, MALLORY)
    with pytest.raises(UserError, match="used up"):
        shares.require_room(11, MALLORY)
    shares.require_room(10**9, OWNER)


def test_what_a_visitor_makes_of_anything_is_theirs(owners: Dataset) -> None:
    sides = shares.made(lambda: split_dataset(owners, 0.25, 1), A)
    assert shares._taken() == {shares._seal(A): sum(side.manifest.size_bytes for side in sides)}
    assert shares.made(lambda: split_dataset(owners, 0.25, 1), B) and len(shares._taken()) == 1, "it was there already"
    shares.made(lambda: split_dataset(owners, 0.25, 2), OWNER)
    assert len(shares._taken()) == 1


def test_what_the_owner_had_before_stays_the_owners(owners: Dataset) -> None:
    text = owners.source.read_text(encoding="utf-8")
    *_, job = imports.follow(shares.imported(imports.start(ImportSource(kind="pasted", text=text)), A))
    assert job.dataset_id == owners.id and not shares._taken()


def test_one_import_at_a_time(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "_going", lambda: [workspace / "mark"])
    workspace.mkdir(parents=True)
    (workspace / "mark").write_text(shares._seal(A), encoding="ascii")
    with pytest.raises(UserError, match="going on still"):
        shares.require_room(1, A)
    shares.require_room(1, B)


def test_nobodys_address_or_name_is_written_down(workspace: Path) -> None:
    bring(A, "sesame")
    bring(MALLORY, "poppy")
    shares._taken()
    written: list[Any] = [file.read_bytes() for file in paths.home().rglob("*") if file.is_file()]
    assert written and not any(b"8.8.8.8" in content or b"mallory" in content for content in written)

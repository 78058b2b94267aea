"""The Publish tab asks of a dataset what the command line asks, and writes the languages named into the card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.data.dataset import Dataset, import_dataset
from core.errors import UserError
from ui import publish_send, publish_tab


@pytest.fixture
def dataset(tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    turns = [{"from": "human", "value": "What comes after one?"}, {"from": "gpt", "value": "Two."}]
    file = tmp_path / "numbers.jsonl"
    file.write_text(json.dumps({"id": "a", "conversations": turns}) + "\n")
    return import_dataset(file)


def test_a_datasets_licence_form_and_languages_are_asked_for_on_the_page(dataset: Dataset) -> None:
    *_, fields = publish_tab.name_action(None, None, [dataset.id], "someone/x")
    assert fields.visible is True and publish_tab.name_action(None, None, ["a-model"], "someone/x")[-1].visible is False
    shown = publish_tab.prepare(None, None, [dataset.id], "someone/x", "jsonl", " cc-by-4.0 ", "en, de", None, {})
    card = shown[5]
    assert "license: cc-by-4.0" in card and "- en\n- de" in card and "train.jsonl" in shown[1]
    with pytest.raises(UserError, match="'English' is no language"):
        publish_send.planned([dataset.id], "someone/x", "parquet", "", "English")


def test_without_a_word_the_card_says_what_the_data_says(dataset: Dataset) -> None:
    """Fields that were never shown give None."""
    plan = publish_send.planned([dataset.id], "someone/x", None, None, None)
    card = next(file.text or "" for file in plan.files if file.path == "README.md")
    assert [file.path for file in plan.files] == ["train.parquet", "README.md"]
    assert "license:" not in card and "language:" not in card

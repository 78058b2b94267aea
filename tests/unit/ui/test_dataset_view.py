"""What the Dataset tab shows: text as text, each token by what training does with it, findings that lead to their rows."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from core.conversation import Conversation, Turn
from core.data.dataset import Dataset, import_dataset
from core.data.render import tokenize
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.paths import EXAMPLES, STARTER
from ui import dataset_data, dataset_handlers, dataset_view
from ui.access import Caller

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
TALK = Conversation("a", (Turn("user", f"Hé {EVIL}\n☃?"), Turn("assistant", "Yes, I am.")))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    good = [{"from": "human", "value": EVIL}, {"from": "gpt", "value": "fine " * 40}]
    rows: list[Any] = [{"id": str(n), "conversations": good if n % 3 else good[:1]} for n in range(90)]
    rows[7]["conversations"] = [{"from": EVIL, "value": "a"}]
    (tmp_path / "mine.json").write_text(json.dumps(rows), encoding="utf-8")
    return import_dataset(tmp_path / "mine.json")


def visible(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", markup))


@pytest.mark.parametrize("max_length", [1000, 60])
def test_the_tokens_spell_the_exact_text_and_mark_what_is_learned(max_length: int) -> None:
    tokenizer = load_tokenizer(STARTER)
    sample = tokenize(TALK, tokenizer, max_length)
    shown = dataset_view.tokens(sample, tokenizer).split('aria-label="Text with tokens">')[1]
    assert visible(re.sub(r'<i class="special"[^>]*>[^<]*</i>', "", shown)) == sample.text
    learned = "".join(re.findall(r'<mark class="learned">(.*?)</mark>', shown))
    spoken = "".join(sample.text[start:end] for (start, end), label in zip(sample.offsets, sample.labels, strict=True) if label != -100)
    assert visible(learned) == spoken
    assert ('class="cut"' in shown) == (sample.full_length > max_length)


def test_nothing_a_file_holds_becomes_markup(dataset: Dataset) -> None:
    shown = dataset_handlers._opened(dataset, "starter", 64, "answers", Caller("x", "owner"))
    rejected = dataset_handlers._row(dataset, 7, "starter", 64, "answers")
    for markup in (*(value for value in shown.values() if isinstance(value, str)), *rejected):
        assert "<script" not in markup and "<img" not in markup


def test_the_first_sentence_counts_what_cannot_be_trained_and_what_is_cut(dataset: Dataset) -> None:
    shown = dataset_handlers._opened(dataset, "starter", 64, "answers", Caller("x", "owner"))
    said = visible(shown["sentence"])
    assert "mine: 90 conversations, 31 cannot be trained." in said
    assert "59 more lose part of an answer at 64 tokens." in said


def test_findings_are_listed_by_page_and_by_code_and_lead_to_their_rows(dataset: Dataset) -> None:
    report = dataset.report()
    assert dataset_view.num_pages(report, "") > 1
    first = dataset_view.findings(report, "unknown-role", 0)
    assert 'data-row="7"' in first and first.count("data-row") == 1
    assert {code: label for label, code in dataset_view.codes(report)}[""].startswith("All ")


def test_any_row_opens_the_rejected_ones_with_their_raw_text(dataset: Dataset) -> None:
    chat, tokens = dataset_handlers._row(dataset, 1, "starter", 64, "answers")
    assert "bubbles" in chat and "learned" in tokens
    chat, tokens = dataset_handlers._row(dataset, 0, "starter", 64, "answers")
    assert "Question without an answer" in chat and tokens == ""
    with pytest.raises(UserError, match="no row 90"):
        dataset_handlers._row(dataset, 90, "starter", 64, "answers")


def test_a_file_that_cannot_be_trained_keeps_the_action_disabled(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"conversations": []}]', encoding="utf-8")
    shown = dataset_handlers._opened(import_dataset(tmp_path / "bad.json"), "starter", 64, "answers", Caller("x", "owner"))
    assert shown["action"]["interactive"] is False and "No conversation" in shown["reason"]


def test_a_visitor_may_have_small_files_checked_only_and_sees_nobody_elses(dataset: Dataset) -> None:
    visitor = Caller("a visitor", "public")
    with pytest.raises(UserError, match="up to 5"):
        dataset_data.check_size(6_000_000, visitor)
    dataset_data.check_size(6_000_000, Caller("kim", "owner"))
    assert dataset_data.earlier(visitor) == []
    assert dataset.id in {value for _, value in dataset_data.earlier(Caller("kim", "owner"))}


def test_an_upload_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_data, "get_upload_folder", lambda: str(tmp_path))
    upload = tmp_path / "upload.json"
    upload.write_bytes((EXAMPLES / "identity.json").read_bytes())
    dataset_data.import_upload(str(upload), Caller("kim", "owner"), lambda done, total: None)
    assert not upload.exists()
    elsewhere = tmp_path.parent / "elsewhere.json"
    elsewhere.write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="no uploaded file"):
        dataset_data.import_upload(str(elsewhere), Caller("kim", "owner"), lambda done, total: None)
    assert elsewhere.exists()


@pytest.mark.parametrize("model", ["../x", "/etc", "NousResearch/Llama-2-7b-chat-hf"])
def test_only_a_tokenizer_from_the_list_is_loaded(model: str) -> None:
    with pytest.raises(UserError):
        dataset_data.tokenizer_of(model)


def test_lengths_are_said_in_words_too() -> None:
    said = visible(dataset_view.lengths([10, 20, 300], 256, 1000))
    assert "1 are longer" in said or "longer than 256" in said
    assert "first 3 of 1,000" in said

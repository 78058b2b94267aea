"""What the Dataset tab shows: text as text, each token by what training does with it, findings that lead to their rows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from core import paths
from core.conversation import Conversation, Turn
from core.data.dataset import MANIFEST, Dataset, import_dataset, open_dataset
from core.data.findings_export import export
from core.data.origin import Origin
from core.data.render import LossOn, tokenize
from core.errors import UserError
from tests.unit.ui.dataset_page import call, visible
from ui import dataset_data, dataset_findings, dataset_handlers, dataset_rows, dataset_view, mask_view, shares
from ui.access import Caller

EVIL = '<script>alert(1)</script><img src=x onerror="alert(2)">'
OWNER = Caller("kim", "owner")
TALK = Conversation("a", (Turn("user", f"Hé {EVIL}\n☃?"), Turn("assistant", "Yes, I am.")))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    good = [{"from": "human", "value": EVIL}, {"from": "gpt", "value": "fine " * 40}]
    rows: list[Any] = [{"id": str(n), "conversations": good if n % 3 else good[:1]} for n in range(90)]
    rows[7]["conversations"] = [{"from": EVIL, "value": "a"}]
    (tmp_path / "mine.json").write_text(json.dumps(rows), encoding="utf-8")
    return import_dataset(tmp_path / "mine.json")


@pytest.mark.parametrize("max_length", [1000, 60, 1])
@pytest.mark.parametrize("loss_on", ["answers", "last", "all"])
def test_the_tokens_spell_the_exact_text_and_mark_what_training_does(max_length: int, loss_on: LossOn) -> None:
    masked = dataset_data.masked(TALK, "starter", max_length, loss_on, OWNER)
    sample = tokenize(TALK, masked.tokenizer, max_length, loss_on)
    shown = re.sub(r'<i class="special"[^>]*>[^<]*</i>', "", mask_view.tokens(masked).split('aria-label="Text with tokens">')[1])
    assert visible(shown) == sample.text
    learned = "".join(re.findall(r'<mark class="learned">(.*?)</mark>', shown, re.DOTALL))
    spoken = {at for (start, end), label in zip(sample.offsets, sample.labels, strict=True) if label != -100 for at in range(start, end)}
    assert visible(learned) == "".join(sample.text[at] for at in sorted(spoken))
    assert ('class="cut"' in shown) == (sample.full_length > max_length)


def test_the_conversations_words_are_told_from_the_templates() -> None:
    masked = dataset_data.masked(Conversation("a", (Turn("user", "A chat"), Turn("assistant", "Yes."))), "starter", 1000, "answers", OWNER)
    said = dict.fromkeys(mask_view.KINDS, "")
    for kind, (start, end) in zip(mask_view.kinds_of(masked), masked.sample.offsets, strict=True):
        said[kind] += masked.sample.text[start:end]
    assert said["prompt"].strip() == "A chat"
    assert said["learned"].strip() == "Yes.</s>"
    assert "ASSISTANT:" in said["template"] and said["template"].startswith("A chat between")
    assert said["cut"] == ""


def test_a_very_long_row_shows_its_first_tokens_and_counts_the_rest() -> None:
    long = Conversation("a", (Turn("user", "Hello."), Turn("assistant", "word " * 9000)))
    masked = dataset_data.masked(long, "starter", 100, "answers", OWNER)
    shown = mask_view.tokens(masked)
    assert shown.count("<i title=") <= mask_view.MOST_TOKENS
    assert f"{len(masked.sample.labels) - mask_view.MOST_TOKENS:,} tokens are not shown" in shown


def test_a_row_that_is_huge_in_every_way_is_shown_in_part(workspace: Path, tmp_path: Path) -> None:
    long = "a" * 30_000 + " the needle " + "b" * 600_000
    rows = [
        {"id": "long", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": long}]},
        {"id": "many", "conversations": [7] * 500},
    ]
    (tmp_path / "huge.json").write_text(json.dumps(rows), encoding="utf-8")
    dataset = import_dataset(tmp_path / "huge.json")
    shown = dataset_rows._row(dataset, 0, "", "starter", 64, "answers", OWNER)
    assert len(shown["chat"]) < 2 * mask_view.LONGEST_TURN and f"{len(long) - mask_view.LONGEST_TURN:,} more characters" in shown["chat"]
    assert "tokens are shown of up to" in shown["tokens"]
    found = dataset_rows._row(dataset, 0, "THE needle", "starter", 64, "answers", OWNER)
    assert '<mark class="hit">the needle</mark>' in found["chat"] and len(found["chat"]) < 2 * mask_view.LONGEST_TURN
    many = dataset_rows._row(dataset, 1, "", "starter", 64, "answers", OWNER)
    assert many["found_here"].count("<li") == mask_view.MOST_FINDINGS + 1 and "more</li>" in many["found_here"]


def test_of_a_conversation_of_thousands_of_turns_some_are_shown_and_the_rest_counted() -> None:
    turns = [Turn("assistant" if number % 2 else "user", f"turn {number}.") for number in range(5000)]
    shown = mask_view.bubbles(Conversation("a", tuple(turns)))
    assert shown.count('<li class="turn ') == mask_view.MOST_TURNS and f"{5000 - mask_view.MOST_TURNS:,} more turns not shown" in shown
    found = mask_view.bubbles(Conversation("a", tuple(turns)), "TURN 3000.")
    assert '<mark class="hit">turn 3000.</mark>' in found and "2,998 turns before this" in found and "1,802 more turns not shown" in found


def test_nothing_a_file_holds_becomes_markup(dataset: Dataset) -> None:
    shown = dataset_handlers.opened(dataset, "starter", 64, "answers", OWNER)
    rejected = dataset_rows._row(dataset, 7, EVIL, "starter", 64, "answers", OWNER)
    found = dataset_rows._row(dataset, 1, EVIL[3:9], "starter", 64, "answers", OWNER)
    for markup in (*(value for part in (shown, rejected, found) for value in part.values() if isinstance(value, str)),):
        assert "<script" not in markup and "<img" not in markup


def test_the_first_sentence_counts_what_cannot_be_trained_and_what_is_cut(dataset: Dataset) -> None:
    shown = dataset_handlers.opened(dataset, "starter", 64, "answers", OWNER)
    said = visible(shown["sentence"])
    assert "mine: 90 conversations, 31 cannot be trained." in said
    assert "59 more lose part of an answer at 64 tokens." in said


def test_findings_are_listed_by_severity_and_code_piece_by_piece_and_lead_to_their_rows(dataset: Dataset) -> None:
    report = dataset.report()
    shown = call(dataset_findings.choose_code, dataset.id, "", "unknown-role")["table"]
    assert 'data-row="7"' in shown and shown.count("data-row") == 1
    assert call(dataset_findings.choose_code, dataset.id, "note", "unknown-role")["table"].startswith('<p class="quiet">No findings')
    severities = {code: label for label, code in dataset_view.severities(report)}
    assert severities[""] == f"All {sum(report.counts.values())}"
    assert {code for _, code in dataset_view.codes(report, "error")} == {"", "trailing-question", "unknown-role"}
    whole = call(dataset_findings.choose_severity, dataset.id, "")["table"]
    total, size = len(dataset.findings()), dataset_view.PIECE_ROWS
    assert f'data-total="{total}"' in whole and total > size
    pieces = [piece_at(dataset, first)["rows"] for first in range(0, total, size)]
    assert pieces[0] in whole
    assert numbers(r'aria-rowindex="(\d+)"', "".join(pieces)) == [number + 2 for number in range(total)]
    assert set(numbers(r'data-row="(\d+)"', "".join(pieces))) == {issue.row for issue in dataset.findings()}


def piece_at(dataset: Dataset, index: Any, severity: str = "", code: str = "") -> dict[str, Any]:
    asked = gr.EventData(None, {"index": index})
    return dataset_findings.read_on.__wrapped__(dataset.id, severity, code, asked, caller=OWNER)["table"].constructor_args["piece"]


def numbers(pattern: str, markup: str) -> list[int]:
    return [int(number) for number in re.findall(pattern, markup)]


@pytest.mark.parametrize(("asked", "first"), [(-5, 0), (10**9, 88), (60, 60)])
def test_a_piece_that_is_not_there_is_the_nearest_one(asked: int, first: int, dataset: Dataset) -> None:
    assert len(dataset.findings()) == 89
    piece = piece_at(dataset, asked)
    assert piece["first"] == first and numbers(r'aria-rowindex="(\d+)"', piece["rows"])[0] == first + 2


def test_a_piece_says_which_table_it_belongs_to(dataset: Dataset) -> None:
    for severity, code in (("", ""), ("error", ""), ("error", "unknown-role")):
        piece = piece_at(dataset, 0, severity, code)
        assert f'data-of="{piece["of"]}"' in call(dataset_findings.choose_code, dataset.id, severity, code)["table"]
    assert piece_at(dataset, 0, "note", "unknown-role")["rows"] == ""
    assert piece_at(dataset, 50) != piece_at(dataset, 50), "the browser is told of a value only when it differs from the one before"


def test_of_several_files_each_row_and_finding_names_its_own(dataset: Dataset, tmp_path: Path) -> None:
    origin = Origin(kind="hub", files=("a.json", "b.json"), first_rows=(0, 6))
    shown = dataset_view.findings(dataset.findings("unknown-role"), origin, "")
    assert "row 1 of b.json" in shown and "row 1 of b.json" not in dataset_view.findings(dataset.findings("unknown-role"), Origin(), "")
    paths.write_json(dataset.folder / MANIFEST, dataset.manifest.model_copy(update={"origin": origin}).model_dump(mode="json"))
    joined = open_dataset(dataset.id)
    assert "This is row 5 of a.json." in dataset_rows._row(joined, 5, "", "starter", 64, "answers", OWNER)["found_here"]
    assert "of b.json:" in dataset_rows._row(joined, 6, "", "starter", 64, "answers", OWNER)["chat"]
    export(joined.findings("unknown-role"), tmp_path / "found.jsonl", origin=origin)
    (line,) = map(json.loads, (tmp_path / "found.jsonl").read_text(encoding="utf-8").splitlines())
    assert (line["row"], line["file"], line["row_in_file"]) == (7, "b.json", 1)


def test_any_row_opens_the_rejected_ones_with_their_raw_text_and_what_was_found(dataset: Dataset) -> None:
    shown = dataset_rows._row(dataset, 1, "", "starter", 64, "answers", OWNER)
    assert "bubbles" in shown["chat"] and "learned" in shown["tokens"]
    shown = dataset_rows._row(dataset, 0, "", "starter", 64, "answers", OWNER)
    assert "Question without an answer" in shown["found_here"] and "conversations" in shown["chat"] and shown["tokens"] == ""
    with pytest.raises(UserError, match="no row 90"):
        dataset_rows._row(dataset, 90, "", "starter", 64, "answers", OWNER)


def test_a_search_shows_the_next_row_with_the_words_marked(dataset: Dataset) -> None:
    as_shown = ("starter", 64, "answers", OWNER)
    *_, last = dataset_rows._seek(dataset, "  FINE fine ", 1, as_shown, is_forward=True)
    assert last["row"] == 2
    shown = dataset_rows._row(dataset, 2, "  FINE fine ", *as_shown)
    assert '<mark class="hit">fine fine</mark>' in shown["chat"]
    *_, last = dataset_rows._seek(dataset, "fine", 1, as_shown, is_forward=False)
    assert last["row"] == 89
    *_, last = dataset_rows._seek(dataset, "89", 89, as_shown, is_forward=True)
    assert "the only one" in last["sought"] and '<mark class="hit">89</mark>' in last["chat"]
    assert "No conversation" in list(dataset_rows._seek(dataset, "<nowhere>", 1, as_shown, is_forward=True))[-1]["sought"]
    assert "first" in list(dataset_rows._seek(dataset, " ", 1, as_shown, is_forward=True))[-1]["sought"]


def test_a_file_that_cannot_be_trained_keeps_the_action_disabled(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('[{"conversations": []}]', encoding="utf-8")
    shown = dataset_handlers.opened(import_dataset(tmp_path / "bad.json"), "starter", 64, "answers", OWNER)
    assert shown["action"]["interactive"] is False and "No conversation" in shown["reason"]


def test_a_visitor_may_have_small_files_checked_only_and_sees_nobody_elses(dataset: Dataset) -> None:
    visitor = Caller("a visitor", "public")
    with pytest.raises(UserError, match="up to 5"):
        shares.require_size(6_000_000, visitor)
    shares.require_size(6_000_000, OWNER)
    assert dataset_data.earlier(visitor) == []
    assert dataset.id in {value for _, value in dataset_data.earlier(OWNER)}


@pytest.mark.parametrize("model", ["../x", "/etc", "", "NousResearch/Llama-2-7b-chat-hf"])
def test_a_visitor_looks_through_the_models_of_the_list_only(model: str) -> None:
    with pytest.raises(UserError, match=r"no model|Visitors"):
        dataset_data.tokenizer_of(model, Caller("a visitor", "public"))


@pytest.mark.parametrize("model", ["../x", "/etc", "tests/unit"])
def test_no_folder_of_this_machine_is_a_model(model: str) -> None:
    with pytest.raises(UserError, match="no model"):
        dataset_data.tokenizer_of(model, OWNER)

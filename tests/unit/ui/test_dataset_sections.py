"""Statistics, audit, split, leakage and downloads: what each section says of a dataset, and what it leaves for the next tab."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from core.data.dataset import Dataset, open_dataset
from core.data.measures import is_measured
from core.errors import UserError
from tests.unit.ui.dataset_page import SETTINGS, call, make, talk, visible
from ui import dataset_data, dataset_findings, dataset_split, dataset_statistics, downloads, split_view, statistics_view, train_handlers
from ui.access import Caller

OWNER = Caller("kim", "owner")


@pytest.fixture
def dataset(workspace: Path, tmp_path: Path) -> Dataset:
    rows = [talk(f"What is {number}?", f"A number: {number}.", identifier=str(number)) for number in range(30)]
    rows += [talk("word " * 200, "Never seen."), talk("Long?", "word " * 100), talk("你好吗", "很好"), talk("Only a question?")]
    return make(tmp_path, rows)


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(downloads, "get_upload_folder", lambda: str(tmp_path / "uploads"))
    return tmp_path / "uploads"


def test_statistics_say_figures_plots_languages_and_extremes(dataset: Dataset) -> None:
    shown = call(dataset_statistics.open_statistics, dataset.id, *SETTINGS, None)
    said = visible(shown["statistics_shown"])
    assert "Conversations33" in said.replace(" ", "") and "Turns each2.0" in said
    assert "8 rows a step, 2 epochs, not packed" in said
    assert shown["statistics_shown"].count('role="img"') == 3 and "Tokens per answer" in said
    assert "Latin" in said and "Han" in said
    assert 'data-row="30"' in shown["statistics_shown"].split("Shortest rows")[0]
    assert shown["statistics_open"] and shown["statistics_progress"] == ""


def test_steps_and_packing_are_those_of_the_recipe_whatever_is_chosen_here(dataset: Dataset) -> None:
    def figures(chosen_here: int, **values: object) -> str:
        form = train_handlers.fresh()
        form["values"] |= {"max_length": 1024, "packing": True, "micro_batch_size": 1, "gradient_accumulation_steps": 1} | values
        return visible(call(dataset_statistics.open_statistics, dataset.id, "starter", chosen_here, "answers", form)["statistics_shown"])

    here, there = figures(64), figures(512)
    assert here.split("Rows full when packed")[1].split("Tokens per")[0] == there.split("Rows full when packed")[1].split("Tokens per")[0]
    assert "at 1,024 tokens a row" in here and "The maximum length is 64" in here
    assert figures(64, max_length=100) != here
    unknown = figures(64, base_model="/no/such/model")
    assert "Steps and packing are not estimated." in unknown and "Optimizer steps" not in unknown and "Conversations" in unknown


def test_statistics_follow_the_settings_only_while_they_are_open(dataset: Dataset) -> None:
    assert call(dataset_statistics.statistics_again, False, dataset.id, "starter", 512, "answers", None) == {}
    assert call(dataset_statistics.audit_again, False, dataset.id, "starter", 512, "answers") == {}
    again = call(dataset_statistics.statistics_again, True, dataset.id, "starter", 512, "answers", None)
    assert "The maximum length is 512" in again["statistics_shown"]
    assert "conversations" in call(dataset_statistics.audit_again, True, dataset.id, "starter", 512, "answers")["audit_said"]
    closed = call(dataset_statistics.close_statistics) | call(dataset_statistics.close_audit)
    assert not closed["statistics_open"] and not closed["audit_open"] and closed["statistics_shown"] == closed["audit_said"] == ""


def test_many_rows_are_counted_only_when_asked_unless_they_were(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_data, "COUNTED_AT_ONCE", 5)
    waiting = call(dataset_statistics.open_statistics, dataset.id, *SETTINGS, None)
    assert waiting["statistics_count"].visible and "statistics_shown" not in waiting
    assert call(dataset_statistics.open_audit, dataset.id, *SETTINGS)["audit_now"].visible
    assert "Conversations" in call(dataset_statistics.count_statistics, dataset.id, *SETTINGS, None)["statistics_shown"]
    assert is_measured(dataset, dataset_data.tokenizer_of("starter", OWNER), 64, "answers")
    assert call(dataset_statistics.open_audit, dataset.id, *SETTINGS)["audit_said"]


def test_the_audit_lists_what_teaches_nothing_and_what_loses_tokens(dataset: Dataset) -> None:
    shown = call(dataset_statistics.count_audit, dataset.id, *SETTINGS)
    said = visible(shown["audit_said"])
    assert "1 conversation of 33 would teach nothing; 1 conversation would lose" in said
    assert "1 row with errors is left out before" in said
    assert shown["audit_table"].count("data-row") == 1 and 'data-row="30"' in shown["audit_table"]
    assert "lies behind max_length" in shown["audit_table"]
    cut = call(dataset_statistics.first_audited, dataset.id, *SETTINGS, "cut", 1)
    assert 'data-row="31"' in cut["audit_table"] and "cut off" in cut["audit_table"]


def test_an_audit_without_anything_to_say_says_so_and_one_with_much_is_paged_to_its_end(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.data.audit.MAX_LISTED", 5)
    good = call(dataset_statistics.count_audit, dataset.id, "starter", 4096, "answers")
    assert "Every one of the 33 conversations teaches something" in visible(good["audit_said"]) and good["audit_table"] == ""
    nothing = call(dataset_statistics.count_audit, dataset.id, "starter", 8, "answers")
    assert "Nothing at all would be learned" in visible(nothing["audit_said"])
    assert nothing["audit_pager"].visible and nothing["audit_table"].count("data-row") == statistics_view.AUDIT_ROWS
    later = call(dataset_statistics.later_audited, dataset.id, "starter", 8, "answers", "silent", 1)
    assert later["audit_table"].count("data-row") == 33 - statistics_view.AUDIT_ROWS and not later["audit_later"].interactive
    assert call(dataset_statistics.earlier_audited, dataset.id, "starter", 8, "answers", "silent", 2)["audit_page"] == 1


def test_a_split_opens_the_training_side_and_the_train_tab_evaluates_on_the_other(dataset: Dataset) -> None:
    shown = call(dataset_split.split, dataset.id, 20, 7, "count", True, None, *SETTINGS)
    train = open_dataset(shown["dataset_id"])
    held_out = open_dataset(shown["form"]["values"]["eval_dataset"])
    assert len(train) + len(held_out) == 33 and 0 < len(held_out) <= 7
    assert train.manifest.parent == held_out.manifest.parent == dataset.id
    assert f"{len(train)} conversations to train on, {len(held_out)}" in visible(shown["split_said"])
    on_page = train_handlers.fresh()["values"]
    arrived = train_handlers.arrive(None, None, shown["dataset_id"], shown["form"], **on_page)
    assert arrived["eval_dataset"].value == held_out.id and arrived["dataset"].value == train.id
    again = call(dataset_split.split, dataset.id, 20, 7, "count", True, None, *SETTINGS)
    assert again["dataset_id"] == train.id
    with pytest.raises(UserError, match="share"):
        call(dataset_split.split, dataset.id, 0, 7, "count", True, None, *SETTINGS)


def test_another_dataset_is_not_evaluated_on_the_side_of_a_split(dataset: Dataset, tmp_path: Path) -> None:
    shown = call(dataset_split.split, dataset.id, 20, 7, "count", False, None, *SETTINGS)
    values = shown["form"]["values"]
    taken = train_handlers._carried(shown["form"], shown["dataset_id"])["values"]
    assert taken["eval_dataset"] == values["eval_dataset"] and taken["dataset"] == shown["dataset_id"]
    other = make(tmp_path, [talk("Another?", "Yes.")], "other")
    taken = train_handlers._carried(shown["form"], other.id)["values"]
    assert taken["eval_dataset"] == "" and taken["dataset"] == other.id and taken["eval_fraction"] > 0


def test_leakage_is_counted_and_lists_rows(dataset: Dataset, tmp_path: Path) -> None:
    other = make(tmp_path, [talk("What is 3?", "A number: 3."), talk("Something else entirely?", "Yes, it is.")], "questions")
    choices = call(dataset_split.list_others, dataset.id)["other"].choices
    assert [value for _, value in choices] == [other.id]
    said = call(dataset_split.compare, dataset.id, other.id, False)["leaks"]
    assert "1 conversation of this dataset is in questions too: 1 word for word, 0 almost." in visible(said) and 'data-row="3"' in said
    alone = make(tmp_path, [talk("Nothing like it?", "No.")], "alone")
    assert "No conversation" in call(dataset_split.compare, dataset.id, alone.id, True)["leaks"]
    with pytest.raises(UserError, match="chosen"):
        call(dataset_split.compare, dataset.id, None, True)


@pytest.mark.parametrize(("layout", "suffix"), [("vicuna", ".jsonl"), ("vicuna", ".json"), ("messages", ".parquet")])
def test_the_conversations_are_downloaded(dataset: Dataset, uploads: Path, layout: str, suffix: str) -> None:
    path = Path(call(dataset_split.save, dataset.id, layout, suffix)["file"])
    assert path.is_relative_to(uploads) and path.name == f"mine{suffix}"
    if suffix == ".jsonl":
        first = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
        assert first["conversations"][0] == {"from": "human", "value": "What is 0?"}


@pytest.mark.parametrize("suffix", [".sh", "", "/../../x.json"])
def test_no_other_kind_of_file_is_written(dataset: Dataset, uploads: Path, suffix: str) -> None:
    with pytest.raises(UserError, match="no kind of file"):
        call(dataset_split.save, dataset.id, "vicuna", suffix)
    assert not uploads.exists()


def test_the_findings_that_are_shown_are_downloaded(dataset: Dataset, uploads: Path) -> None:
    path = Path(call(dataset_findings.save_csv, dataset.id, "error", "")["file"])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["code"]) for row in rows] == [("33", "trailing-question")]
    lines = Path(call(dataset_findings.save_jsonl, dataset.id, "", "")["file"]).read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(dataset.findings()) > 1


def test_what_the_audit_lists_is_downloaded_whole(dataset: Dataset, uploads: Path) -> None:
    offered = call(dataset_statistics.count_audit, dataset.id, *SETTINGS)["audit_saves"]
    assert offered.visible and not call(dataset_statistics.count_audit, dataset.id, "starter", 4096, "answers")["audit_saves"].visible
    path = Path(call(dataset_statistics.save_audit_csv, dataset.id, *SETTINGS)["file"])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["row"], row["reason"]) for row in rows] == [("30", "answer-cut"), ("31", "cut")] and path.name.endswith("-audit.csv")
    path = Path(call(dataset_statistics.save_audit_jsonl, dataset.id, "starter", 8, "answers")["file"])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 33 > statistics_view.AUDIT_ROWS and all(line["remedy"] for line in lines), "all of them, not a page"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b/c", "", "…", "x" * 300, "-rf"])
def test_a_file_for_a_download_lies_where_nobody_can_guess_it(name: str, uploads: Path) -> None:
    one, other = downloads.place(name, ".json"), downloads.place(name, ".json")
    assert one.parent != other.parent and one.resolve().is_relative_to(uploads.resolve())
    assert one.suffix == ".json" and not one.name.startswith(("-", ".")) and len(one.name) < 80


def test_names_of_other_datasets_are_text(dataset: Dataset) -> None:
    from core.data.split import Leakage

    assert "<b>" not in split_view.leakage(Leakage(num_exact=1), "<b>x</b>").replace("<b>1", "")


def test_near_duplicates_are_counted_and_listed_when_they_are_asked_for(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Caller, "may", lambda self, role: True)
    words = "the quick brown fox jumps over the lazy dog while nobody in the village looks at it for even one moment today"
    rows = [talk("Tell me.", words, identifier="1"), talk("Quite another question?", "Yes.", identifier="2")]
    dataset = make(tmp_path, [*rows, talk("Tell me.", words + "!", identifier="3"), talk("Tell me!", words, identifier="4")])
    before = call(dataset_findings.choose_code, dataset.id, "", "near-duplicate")["table"]
    assert "Almost the same" not in visible(before)
    shown = call(dataset_findings.look_for_near, dataset.id)
    assert "2 conversations almost the same as an earlier one" in visible(shown["near_said"])
    assert visible(shown["table"]).count("almost the same as that of row 0") == 2
    assert (
        open_dataset(dataset.id).report().counts["near-duplicate"] == 2 and dataset_data.report_of(dataset.id).counts["near-duplicate"] == 2
    )
    assert call(dataset_findings.look_for_near, dataset.id)["near_said"] == shown["near_said"]
    other = make(tmp_path, rows, "other")
    assert "No two conversations" in call(dataset_findings.look_for_near, other.id)["near_said"]

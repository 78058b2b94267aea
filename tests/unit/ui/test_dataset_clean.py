"""Cleaning on the page: counted before it is applied, accounted for afterwards, and undone row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.data.dataset import Dataset, open_dataset
from core.data.repairs import REPAIRS, checked
from core.errors import UserError
from tests.unit.ui.dataset_page import SETTINGS, call, make, talk, visible
from ui import clean_form, dataset_clean, dataset_data, dataset_origin, origin_view

EVIL = "<img src=x onerror=alert(1)>"
FIELDS = {
    clean_form.name_of(code, parameter): "\n".join(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    for code, repair in REPAIRS.items()
    for parameter in repair.parameters
}


@pytest.fixture
def dataset(workspace: Path, tmp_path: Path) -> Dataset:
    rows = [talk(f"Question {number}?", f"Answer {number}.", identifier=str(number)) for number in range(20)]
    rows += [talk("A\x02B", "fine"), talk("Question 3?", "Answer 3."), talk(f"Only {EVIL}?"), talk("Who?", "Me.", "And?"), 7]
    rows += [{"id": "r", "conversations": [{"from": "human", "value": "a"}, {"from": "robot", "value": "b"}]}]
    return make(tmp_path, rows)


def count(dataset: Dataset, codes: list[str], **values: Any) -> dict[str, Any]:
    return call(dataset_clean.count_now, dataset.id, codes, "starter", **(FIELDS | values))


def test_every_repair_is_offered_and_the_fields_are_what_the_engine_takes() -> None:
    assert [code for _, code in clean_form.choices()] == list(REPAIRS)
    taken = checked(clean_form.chosen(list(REPAIRS), FIELDS))
    assert taken == checked({code: {} for code in REPAIRS}), "a form left as it is means the defaults"
    assert set(clean_form.SAFE) <= set(REPAIRS)


def test_opening_the_section_counts_and_unchooses_what_has_nothing_to_do(dataset: Dataset) -> None:
    shown = call(dataset_clean.look_first, dataset.id, list(clean_form.SAFE), "starter", **FIELDS)
    assert set(shown["repairs"].value) == {"strip-control", "drop-trailing-question", "drop-rejected", "dedupe-exact"}
    labels = {code: label for label, code in shown["repairs"].choices}
    assert labels["strip-control"].endswith(": changes 1")
    assert labels["drop-trailing-question"].endswith(": changes 1, drops 1")
    assert labels["drop-rejected"].endswith(": drops 2") and labels["dedupe-exact"].endswith(": drops 1")
    assert labels["fix-encoding"].endswith(": nothing to do") and labels["drop-phrase"] == "Drop by phrase"
    said = visible(shown["total"])
    assert "26 rows come in: 20 stay as they are, 2 are mended, 4 are dropped. 22 rows would go into the new dataset." in said
    assert "robot" in shown["rename-roles.roles"].info
    assert shown["make"].interactive


def test_what_was_not_counted_with_these_settings_cannot_be_made() -> None:
    shown = call(dataset_clean.forget_counts, ["drop-length"])
    assert not shown["make"].interactive and "Count again" in shown["total"] and shown["effects"] == ""
    assert call(dataset_clean.forget_counts, [])["total"] == ""
    assert call(dataset_clean.forget_tokens, ["drop-length"], **FIELDS | {"drop-length.max_tokens": 100})["effects"] == ""
    assert call(dataset_clean.forget_tokens, ["drop-length", "drop-phrase"], **FIELDS) == {}, (
        "without a limit in tokens none asks the tokenizer"
    )


def test_nothing_of_a_row_becomes_markup(dataset: Dataset) -> None:
    shown = count(dataset, list(clean_form.SAFE))
    assert "Only" in shown["effects"] and EVIL not in shown["effects"]


def test_another_choice_shows_its_fields_and_counts_it(dataset: Dataset) -> None:
    shown = call(dataset_clean.choose_repairs, dataset.id, ["rename-roles"], "starter", **(FIELDS | {"rename-roles.roles": "robot=gpt"}))
    assert shown["rename-roles:"].visible and not shown["drop-length:"].visible
    assert {code: label for label, code in shown["repairs"].choices}["rename-roles"].endswith(": changes 1")


@pytest.mark.parametrize("codes", [[], ["dedupe-near"]])
def test_a_choice_that_does_nothing_makes_nothing(dataset: Dataset, codes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make(dataset.folder.parent.parent, [talk("One?", "Two."), talk("Three?", "Four.")], "good")
    shown = count(dataset, codes)
    assert not shown["make"].interactive
    assert ("at least one" if not codes else "no row") in visible(shown["total"])


def test_many_rows_are_counted_only_when_asked(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_data, "COUNTED_AT_ONCE", 5)
    assert "total" not in call(dataset_clean.look_first, dataset.id, ["drop-rejected"], "starter", **FIELDS)
    assert call(dataset_clean.choose_repairs, dataset.id, ["drop-rejected"], "starter", **FIELDS)["total"] == ""
    assert "26 rows come in" in count(dataset, ["drop-rejected"])["total"]


def test_a_setting_that_makes_no_sense_is_said(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="robot"):
        count(dataset, ["rename-roles"], **{"rename-roles.roles": "robot"})


def test_tokens_are_counted_with_the_chosen_model(dataset: Dataset) -> None:
    shown = count(dataset, ["drop-length"], **{"drop-length.max_tokens": 5})
    labels = {code: label for label, code in shown["repairs"].choices}
    assert labels["drop-length"].endswith(": drops 22")
    with pytest.raises(UserError, match="no model"):
        call(dataset_clean.count_now, dataset.id, ["drop-length"], "../nothing", **(FIELDS | {"drop-length.max_tokens": 5}))


def test_the_cleaned_dataset_opens_with_its_account_and_gives_rows_back(dataset: Dataset) -> None:
    shown = call(dataset_clean.make, dataset.id, ["strip-control", "drop-trailing-question", "drop-rejected"], *SETTINGS, **FIELDS)
    cleaned = open_dataset(shown["dataset_id"])
    assert cleaned.manifest.parent == dataset.id and cleaned.manifest.num_rejected == 0
    assert "mine" in visible(shown["origin"]) and shown["open_parent"].value == "Open mine"
    assert "26 rows came in" in visible(shown["account_done"]) and shown["lineage"].visible
    assert [code for _, code in shown["dropped_code"].choices] == ["", "drop-trailing-question", "drop-rejected"]
    page = call(dataset_origin.first_dropped, cleaned.id, "drop-rejected", 1)
    labels = {value: label for label, value in page["dropped_rows"].choices}
    assert set(labels) == {"24", "25"} and "robot: b" in labels["25"]
    assert call(dataset_origin.choose_rows, ["25"])["take_back"].value == "Take 1 row back"
    again = call(dataset_origin.take_back, cleaned.id, ["25"], *SETTINGS)
    restored = open_dataset(again["dataset_id"])
    assert restored.manifest.num_rows == cleaned.manifest.num_rows + 1 and restored.manifest.num_rejected == 1
    assert "1 of those that stayed were taken back" in visible(again["account_done"])
    back = call(dataset_origin.open_parent, cleaned.id, *SETTINGS)
    assert back["dataset_id"] == dataset.id and not back["lineage"].visible


def test_the_dropped_rows_are_paged(workspace: Path, tmp_path: Path) -> None:
    dataset = make(tmp_path, [talk("Good?", "Yes."), *([talk("Only a question?")] * 23)])
    cleaned = open_dataset(call(dataset_clean.make, dataset.id, ["drop-rejected"], *SETTINGS, **FIELDS)["dataset_id"])
    seen: list[str] = []
    for page in range(3):
        shown = call(dataset_origin.later_dropped if page else dataset_origin.first_dropped, cleaned.id, "", page)
        seen += [value for _, value in shown["dropped_rows"].choices]
        assert shown["dropped_page"] == page + 1 and shown["dropped_pager"].visible
    assert seen == [str(row) for row in range(1, 24)]
    assert not shown["dropped_later"].interactive
    assert call(dataset_origin.earlier_dropped, cleaned.id, "", 1)["dropped_page"] == 1


def test_a_dataset_whose_parent_is_gone_says_so(dataset: Dataset) -> None:
    import shutil

    cleaned = open_dataset(call(dataset_clean.make, dataset.id, ["drop-rejected"], *SETTINGS, **FIELDS)["dataset_id"])
    shutil.rmtree(dataset.folder)
    assert "not here any more" in origin_view.shown(cleaned)["origin"]
    with pytest.raises(UserError, match="not here any more"):
        call(dataset_origin.open_parent, cleaned.id, *SETTINGS)

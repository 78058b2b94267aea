"""Findings are kept on the disk, and any page of any filter is what sorting and filtering the whole list would give."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data import findings as kept
from core.data.dataset import LISTED, import_dataset
from core.data.findings import Findings, writing
from core.data.rules import RULES, Finding, Issue, make_issue
from core.data.validate import validate

CODES = ("missing-id", "id-not-text", "extra-key", "duplicate-id", "empty-conversations", "crlf-line-ends")
FIELDS = {"text": '"ab\n☃"', "other": 3, "kind": "a number"}


def issue(code: str, row: int | None, turn: int | None) -> Issue:
    return make_issue(Finding(code, FIELDS, turn), row, (row or 0) + 1, 7 * (row or 0))


def place(issue: Issue) -> tuple[int, int]:
    return (-1 if issue.row is None else issue.row, -1 if issue.turn is None else issue.turn)


ISSUES = st.lists(st.builds(issue, st.sampled_from(CODES), st.none() | st.integers(0, 40), st.none() | st.integers(0, 5)), max_size=60)


@given(issues=ISSUES, batch_rows=st.sampled_from([1, 2, 7, 1024]), data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_page_of_every_filter_is_a_slice_of_the_sorted_list(
    issues: list[Issue], batch_rows: int, data: st.DataObject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "BATCH_ROWS", batch_rows)
    with writing(tmp_path) as add:
        for one in issues:
            add(one)
    ordered = sorted(issues, key=place)
    for code in ("", *CODES):
        for severity in ("", "error", "warning", "note"):
            found = Findings(tmp_path, code, severity)
            expected = [one for one in ordered if code in ("", one.code) and severity in ("", one.severity)]
            assert len(found) == len(expected)
            assert list(found) == expected
            start, stop = data.draw(st.integers(-5, 70)), data.draw(st.integers(-5, 70))
            assert found[start:stop] == expected[start:stop]
            row = data.draw(st.integers(-1, 45))
            assert found[found.first_at(row) : found.first_at(row + 1)] == [one for one in expected if place(one)[0] == row]
            assert found.first_at(row) == sum(place(one)[0] < row for one in expected)


def test_a_number_outside_is_an_index_error(tmp_path: Path) -> None:
    with writing(tmp_path) as add:
        add(issue("missing-id", 0, None))
    found = Findings(tmp_path)
    assert found[-1] == found[0]
    for outside in (1, -2):
        with pytest.raises(IndexError):
            found[outside]
    with pytest.raises(IndexError):
        Findings(tmp_path, "no-such-code")[0]


def test_a_dataset_keeps_all_findings_and_its_report_the_first(workspace: Path, tmp_path: Path) -> None:
    rows = [{"id": 1, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]} for _ in range(LISTED)]
    source = tmp_path / "many.json"
    source.write_text(json.dumps(rows), encoding="utf-8")
    dataset, whole = import_dataset(source), validate(source)
    assert len(whole.issues) == 3 * LISTED - 2  # a number as id in each row, and the first row repeated twice over
    assert dataset.report() == whole.model_copy(update={"issues": whole.issues[:LISTED]})
    assert list(dataset.findings()) == whole.issues
    assert {code: len(dataset.findings(code)) for code in whole.counts} == whole.counts
    assert len(dataset.findings(severity="warning")) == sum(
        number for code, number in whole.counts.items() if RULES[code].severity == "warning"
    )


def test_a_dataset_from_before_the_findings_had_a_file_still_has_them(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('[{"conversations": []}, 3]', encoding="utf-8")
    dataset = import_dataset(tmp_path / "old.json")
    before = list(dataset.findings())
    for name in (kept.FINDINGS, kept.INDEX):
        (dataset.folder / name).unlink()
    assert before and list(dataset.findings()) == before
    assert not [path for path in dataset.folder.iterdir() if path.is_dir()]


def test_a_kill_or_a_reader_between_two_writes_sees_findings_that_belong_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = [issue("missing-id", row, None) for row in range(5)], [issue("extra-key", 7, 1)]
    kept.keep(tmp_path, old)
    reader, late = Findings(tmp_path), Findings(tmp_path)
    assert len(reader) == 5
    with monkeypatch.context() as dying:
        dying.setattr(kept.os, "replace", lambda source, target: exit() if target.name == kept.INDEX else Path(source).rename(target))
        with pytest.raises(SystemExit):
            kept.keep(tmp_path, new)
    assert list(Findings(tmp_path)) == old
    kept.keep(tmp_path, new)
    assert list(reader) == old  # it has both files open
    assert list(late) == list(Findings(tmp_path)) == new
    kept.keep(tmp_path, chain(Findings(tmp_path), old))
    assert len(Findings(tmp_path)) == 6


def test_an_index_of_an_earlier_version_names_no_file(tmp_path: Path) -> None:
    with writing(tmp_path) as add:
        add(issue("missing-id", 0, None))
    index = pa.ipc.open_file(tmp_path / kept.INDEX)
    batches = [index.get_batch(number) for number in range(index.num_record_batches)]
    schema = index.schema.with_metadata({b"keys": index.schema.metadata[b"keys"]})
    with pa.ipc.new_file(tmp_path / kept.INDEX, schema) as file:
        for batch in batches:
            file.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    kept.keep(tmp_path, [*Findings(tmp_path), issue("extra-key", 1, 0)])
    assert len(Findings(tmp_path)) == 2
    assert not (tmp_path / kept.FINDINGS).exists()

"""Near-duplicates as findings, and findings as files."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from core.data.dataset import import_dataset
from core.data.findings_export import export, gathered
from core.data.likeness import find_near_duplicates, near_duplicates, with_near_duplicates
from core.data.rules import Issue
from core.data.validate import Report, validate
from core.errors import UserError
from tests.unit.data.files import dump, record, talk

WORDS = " ".join(f"word{number}" for number in range(60))
ROWS = [
    talk(("human", "tell"), ("gpt", WORDS), id="a"),
    7,
    talk(("human", "tell"), ("gpt", WORDS), id="same"),
    talk(("human", "tell"), ("gpt", WORDS.replace("word59", "last")), id="almost"),
    talk(("gpt", "=1+1")),
    record(5),
]


@pytest.fixture
def path(workspace: Path, tmp_path: Path) -> Path:
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(dump(row) + "\n" for row in ROWS), encoding="utf-8")
    return file


def test_near_duplicates_are_notes_that_name_both_rows(path: Path) -> None:
    (issue,) = near_duplicates(path)
    assert (issue.code, issue.severity, issue.row, issue.line) == ("near-duplicate", "note", 3, 4)
    assert path.read_bytes()[issue.byte :].startswith(b'{"id": "almost"')
    assert "row 0" in issue.problem and "%" in issue.problem
    plain = validate(path)
    assert "near-duplicate" not in plain.counts
    report = with_near_duplicates(plain, path)
    assert report.counts == dict(sorted((plain.counts | {"near-duplicate": 1}).items()))
    assert [issue.row for issue in report.issues] == sorted(issue.row for issue in report.issues if issue.row is not None)
    assert list(near_duplicates(path, threshold=0.99)) == []


def test_a_dataset_keeps_its_near_duplicates_and_looks_again_without_counting_twice(path: Path) -> None:
    dataset = import_dataset(path)
    before = list(dataset.findings())
    for _ in range(2):
        assert find_near_duplicates(dataset).counts["near-duplicate"] == 1
        assert dataset.report().counts["near-duplicate"] == 1
        assert [issue.row for issue in dataset.findings("near-duplicate")] == [3]
        assert [issue for issue in dataset.findings() if issue.code != "near-duplicate"] == before
    assert "near-duplicate" not in find_near_duplicates(dataset, threshold=0.99).counts
    assert list(dataset.findings()) == before


def test_csv_and_jsonl_hold_every_finding_with_the_text_of_its_row(path: Path, tmp_path: Path) -> None:
    issues = validate(path).issues
    for suffix in (".csv", ".jsonl"):
        assert export(issues, tmp_path / f"findings{suffix}", path) == len(issues)
    lines = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [Issue.model_validate({name: line[name] for name in Issue.model_fields}) for line in lines] == issues
    raw = path.read_text(encoding="utf-8").splitlines()
    assert [line["raw"] for line in lines] == [raw[line["row"]] for line in lines]
    with (tmp_path / "findings.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["code"], int(row["row"]), row["raw"]) for row in table] == [(line["code"], line["row"], line["raw"]) for line in lines]
    assert list(table[0]) == ["row", "turn", "line", "byte", "code", "severity", "problem", "remedy", "raw"]


def test_no_cell_becomes_a_formula(tmp_path: Path) -> None:
    issue = Issue(code="x", severity="note", row=None, turn=None, line=1, byte=0, problem="=cmd()", remedy="@sum")
    export([issue], tmp_path / "findings.csv")
    assert (tmp_path / "findings.csv").read_text() == "row,turn,line,byte,code,severity,problem,remedy\n,,1,0,x,note,'=cmd(),'@sum\n"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_row_of_somebody_elses_cannot_make_one_either(start: str, tmp_path: Path) -> None:
    words = f'{start}HYPERLINK("http://evil.example")'
    talk = {"id": words, "conversations": [{"from": words, "value": words}, {"from": "gpt", "value": words}]}
    (tmp_path / "evil.json").write_text(json.dumps([talk]), encoding="utf-8")
    with gathered(lambda note: validate(tmp_path / "evil.json", on_issue=note)) as (_, found):
        assert export(found, tmp_path / "findings.csv", tmp_path / "evil.json") > 0
    with (tmp_path / "findings.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert any("HYPERLINK" in cell for cell in cells)
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []


def test_findings_told_in_any_order_are_exported_in_the_order_of_rows(path: Path, tmp_path: Path) -> None:
    with gathered(lambda note: validate(path, on_issue=note)) as (report, found):
        count = export(found, tmp_path / "findings.jsonl")
    assert isinstance(report, Report)
    rows = [json.loads(line)["row"] for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert (len(rows), rows) == (count, sorted(rows))


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the endings"):
        export([], tmp_path / "findings.xlsx")

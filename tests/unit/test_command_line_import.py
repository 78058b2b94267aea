"""`import`, `convert` and `validate` of every layout: what they write, print and return."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.data.dataset import list_datasets, open_dataset
from core.data.validate import validate
from tests.unit.test_command_line import call, said

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture
def questions(tmp_path: Path) -> str:
    path = tmp_path / "questions.csv"
    path.write_text("question,answer,source\nq,a,web\nr,b,web\nbroken\n", encoding="utf-8")
    return str(path)


def test_import_takes_a_file_and_prints_its_manifest(questions: str) -> None:
    result = call("import", questions, "--name", "Questions", "--json")
    manifest = said(result)
    assert result.exit_code == 0
    assert (manifest["name"], manifest["format"], manifest["num_rows"], manifest["num_rejected"]) == ("Questions", "question-answer", 3, 1)
    assert open_dataset(manifest["id"])[1].turns[0].content == "r"
    assert said(call("import", questions, "--json"))["id"] == manifest["id"]
    shown = call("import", questions).stdout
    assert manifest["id"] in shown and "3 rows: 2 can be trained, 1 cannot." in shown and '"question" and "answer"' in shown


def test_import_follows_a_mapping_and_refuses_what_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("Frage;Antwort\nWas?;Das.\n", encoding="utf-8")
    result = call("import", str(path), "--json")
    assert result.exception and '"Frage", "Antwort"' in str(result.exception)
    assert list_datasets() == []
    manifest = said(call("import", str(path), "--map", "question=Frage,answer=Antwort", "--json"))
    assert (manifest["num_valid"], manifest["mapping"]["question"]) == (1, "Frage")


@pytest.mark.parametrize("source", ["nothing.json", "no thing", "../nothing", "owner/name.csv", ""])
def test_import_refuses_what_is_neither_file_nor_hub_id(source: str) -> None:
    assert "no file" in str(call("import", source).exception)


@pytest.mark.parametrize("to", ["vicuna", "messages"])
@pytest.mark.parametrize("ending", [".json", ".jsonl", ".parquet"])
def test_convert_writes_what_can_be_trained_and_counts_the_rest(questions: str, tmp_path: Path, to: str, ending: str) -> None:
    out = tmp_path / f"out{ending}"
    result = call("convert", questions, "--to", to, "-o", str(out), "--json")
    assert result.exit_code == 1
    assert said(result) | {"path": ""} == {"path": "", "to": to, "num_written": 2, "num_rejected": 1, "rejected": [2]}
    report = validate(out)
    assert (report.num_rows, report.num_valid) == (2, 2)
    again = call("convert", str(out), "-o", str(tmp_path / "again.json"), "--json")
    assert again.exit_code == 0
    turns = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))[1]["conversations"]
    assert turns == [{"from": "human", "value": "r"}, {"from": "gpt", "value": "b"}]


def test_convert_takes_a_dataset_by_its_id(questions: str, tmp_path: Path) -> None:
    dataset = said(call("import", questions, "--json"))["id"]
    result = call("convert", dataset, "-o", str(tmp_path / "out.jsonl"), "--json")
    assert (said(result)["num_written"], said(result)["rejected"]) == (2, [2])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--to", "alpaca", "-o", "out.json"], "alpaca"),
        (["-o", "out.txt"], "out.txt"),
        (["-o", "out.json", "--map", "what=x"], "what=x"),
    ],
)
def test_convert_refuses_what_it_cannot_write(questions: str, arguments: list[str], problem: str) -> None:
    assert problem in str(call("convert", questions, *arguments).exception)


def test_validate_and_mask_take_other_layouts(questions: str) -> None:
    report = said(call("validate", questions, "--json"))
    assert (report["num_valid"], report["counts"]) == (2, {"columns-ignored": 1, "ragged-row": 1})
    assert said(call("validate", questions, "--map", "question=source,answer=answer", "--json"))["num_valid"] == 2
    shown = said(call("mask", questions, "--row", "1", "--model", "starter", "--json"))
    assert "USER: r ASSISTANT: b</s>" in shown["text"]

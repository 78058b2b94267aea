"""clean, split, stats and what validate can do besides: the same functions as the page's, with exit codes and JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from core import paths
from core.cli.app import app
from core.data.validate import validate

pytestmark = pytest.mark.usefixtures("workspace")
BROKEN, IDENTITY = str(paths.EXAMPLES / "broken.json"), str(paths.EXAMPLES / "identity.json")


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> dict:
    return json.loads(result.stdout.splitlines()[-1])


def test_clean_makes_a_dataset_and_a_file_that_can_be_trained(tmp_path: Path) -> None:
    out = tmp_path / "clean.jsonl"
    result = call(
        "clean",
        BROKEN,
        "--fix",
        "strip-control,strip-special,merge-same-role,drop-trailing-question,drop-rejected",
        "-o",
        str(out),
        "--json",
    )
    value = said(result)
    assert result.exit_code == 0
    account = value["account"]
    assert account["num_in"] + account["num_made"] == account["num_kept"] + account["num_changed"] + account["num_dropped"]
    assert value["num_rejected"] == 0
    report = validate(out)
    assert (report.num_valid, report.num_rejected) == (value["num_written"], 0)
    assert value["num_written"] == value["num_valid"] > validate(Path(BROKEN)).num_valid
    again = call("clean", value["dataset_id"], "--fix", "drop-length:min_turns=2,max_turns=2", "--json")
    assert said(again)["parent"] == value["dataset_id"]


def test_clean_can_be_previewed(tmp_path: Path) -> None:
    result = call("clean", BROKEN, "--fix", "merge-same-role", "--preview")
    assert result.exit_code == 0
    assert "Join turns of one speaker" in result.stdout and " rows = " in result.stdout
    assert len(list(paths.datasets_dir().iterdir())) == 1


def test_clean_names_what_it_does_not_know() -> None:
    for fix, word in (("mend", "merge-same-role"), ("drop-length:most=3", "max_turns"), ("split-long", "--model")):
        result = call("clean", IDENTITY, "--fix", fix)
        assert result.exception is not None and word in str(result.exception)


def test_split_writes_both_sides(tmp_path: Path) -> None:
    arguments = ("split", IDENTITY, "--eval-fraction", "0.1", "--seed", "7", "-o", str(tmp_path / "parts"), "--json")
    value = said(call(*arguments))
    counts = {side: value[side]["num_conversations"] for side in ("train", "eval")}
    assert sum(counts.values()) == 300 and 0 < counts["eval"] <= 30
    assert {side: validate(tmp_path / "parts" / f"{side}.jsonl").num_valid for side in counts} == counts
    assert said(call(*arguments)) == value


def test_stats_tell_of_lengths_languages_and_what_adds_nothing() -> None:
    result = call("stats", IDENTITY, "--model", "starter", "--max-length", "64", "--json")
    value = said(result)
    assert result.exit_code == 0
    assert value["text"]["num_conversations"] == 300
    assert sum(value["tokens"]["tokens"]["counts"]) == 300
    assert 0 < value["tokens"]["loss_share"] < 1
    assert value["audit"]["num_zero_loss"] == value["tokens"]["num_zero_loss"]
    assert "Mostly written in: Latin" in call("stats", value["dataset_id"]).stdout


def test_stats_estimate_the_steps_of_a_recipe(tmp_path: Path) -> None:
    from core.training.presets import demo

    (tmp_path / "recipe.yaml").write_text(demo().to_yaml(), encoding="utf-8")
    result = call("stats", IDENTITY, "--recipe", str(tmp_path / "recipe.yaml"), "--json")
    assert said(result)["estimated_steps"] > 0


def test_validate_finds_near_duplicates_and_exports_findings(tmp_path: Path) -> None:
    out = tmp_path / "findings.csv"
    result = call("validate", BROKEN, "--near-duplicates", "--export", str(out), "--raw", "--json")
    report = said(result)
    assert len(out.read_text(encoding="utf-8").splitlines()) > len(report["issues"])
    assert result.exit_code == 1
    plain = call("validate", BROKEN, "--export", str(tmp_path / "findings.jsonl"), "--json")
    lines = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines == said(plain)["issues"]


def test_dropped_rows_are_listed_and_taken_back() -> None:
    cleaned = said(call("clean", BROKEN, "--fix", "drop-rejected", "--json"))
    listed = said(call("clean", cleaned["dataset_id"], "--dropped", "--json"))
    assert listed["num_dropped"] == len(listed["dropped"]) == cleaned["account"]["num_dropped"] > 2
    first, second = (row["row"] for row in listed["dropped"][:2])
    assert "drop-rejected" in call("clean", cleaned["dataset_id"], "--dropped").stdout
    back = said(call("clean", cleaned["dataset_id"], "--restore", f"{first}, {second}", "--json"))
    assert (back["parent"], back["num_rejected"]) == (cleaned["parent"], cleaned["num_rejected"] + 2)
    assert said(call("clean", back["dataset_id"], "--dropped", "--json"))["num_dropped"] == listed["num_dropped"] - 2
    for wrong in ((), ("--dropped", "--restore", "1"), ("--restore", "one"), ("--restore", "99999")):
        assert call("clean", cleaned["dataset_id"], *wrong).exit_code != 0


def test_rows_are_restored_with_the_model_that_the_cleaning_counted_with() -> None:
    cleaned = said(call("clean", IDENTITY, "--fix", "drop-length:max_tokens=60", "--model", "starter", "--json"))
    row = said(call("clean", cleaned["dataset_id"], "--dropped", "--json"))["dropped"][0]["row"]
    back = said(call("clean", cleaned["dataset_id"], "--restore", str(row), "--json"))
    assert back["num_valid"] == cleaned["num_valid"] + 1


def test_a_mask_is_shown_of_a_mapped_file_of_a_dataset_and_of_the_last_answer_only(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text("ask,reply\nWho?,Me.\nWhy?,So.\n", encoding="utf-8")
    mapped = said(call("mask", str(table), "--row", "1", "--map", "question=ask,answer=reply", "--json"))
    assert "Why?" in mapped["text"] and "So." in mapped["text"]
    dataset = said(call("import", str(table), "--map", "question=ask,answer=reply", "--json"))["id"]
    assert said(call("mask", dataset, "--row", "1", "--json")) == mapped
    learned = [sum(label != -100 for label in said(call("mask", dataset, "--loss-on", on, "--json"))["labels"]) for on in ("last", "all")]
    assert 0 < learned[0] < learned[1]


def test_validate_names_what_is_almost_in_the_evaluation_data(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(60)]
    talks = {"train": ["ten", "ten little birds"], "eval": ["ten"]}
    said_by = {side: [" ".join([*words, end]) for end in ends] for side, ends in talks.items()}
    for side, texts in said_by.items():
        records = [
            {"id": f"{side}{number}", "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]}
            for number, text in enumerate(texts)
        ]
        (tmp_path / f"{side}.json").write_text(json.dumps(records), encoding="utf-8")
    arguments = ("validate", str(tmp_path / "train.json"), "--eval", str(tmp_path / "eval.json"))
    assert said(call(*arguments, "--json"))["counts"] == {"eval-leak": 1}
    report = said(call(*arguments, "--near-duplicates", "--json"))
    assert report["counts"] == {"eval-leak": 1, "near-duplicate": 1, "near-eval-leak": 1}
    assert [(issue["code"], issue["row"]) for issue in report["issues"]][-1] == ("near-eval-leak", 1)

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

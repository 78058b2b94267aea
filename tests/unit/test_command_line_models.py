"""The verbs about models: which level to take, what to measure on, and sizes as people write them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from core import paths
from core.cli.bars import bars
from core.cli.models import level_table, parse_size
from core.cli.quality import reference_of
from core.errors import UserError
from core.export import artifacts, measure
from core.export.artifacts import Artifact
from core.running import steps
from tests.unit.data.files import record
from tests.unit.test_command_line import call, said
from tests.unit.training.test_samples import imported, run_of

RUN = "261123-000000-abcd"


def a_level(level: str, num_bytes: int, kl: float, top1: float) -> Artifact:
    """A measured level of the run; only the figures and the size of its file matter here."""
    with paths.building(paths.runs_dir() / RUN / "artifacts" / f"gguf-{level}") as folder:
        (folder / f"Argo-{level}.gguf").write_bytes(b"GGUF" * (num_bytes // 4))
        measured = {"kl_mean": kl, "kl_p99": 9 * kl, "top1_agreement": top1, "prompt_tokens_per_s": 1234.0, "resident_bytes": 5_000_000}
        return artifacts.write(Artifact(id=f"{RUN}-{level}", kind="gguf", level=level, name="Argo", run_id=RUN, measured=measured), folder)


@pytest.fixture
def ladder(workspace: Path) -> list[Artifact]:
    return [a_level("f16", 4000, 0.0, 1.0), a_level("q8_0", 2000, 0.001, 0.99), a_level("q4_0", 1000, 0.05, 0.9)]


@pytest.mark.parametrize(
    ("asked", "level"),
    [(["--at-most", "2.5K"], "q8_0"), (["--at-most", "2KB"], "q8_0"), (["--at-least", "85"], "q4_0"), (["--at-least", "95"], "q8_0"), ([], "f16")],
)  # fmt: skip
def test_pick_names_the_level_for_a_size_a_quality_or_this_machine(ladder: list[Artifact], asked: list[str], level: str):
    result = call("pick", RUN, *asked, "--json")
    assert result.exit_code == 0 and said(result)["level"] == level
    assert f"Take {level}." in call("pick", RUN, *asked).stdout


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (["--at-most", "10"], "No measured level fits"), (["--at-most", "many"], "no size"),
        (["--at-most", "1G", "--at-least", "9"], "One question"),
    ],
)  # fmt: skip
def test_pick_says_why_there_is_nothing_to_take(ladder: list[Artifact], asked: list[str], expected: str):
    result = call("pick", RUN, *asked)
    assert isinstance(result.exception, UserError) and expected in result.exception.problem


@pytest.mark.parametrize("options", [[], ["--data", "one.json", "--text", "two.txt"]])
def test_measure_wants_conversations_or_a_text(ladder: list[Artifact], tmp_path: Path, options: list[str]):
    paths.write_text(tmp_path / "f16" / "m.gguf", "GGUF")
    alone = artifacts.write(Artifact(id="alone", kind="gguf", level="f16", name="m"), tmp_path / "f16")
    result = call("measure", str(alone.folder), *options)
    assert isinstance(result.exception, UserError) and "one thing to measure on" in result.exception.problem
    several = call("measure", ladder[0].id, str(alone.folder))
    assert isinstance(several.exception, UserError) and "one thing to measure on" in several.exception.problem


def test_measure_takes_by_itself_what_the_run_measured_on(ladder: list[Artifact], workspace: Path, monkeypatch: pytest.MonkeyPatch):
    run_dir = paths.runs_dir() / RUN
    made = run_of(workspace, imported(workspace, "talks.json", [record(number) for number in range(9)]), eval_fraction=0.4)
    for file in made.iterdir():
        file.rename(run_dir / file.name)
    asked: list[tuple[str, str]] = []

    def note(levels: list[Artifact], reference: Artifact, conversations: list[Any], **how: Any) -> dict[str, Any]:
        asked.append((reference.id, measure.fingerprint(conversations, measure.MAX_TOKENS, how["max_length"], how.get("text"))))
        return {level.id: level.measured for level in levels}

    monkeypatch.setattr(measure, "measure", note)
    steps.measure(run_dir)
    assert call("measure", ladder[2].id).exit_code == 0
    assert len(asked) == 2 and asked[0] == asked[1]


def test_the_table_has_the_worst_case_the_speed_of_reading_and_the_memory(ladder: list[Artifact]):
    measured = {
        "bits_per_weight": 16.08,
        "perplexity": 21411.712,
        "tokens_per_s": 1290.0,
        "prompt_tokens_per_s": 34383.0,
        "resident_bytes": 15.9e9,
    }
    level = ladder[2].model_copy(update={"level": "IQ3_XXS", "measured": ladder[2].measured | measured})
    out = io.StringIO()
    Console(width=80, file=out).print(level_table([level, *ladder]))
    assert "worst" in out.getvalue() and "…" not in out.getvalue()
    cells = ("IQ3_XXS", "16.08", "21411.712", "0.05000", "0.4500", "90.0%", "1290", "34383", "15.9 GB", "1234", "5.0 MB")
    assert all(shown in out.getvalue() for shown in cells)


def test_sizes_are_read_as_people_write_them():
    assert [parse_size(text, "-") for text in ("2G", "4.5gb", "500M", "10", "1 kB")] == [2 * 10**9, 4_500_000_000, 500_000_000, 10, 1000]
    for wrong in ("", "G", "-1G", "2T", "1e9", "0"):
        with pytest.raises(UserError, match="no size"):
            parse_size(wrong, "-")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_each_level_has_a_bar_of_its_own_on_a_terminal_and_none_elsewhere(is_terminal: bool):
    out = io.StringIO()
    with bars(Console(width=80, file=out, force_terminal=is_terminal), "working") as on_event:
        for level in ("q4_0", "Q4_K_M"):
            on_event({"event": "progress", "id": level, "done": 3, "total": 3})
        on_event({"event": "measured", "id": "q4_0", "figures": {}})
    drawn = out.getvalue()
    assert ("q4_0" in drawn and "Q4_K_M" in drawn and "100%" in drawn) if is_terminal else drawn == ""


def test_a_lone_level_is_compared_with_the_float_file_beside_it_or_with_none(ladder: list[Artifact], tmp_path: Path):
    lone, beside = reference_of(ladder[2:]), reference_of(ladder)
    assert lone and beside and lone.level == beside.level == "f16"
    larger = reference_of([a_level("f32", 8000, 0.0, 1.0), ladder[2]])
    assert larger and larger.level == "f16", "as its run measures"
    paths.write_text(tmp_path / "alone" / "q4" / "m.gguf", "GGUF")
    alone = artifacts.write(Artifact(id="alone", kind="gguf", level="q4_0", name="m"), tmp_path / "alone" / "q4")
    assert reference_of([alone]) is None
    paths.write_text(tmp_path / "text", "Some words.")
    result = call("measure", str(alone.folder), "--text", str(tmp_path / "text"))
    assert isinstance(result.exception, UserError) and "no f16 file beside it" in result.exception.problem

"""Written conversations are read back as they were, in every form, and a failed write leaves the old file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from core import paths
from core.conversation import Conversation, Turn
from core.data.rows import check_rows
from core.data.writer import Form, write
from core.errors import UserError

# What a valid conversation may hold: no NUL, no half characters, no </s>, and no empty question or answer.
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(LETTERS, min_size=1, max_size=30).filter(lambda text: bool(text.strip()) and "</s>" not in text)


@st.composite
def conversations(draw: st.DrawFn) -> list[Conversation]:
    found: list[Conversation] = []
    for number in range(draw(st.integers(1, 6))):
        system = [Turn("system", draw(TEXT))] if draw(st.booleans()) else []
        pairs = [turn for _ in range(draw(st.integers(1, 3))) for turn in (Turn("user", draw(TEXT)), Turn("assistant", draw(TEXT)))]
        found.append(Conversation(draw(st.text(LETTERS, max_size=8)) + str(number), (*system, *pairs)))
    return found


@pytest.mark.parametrize("to", ["vicuna", "messages"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=conversations())
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, to: Form, written: list[Conversation]) -> None:
    path = tmp_path / f"talks{suffix}"
    assert write(iter(written), path, to) == len(written)
    assert [checked.conversation for checked in check_rows(path)] == written


@pytest.mark.parametrize(("to", "key"), [("vicuna", "conversations"), ("messages", "messages")])
def test_parquet_holds_the_same_records_as_jsonl(tmp_path: Path, to: Form, key: str) -> None:
    written = [Conversation(f"é{number}", (Turn("user", "你好"), Turn("assistant", f"😀 {number}\u2028"))) for number in range(3000)]
    for suffix in (".jsonl", ".parquet"):
        write(written, tmp_path / f"talks{suffix}", to)
    rows = parquet.read_table(tmp_path / "talks.parquet").to_pylist()
    assert rows == [json.loads(line) for line in (tmp_path / "talks.jsonl").read_bytes().split(b"\n")[:-1]]
    assert list(rows[0]) == ["id", key]


def test_unicode_is_written_as_it_is(tmp_path: Path) -> None:
    write([Conversation("ü", (Turn("user", "你好\n"), Turn("assistant", "naïve 😀")))], tmp_path / "talks.jsonl")
    assert "你好\\n" in (tmp_path / "talks.jsonl").read_text(encoding="utf-8")
    assert "naïve 😀" in (tmp_path / "talks.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_nothing_to_write_is_an_empty_file_of_its_kind(tmp_path: Path, suffix: str) -> None:
    assert write([], tmp_path / f"none{suffix}") == 0
    content = (tmp_path / f"none{suffix}").read_bytes()
    assert {".json": lambda: json.loads(content), ".jsonl": lambda: [*content], ".parquet": lambda: [*content[:0]]}[suffix]() == []


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_an_error_on_the_way_leaves_the_old_file_and_no_other(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"talks{suffix}"
    path.write_text("old")

    def breaks() -> Iterator[Conversation]:
        yield Conversation("a", (Turn("user", "q"), Turn("assistant", "a")))
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="broke"):
        write(breaks(), path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[int] = []

    def fill_up(folder: Path, needed_bytes: int, step: str) -> None:
        checks.append(needed_bytes)
        if len(checks) > 1:
            raise UserError("full", step, "free some", code="DISK")

    monkeypatch.setattr(paths, "require_disk", fill_up)
    monkeypatch.setattr("core.data.writer.CHECKED_BYTES", 1000)
    many = (Conversation(str(number), (Turn("user", "q" * 100), Turn("assistant", "a"))) for number in range(10**9))
    with pytest.raises(UserError, match="full"):
        write(many, tmp_path / "talks.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_and_a_missing_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the endings"):
        write([], tmp_path / "talks.csv")
    with pytest.raises(UserError, match="no folder"):
        write([], tmp_path / "nowhere" / "talks.json")

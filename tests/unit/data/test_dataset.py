"""Imported data stays byte for byte, opens row by row, and splits without leaking."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import paths
from core.conversation import Conversation, Turn
from core.data import dataset as datasets
from core.data.dataset import BATCH_ROWS, import_dataset, list_datasets, open_dataset
from core.errors import UserError
from tests.unit.data.files import dump, record, talk

BROKEN = [record(0), talk(("gpt", "Hi")), record(2), 7, talk(("system", "s"), ("human", "你好"), ("gpt", "😀"), id="chinese")]


def write(folder: Path, records: list[object], name: str = "talks.json") -> Path:
    (folder / name).write_text(dump(records), encoding="utf-8")
    return folder / name


def test_a_file_is_kept_byte_for_byte_with_its_rows_report_and_rejected_rows(workspace: Path, tmp_path: Path) -> None:
    source = write(tmp_path, BROKEN)
    progress: list[tuple[int, int]] = []
    dataset = import_dataset(source, on_progress=lambda done, total: progress.append((done, total)))
    assert dataset.id == "ds-" + paths.sha256_file(source)[:12]
    assert dataset.source.read_bytes() == source.read_bytes()
    assert (dataset.name, dataset.source.name, dataset.folder.parent) == ("talks", "source.json", workspace / "datasets")
    assert [conversation.id for conversation in dataset] == ["row_0", "row_2", "chinese"]
    assert dataset[2] == dataset[-1] == Conversation("chinese", (Turn("system", "s"), Turn("user", "你好"), Turn("assistant", "😀")))
    assert dataset.source_position(1) == (2, 1)
    assert [(row["row"], row["codes"]) for row in dataset.rejected()] == [(1, ["first-turn-assistant"]), (3, ["record-not-object"])]
    assert json.loads(next(dataset.rejected())["raw"]) == BROKEN[1]
    report = dataset.report()
    assert (report.num_rows, report.num_valid, report.num_rejected) == (5, 3, 2)
    assert progress[-1] == (source.stat().st_size, source.stat().st_size)


def test_the_same_bytes_are_one_dataset(workspace: Path, tmp_path: Path) -> None:
    first = import_dataset(write(tmp_path, BROKEN), name="First")
    again = import_dataset(write(tmp_path, BROKEN, "other.json"), name="Second")
    assert (again.id, again.name) == (first.id, "First")
    assert [dataset.id for dataset in list_datasets()] == [first.id]
    assert len(open_dataset(first.id)) == 3


def test_a_table_under_a_wrong_name_does_not_stand_in_for_it_under_the_right_one(workspace: Path, tmp_path: Path) -> None:
    for name in ("x.json", "x.csv"):
        (tmp_path / name).write_text("question,answer\nWho?,Me.\n", encoding="utf-8")
    wrong = import_dataset(tmp_path / "x.json")
    right = import_dataset(tmp_path / "x.csv")
    assert (len(wrong), len(right), right.source.name) == (0, 1, "source.csv")
    assert import_dataset(tmp_path / "x.csv").id == right.id != wrong.id


def test_a_damaged_manifest_hides_no_other_dataset_and_its_file_is_taken_in_anew(workspace: Path, tmp_path: Path) -> None:
    damaged, other = import_dataset(write(tmp_path, BROKEN)), import_dataset(write(tmp_path, BROKEN[:-1], "other.json"))
    (damaged.folder / "dataset.json").write_bytes(b'{"id": \x00')
    assert [dataset.id for dataset in list_datasets()] == [other.id]
    assert import_dataset(tmp_path / "talks.json").id == damaged.id and len(list_datasets()) == 2


def test_a_half_import_is_not_a_dataset(workspace: Path, tmp_path: Path) -> None:
    dataset = import_dataset(write(tmp_path, BROKEN))
    (dataset.folder / "dataset.json").unlink()
    assert list_datasets() == []
    assert len(import_dataset(tmp_path / "talks.json")) == 3


def test_long_rows_fill_a_batch_by_their_bytes(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [record(number, note="x" * (number % 5) * 1000) for number in range(40)]
    monkeypatch.setattr(datasets, "BATCH_BYTES", 4000)
    dataset = import_dataset(write(tmp_path, rows))
    assert dataset.batch_ends[:2] == [4, 5] and dataset.batch_ends[-1] == 40
    assert [dataset[number].id for number in range(40)] == [conversation.id for conversation in dataset] == [row["id"] for row in rows]
    assert [dataset.source_position(number)[0] for number in range(40)] == list(range(40))


def test_any_row_of_many_opens_and_the_index_is_checked(workspace: Path, tmp_path: Path) -> None:
    count = BATCH_ROWS * 2 + 5
    dataset = import_dataset(write(tmp_path, [record(number) for number in range(count)]))
    assert len(dataset) == count
    for number in (0, 1, BATCH_ROWS - 1, BATCH_ROWS, BATCH_ROWS * 2, count - 1):
        assert dataset[number].id == f"row_{number}"
    assert [conversation.id for conversation in dataset[2:5]] == ["row_2", "row_3", "row_4"]
    assert sum(1 for _ in dataset) == count
    for outside in (count, -count - 1):
        with pytest.raises(IndexError):
            dataset[outside]


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00rest"])
def test_a_file_that_is_no_text_is_refused_and_leaves_nothing(workspace: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(UserError):
        import_dataset(tmp_path / "data.json")
    assert list((workspace / "datasets").iterdir()) == []


def test_unknown_files_and_ids_are_user_errors(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        import_dataset(tmp_path / "nothing.json")
    for identifier in ("ds-000000000000", "../secret", ""):
        with pytest.raises(UserError, match="no dataset"):
            open_dataset(identifier)

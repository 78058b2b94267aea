"""A file whose layout nobody knows waits for a person to say what its columns mean, and is imported then."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core import paths
from core.data import imports
from core.data.dataset import open_dataset
from core.data.imports import ImportJob, ImportSource
from core.data.mapping import ColumnMapping
from core.errors import UserError

ROWS = [{"topic": "colours", "ask": "What colour is grass?", "reply": "Green."}, {"topic": "sky", "ask": "And the sky?", "reply": "Blue."}]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS)
MAPPING = ColumnMapping(question="ask", answer="reply", system="topic")


def ended(job_id: str) -> ImportJob:
    *_, last = imports.follow(job_id)
    return last


def source(kind: str, tmp_path: Path) -> ImportSource:
    if kind == "pasted":
        return ImportSource(kind="pasted", text=TEXT)
    (tmp_path / "rows.jsonl").write_text(TEXT, encoding="utf-8")
    return ImportSource.model_validate({"kind": kind, "path": str(tmp_path / "rows.jsonl")})


@pytest.mark.parametrize("kind", ["pasted", "upload", "path"])
def test_an_unknown_layout_is_imported_once_its_columns_are_named(kind: str, workspace: Path, tmp_path: Path) -> None:
    first = imports.start(source(kind, tmp_path))
    failed = ended(first)
    assert failed.state == "failed" and failed.error and failed.error["code"] == "LAYOUT"
    (file,) = imports.files_of(first)
    look = imports.look(file, MAPPING)
    assert [column.name for column in look.layout.columns] == ["topic", "ask", "reply"]
    assert [[message["content"] for message in row["messages"]] for row in look.rows] == [[*row.values()] for row in ROWS]
    done = ended(imports.again(first, MAPPING))
    assert done.state == "done" and done.dataset_id
    assert [[turn.content for turn in talk.turns] for talk in open_dataset(done.dataset_id)] == [[*row.values()] for row in ROWS]
    assert file.exists() == (kind == "path"), "our own copies are removed, a person's own file never"
    if kind != "path":
        with pytest.raises(UserError, match="not there any more"):
            imports.again(first, MAPPING)


def test_a_mapping_that_makes_no_conversation_is_refused_and_the_file_stays(workspace: Path, tmp_path: Path) -> None:
    first = imports.start(source("pasted", tmp_path))
    ended(first)
    with pytest.raises(UserError, match="question and answer"):
        imports.again(first, ColumnMapping(question="ask"))
    assert imports.files_of(first)[0].is_file()


def test_the_id_of_an_import_cannot_be_guessed_and_names_a_folder(workspace: Path, tmp_path: Path) -> None:
    ids = [imports.start(source("pasted", tmp_path)) for _ in range(2)]
    assert all(paths.ID_PATTERN.fullmatch(job_id) for job_id in ids)
    assert ids[0][-12:] != ids[1][-12:]
    for job_id in ids:
        ended(job_id)


def test_a_job_that_has_ended_can_be_forgotten_with_the_files_it_kept(workspace: Path, tmp_path: Path) -> None:
    first = imports.start(source("pasted", tmp_path))
    ended(first)
    imports.forget(first)
    assert list(imports.imports_dir().iterdir()) == []
    with pytest.raises(UserError, match="no import"):
        imports.forget(first)

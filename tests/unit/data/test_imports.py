"""An import is a process of its own: watched, cancelled, killed or taken up by another page, it leaves a whole dataset or none."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from core import paths
from core.data import imports
from core.data.dataset import MANIFEST, DatasetManifest, import_dataset, list_datasets, open_dataset, sweep, take_data
from core.data.import_child import explain
from core.data.imports import ImportJob, ImportSource
from core.data.mapping import ColumnMapping
from core.data.origin import Origin
from core.errors import UserError
from tests.unit.data.files import dump, record

AB = ColumnMapping(question="a", answer="b")
ROWS = 120_000  # of a file that is still being read while a busy machine looks at it


def finished(source: ImportSource) -> ImportJob:
    *_, job = imports.follow(imports.start(source))
    return job


def large(folder: Path) -> Path:
    """A file that takes seconds to read."""
    with (folder / "large.jsonl").open("w") as file:
        file.writelines(
            json.dumps({"instruction": f"Question {number}?" * 10, "output": f"Answer {number}."}) + "\n" for number in range(ROWS)
        )
    return folder / "large.jsonl"


def reading(job_id: str) -> ImportJob:
    """The job once rows are read."""
    return next(job for job in imports.follow(job_id, poll_s=0.02) if job.rows or job.is_terminal)


def child_of(job_id: str) -> Any:
    known = paths.read_json(imports.imports_dir() / job_id / "process.json")
    return psutil.Process(known["pid"])


def test_a_file_is_imported_with_everything_said_about_it(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "talks.csv").write_text("question,answer\nq,a\nr,b\nbroken\n")
    job = finished(ImportSource(kind="path", path=str(tmp_path / "talks.csv")))
    assert (job.state, job.rows, job.stage, job.error) == ("done", 3, "checking", None)
    assert job.done_bytes == job.total_bytes == (tmp_path / "talks.csv").stat().st_size
    assert job.dataset_id
    dataset = open_dataset(job.dataset_id)
    manifest = dataset.manifest
    assert (manifest.name, manifest.format, manifest.mapping) == ("talks", "question-answer", None)
    assert (manifest.num_rows, manifest.num_valid, manifest.num_rejected) == (3, 2, 1)
    assert manifest.origin == Origin(kind="path", file="talks.csv")
    assert "question" in manifest.why
    assert dataset.source.name == "source.csv"
    assert [row["raw"] for row in dataset.rejected()] == ["broken"]
    assert take_data(dataset.id).id == dataset.id
    assert imports.list_jobs() == [job]


def test_pasted_text_and_uploads_are_taken_and_our_copies_removed(workspace: Path, tmp_path: Path) -> None:
    job = finished(ImportSource(kind="pasted", text='{"prompt": "你好", "completion": "😀"}'))
    assert job.dataset_id
    dataset = open_dataset(job.dataset_id)
    assert (dataset[0].turns[1].content, dataset.name, dataset.manifest.origin.kind) == ("😀", "Pasted text", "pasted")
    assert "你好" not in (workspace / "imports" / job.job_id / "job.json").read_text()
    upload = tmp_path / "mine.json"
    upload.write_text(dump([record(1)]))
    assert finished(ImportSource(kind="upload", path=str(upload), name="My talks")).state == "done"
    assert not upload.exists()
    assert not list((workspace / "imports").rglob("pasted.txt"))
    assert {dataset.name for dataset in list_datasets()} == {"Pasted text", "My talks"}


def test_an_unknown_layout_is_said_and_the_upload_waits_for_its_mapping(workspace: Path, tmp_path: Path) -> None:
    upload = tmp_path / "mine.csv"
    upload.write_text("a,b\nq,r\n")
    job = finished(ImportSource(kind="upload", path=str(upload)))
    assert job.state == "failed" and job.error and job.error["code"] == "LAYOUT"
    assert '"a", "b"' in job.error["problem"]
    assert upload.exists() and list_datasets() == []
    job = finished(ImportSource(kind="upload", path=str(upload), mapping=AB))
    assert job.dataset_id
    assert open_dataset(job.dataset_id).manifest.mapping == AB
    assert len(open_dataset(job.dataset_id)) == 1


def test_the_same_bytes_by_the_same_mapping_are_one_dataset(workspace: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("a,b,question,answer\nx,y,q,r\n")
    plain = import_dataset(path)
    mapped = import_dataset(path, mapping=AB)
    assert plain.id != mapped.id
    assert import_dataset(path, mapping=AB).id == mapped.id
    assert import_dataset(path, mapping=plain_mapping()).id == plain.id
    assert (mapped[0].turns[0].content, plain[0].turns[0].content) == ("x", "q")


def plain_mapping() -> ColumnMapping:
    """What would be found out anyway."""
    return ColumnMapping(question="question", answer="answer")


def test_two_imports_of_the_same_bytes_at_once_make_one_dataset(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(dump([record(number) for number in range(2000)]))
    jobs = [imports.start(ImportSource(kind="path", path=str(tmp_path / "data.json"))) for _ in range(3)]
    ended = [list(imports.follow(job))[-1] for job in jobs]
    assert [job.state for job in ended] == ["done"] * 3
    assert len({job.dataset_id for job in ended}) == 1 == len(list_datasets())


def test_a_job_is_seen_from_anywhere_and_says_how_far_it_is(workspace: Path, tmp_path: Path) -> None:
    job_id = imports.start(ImportSource(kind="path", path=str(large(tmp_path))))
    seen = list(imports.follow(job_id, poll_s=0.02))
    assert next(job.state for job in seen if job.stage) == "running" and seen[-1].state == "done"
    midway = [job for job in seen if 0 < job.done_bytes < job.total_bytes and job.rows_per_s]
    assert midway and all(job.eta_s is not None and job.eta_s > 0 and job.rows_per_s for job in midway)
    assert [job.done_bytes for job in seen] == sorted(job.done_bytes for job in seen)
    assert seen[-1].rows == ROWS


def test_a_cancelled_import_stops_and_leaves_nothing(workspace: Path, tmp_path: Path) -> None:
    job_id = imports.start(ImportSource(kind="path", path=str(large(tmp_path))))
    assert reading(job_id).state == "running"
    child = child_of(job_id)
    assert imports.cancel(job_id).state == "cancelled"
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert list((workspace / "datasets").iterdir()) == []
    assert imports.cancel(job_id).state == "cancelled"
    assert (tmp_path / "large.jsonl").exists()


def test_a_job_cancelled_before_it_began_never_begins(workspace: Path, tmp_path: Path) -> None:
    job_id = imports.start(ImportSource(kind="path", path=str(large(tmp_path))))
    assert imports.cancel(job_id).state == "cancelled"
    assert list_datasets() == []


def test_a_killed_import_says_so_and_leaves_no_half_dataset(workspace: Path, tmp_path: Path) -> None:
    path = large(tmp_path)
    job_id = imports.start(ImportSource(kind="path", path=str(path)))
    assert reading(job_id).state == "running"
    assert list((workspace / "datasets").glob("*.partial"))
    child = child_of(job_id)
    child.kill()
    *_, job = imports.follow(job_id)
    assert job.state == "interrupted" and job.error and job.error["code"] == "KILLED"
    assert list((workspace / "datasets").iterdir()) == []
    again = finished(ImportSource(kind="path", path=str(path)))
    assert (again.state, again.rows) == ("done", ROWS)


def test_what_is_being_made_is_not_swept_away(workspace: Path, tmp_path: Path) -> None:
    job_id = imports.start(ImportSource(kind="path", path=str(large(tmp_path))))
    reading(job_id)
    sweep()
    assert list((workspace / "datasets").glob("*.partial"))
    *_, job = imports.follow(job_id)
    assert job.state == "done"


def test_the_child_has_no_secret_and_no_name_of_the_file_in_its_arguments(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_CANARYcanaryCANARYcanary")
    job_id = imports.start(ImportSource(kind="path", path=str(large(tmp_path))))
    reading(job_id)
    child = child_of(job_id)
    assert "CANARY" not in json.dumps(child.environ()) + json.dumps(child.cmdline())
    assert "large.jsonl" not in json.dumps(child.cmdline())
    assert os.getsid(child.pid) == child.pid  # it outlives the process that started it
    imports.cancel(job_id)


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08\x00rest", b"PAR1" + b"x" * 50])
def test_a_file_that_is_no_data_fails_in_words(workspace: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.parquet").write_bytes(content)
    job = finished(ImportSource(kind="path", path=str(tmp_path / "data.parquet")))
    assert job.state == "failed" and job.error and job.error["remedy"]
    assert list_datasets() == [] and list((workspace / "datasets").iterdir()) == []


def test_what_cannot_be_started_is_refused_at_once(workspace: Path, tmp_path: Path) -> None:
    for source in (
        ImportSource(kind="path", path=str(tmp_path / "nothing.json")),
        ImportSource(kind="pasted", text="  \n"),
        ImportSource(kind="hub"),
    ):
        with pytest.raises(UserError):
            imports.start(source)
    assert not (workspace / "imports").exists()
    for job_id in ("im-nothing", "../runs"):
        with pytest.raises(UserError, match="no import"):
            imports.load(job_id)


def test_old_jobs_are_forgotten_and_living_ones_kept(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "KEPT_JOBS", 2)
    (tmp_path / "data.json").write_text(dump([record(1)]))
    made = [finished(ImportSource(kind="path", path=str(tmp_path / "data.json"))).job_id for _ in range(4)]
    assert [job.job_id for job in imports.list_jobs()] == made[:0:-1]


def test_a_look_shows_layout_and_rows_without_an_import(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b\nq,r\n")
    shown = imports.look(tmp_path / "data.csv")
    assert (shown.layout.kind, shown.layout.mapping) == ("unknown", AB)
    shown = imports.look(tmp_path / "data.csv", AB)
    assert [turn["content"] for turn in shown.rows[0]["messages"]] == ["q", "r"]
    assert not (workspace / "datasets").exists()
    with pytest.raises(UserError):
        imports.look(tmp_path / "nothing.csv")


def test_a_path_of_this_machine_is_a_data_file_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.json").write_text("[]")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "link.json").symlink_to(tmp_path / "secret")
    (tmp_path / "folder.json").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    assert imports.local_file(f"'{tmp_path}/data.json' ") == tmp_path / "data.json"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert imports.local_file("~/data.json") == tmp_path / "data.json"
    for name in ("secret", "link.json", "folder.json", "pipe.json", "nothing.json", "", "data.json\0"):
        with pytest.raises(UserError):
            imports.local_file(f"{tmp_path}/{name}")
    with pytest.raises(UserError):
        imports.local_file("/proc/self/environ")


def test_a_manifest_of_an_earlier_version_still_loads(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(dump([record(1)]))
    dataset = import_dataset(tmp_path / "data.json")
    fields = paths.read_json(dataset.folder / MANIFEST)
    for name in ("format", "why", "mapping", "origin", "parent", "made_by"):
        fields.pop(name)
    assert DatasetManifest.model_validate(fields).format == "vicuna"


def test_sigterm_to_the_child_is_a_cancellation(workspace: Path, tmp_path: Path) -> None:
    job_id = imports.start(ImportSource(kind="path", path=str(large(tmp_path))))
    reading(job_id)
    os.kill(child_of(job_id).pid, signal.SIGTERM)
    *_, job = imports.follow(job_id)
    assert job.state == "cancelled"
    assert list((workspace / "datasets").iterdir()) == []


def test_a_full_disk_a_lost_file_and_too_little_memory_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    codes = [
        explain(error, "data.json").code
        for error in (
            OSError(errno.ENOSPC, "full"),
            MemoryError(),
            PermissionError(13, "no", "/x/data.json"),
            UserError("p", "w", "r", "C"),
        )
    ]
    assert codes == ["DISK", "OOM", "", "C"]
    assert capsys.readouterr().err == ""
    assert explain(KeyError("x"), "data.json").code == "BUG"
    assert "KeyError" in capsys.readouterr().err

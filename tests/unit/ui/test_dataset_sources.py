"""Every way a dataset comes in: as a job that is followed, stopped, found again after a reload, and asked about when nobody knows its layout."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.data import imports
from core.data.dataset import list_datasets, open_dataset
from core.data.imports import ImportJob, ImportSource
from core.errors import UserError
from core.paths import EXAMPLES
from tests.unit.ui.dataset_page import SETTINGS, call, talk, visible
from ui import (
    background,
    dataset_data,
    dataset_handlers,
    dataset_mapping,
    dataset_origin,
    dataset_sources,
    import_view,
    limits,
    upload_shares,
)
from ui.access import Caller
from ui.shell import NO_ID

VISITOR = Caller("a visitor", "public")
ELSEWHERE = Caller("kim", "owner", token="hf_x")
EVIL = "<script>alert(1)</script>"
ODD = "".join(json.dumps({"topic": EVIL, "ask": f"What is {number}?", "reply": "A number."}) + "\n" for number in range(30))


@pytest.fixture(autouse=True)
def own_workspace(workspace: Path) -> None:
    pass


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setattr(dataset_data, "get_upload_folder", lambda: str(folder))
    monkeypatch.setattr(upload_shares, "_whose", {})
    return folder


def as_caller(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    monkeypatch.setattr("ui.access.identify", lambda *_: caller)


def followed(began: dict[str, Any]) -> dict[str, Any]:
    """What the page shows in the end of an import that began so."""
    assert began["import_timer"].active and began["stop"].visible
    list(imports.follow(began["import_id"]))
    return call(dataset_sources.look_after, began["import_id"], *SETTINGS)


def test_an_upload_becomes_a_dataset_and_leaves_nothing_behind(uploads: Path) -> None:
    upload = uploads / "talks.json"
    upload.write_bytes((EXAMPLES / "identity.json").read_bytes())
    shown = followed(call(dataset_sources.take_upload, str(upload)))
    assert open_dataset(shown["dataset_id"]).name == "talks" and not upload.exists()
    assert shown["import_id"] == NO_ID and not shown["import_timer"].active and not shown["stop"].visible
    assert "talks.json, uploaded. Read as Vicuna (ShareGPT): All " in visible(shown["origin"])


def test_only_an_upload_is_opened(uploads: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="no uploaded file"):
        call(dataset_sources.take_upload, str(tmp_path / "elsewhere.json"))
    assert (tmp_path / "elsewhere.json").exists()


def test_a_visitors_upload_that_is_too_large_is_refused_and_removed(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_caller(monkeypatch, VISITOR)
    upload = uploads / "large.json"
    upload.write_bytes(b" " * (limits.VISITOR_BYTES + 1))
    upload_shares.end(0, VISITOR, [upload])
    with pytest.raises(UserError, match="up to 5"):
        call(dataset_sources.take_upload, str(upload))
    assert not upload.exists()


@pytest.mark.parametrize("sender", [Caller("kim", "owner"), Caller("mira", "signed_in"), Caller("", "public", address="9.9.9.9"), None])
def test_nobody_elses_upload_is_opened_or_removed(sender: Caller | None, uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None: nobody knows whose it is, since the page was started again."""
    upload = uploads / "private.json"
    upload.write_text("[]", encoding="utf-8")
    if sender:
        upload_shares.end(0, sender, [upload])
    for stranger in (VISITOR, Caller("mallory", "signed_in", address="8.8.8.8")):
        as_caller(monkeypatch, stranger)
        for handler, given in ((dataset_sources.take_upload, str(upload)), (dataset_handlers.validate_dataset, {"path": str(upload)})):
            with pytest.raises(UserError, match="no uploaded file"):
                call(handler, given)
    assert upload.exists()


def test_who_logs_in_with_the_call_alone_is_known_by_the_address_of_the_upload(uploads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = uploads / "mine.json"
    upload.write_bytes((EXAMPLES / "identity.json").read_bytes())
    upload_shares.end(0, Caller("a visitor", "public", address="8.8.8.8"), [upload])
    as_caller(monkeypatch, Caller("mira", "signed_in", address="8.8.8.8"))
    assert call(dataset_handlers.validate_dataset, {"path": str(upload)})["num_valid"] > 0


def test_pasted_text_becomes_a_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = followed(call(dataset_sources.take_text, json.dumps([talk("Hé?", "☃")])))
    assert open_dataset(shown["dataset_id"])[0].turns[1].content == "☃"
    assert "pasted" in visible(shown["origin"])
    with pytest.raises(UserError, match="no text"):
        call(dataset_sources.take_text, "  ")


@pytest.mark.parametrize("pasted", [None, "你" * (dataset_sources.MAX_PASTED_BYTES // 3 + 1)])
def test_pasted_text_that_no_request_may_carry_is_refused_in_words(pasted: str | None) -> None:
    assert dataset_sources.MAX_PASTED_BYTES < limits.MAX_OTHER_BYTES and str(dataset_sources.MAX_PASTED_BYTES) in dataset_sources.FITS
    with pytest.raises(UserError, match=r"longer than the 7\.5 MB"):
        call(dataset_sources.take_text, pasted)
    assert imports.list_jobs() == []


def test_a_file_of_this_machine_is_taken_by_its_path_from_here_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.csv"
    path.write_text('question,answer\n"What, now?",Yes\n', encoding="utf-8")
    shown = followed(call(dataset_sources.take_path, f" {path} "))
    assert open_dataset(shown["dataset_id"])[0].turns[0].content == "What, now?" and path.exists()
    with pytest.raises(UserError, match="no data file"):
        call(dataset_sources.take_path, "/etc/passwd")
    as_caller(monkeypatch, ELSEWHERE)
    with pytest.raises(UserError, match="not taken by their path"):
        call(dataset_sources.take_path, str(path))


@pytest.mark.parametrize("handler", [dataset_sources.take_path, dataset_sources.take_hub])
def test_a_visitor_names_no_path_and_no_hub_dataset(handler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    as_caller(monkeypatch, VISITOR)
    with pytest.raises(UserError, match="only"):
        call(handler, *(["x"] if handler is dataset_sources.take_path else ["a/b", "", "", ""]))


def test_a_hub_dataset_is_fetched_with_the_callers_own_token(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[tuple[ImportSource, str | None]] = []

    def start(source: ImportSource, token: str | None = None) -> str:
        began.append((source, token))
        return start_text(source)

    start_text = lambda _: imports_start(ImportSource(kind="pasted", text=json.dumps([talk("a", "b")])))
    imports_start = imports.start
    monkeypatch.setattr(imports, "start", start)
    as_caller(monkeypatch, ELSEWHERE)
    call(dataset_sources.take_hub, " me/data ", "", " train", "")
    ((source, token),) = began
    assert source.hub and (source.hub.repo_id, source.hub.config, source.hub.split, source.hub.revision) == ("me/data", None, "train", None)
    assert token == "hf_x"


@pytest.mark.parametrize("repo", ["", "a b", "../x", "http://evil.example/x"])
def test_what_is_no_dataset_id_is_refused_before_anything_is_fetched(repo: str) -> None:
    with pytest.raises(UserError, match="no dataset id"):
        call(dataset_sources.take_hub, repo, "", "", "")


def test_an_unknown_layout_asks_for_its_columns_and_shows_the_rows(uploads: Path) -> None:
    upload = uploads / "odd.jsonl"
    upload.write_text(ODD, encoding="utf-8")
    asked = followed(call(dataset_sources.take_upload, str(upload)))
    assert asked["mapping"].visible and "dataset_id" not in asked and "import_id" not in asked
    assert "which columns hold the question and the answer?" in asked["asked"] and EVIL not in asked["columns"]
    assert {value for _, value in asked["map question"].choices} == {"", "topic", "ask", "reply"}
    import_id = next(job.job_id for job in imports.list_jobs())
    shown = call(dataset_mapping.show, import_id, kind="pair", question="ask", answer="reply", has_header=True)
    assert "What is 0?" in shown["map_preview"] and shown["map_use"].interactive
    incomplete = call(dataset_mapping.show, import_id, kind="pair", question="ask", answer="", has_header=True)
    assert not incomplete["map_use"].interactive and "Choose the columns" in incomplete["map_preview"]
    lists = call(dataset_mapping.show, import_id, kind="turns", question="ask", answer="reply", turns="topic", has_header=True)
    assert lists["turns fields"].visible and not lists["pair fields"].visible
    assert not lists["map_use"].interactive and EVIL not in lists["map_preview"], "text is no list of messages"
    began = call(dataset_mapping.use, import_id, kind="pair", question="ask", answer="reply", system="topic", has_header=True)
    done = followed(began)
    assert open_dataset(done["dataset_id"])[3].turns[0].content == EVIL
    assert "You chose question from" in visible(done["origin"])


def test_the_columns_of_an_open_dataset_can_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "talks.csv").write_text("question,answer,hint\nWho?,Me.,Think.\n", encoding="utf-8")
    opened = followed(call(dataset_sources.take_path, str(tmp_path / "talks.csv")))
    (tmp_path / "talks.csv").unlink()
    assert opened["map_columns"].visible
    asked = call(dataset_origin.map_columns, opened["dataset_id"])
    assert asked["mapping"].visible and asked["map question"].value == "question"
    assert call(dataset_sources.look_after, asked["import_id"], *SETTINGS)["mapping"].visible, "after a reload too"
    done = followed(call(dataset_mapping.use, asked["import_id"], kind="pair", question="question", answer="hint", has_header=True))
    mapped, before = open_dataset(done["dataset_id"]), open_dataset(opened["dataset_id"])
    assert [turn.content for turn in mapped[0].turns] == ["Who?", "Think."] and [turn.content for turn in before[0].turns] == [
        "Who?",
        "Me.",
    ]
    assert (mapped.name, mapped.manifest.origin) == (before.name, before.manifest.origin) and before.source.is_file()
    call(dataset_mapping.leave, call(dataset_origin.map_columns, opened["dataset_id"])["import_id"])
    assert before.source.is_file()
    vicuna = followed(call(dataset_sources.take_text, json.dumps([talk("a", "b")])))
    assert not vicuna["map_columns"].visible


def test_a_csv_without_names_for_its_columns_gets_numbers(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("Ho,Hi\nHa,He\nHu,Hy\n", encoding="utf-8")
    began = call(dataset_sources.take_path, str(tmp_path / "plain.csv"))
    list(imports.follow(began["import_id"]))
    shown = call(dataset_mapping.name_columns, began["import_id"], False)
    assert [value for _, value in shown["map question"].choices] == ["", "1", "2"]
    done = followed(call(dataset_mapping.use, began["import_id"], kind="pair", question="1", answer="2", has_header=False))
    assert [talk.turns[0].content for talk in open_dataset(done["dataset_id"])] == ["Ho", "Ha", "Hu"]


def test_a_file_that_is_left_is_forgotten() -> None:
    began = call(dataset_sources.take_text, ODD)
    list(imports.follow(began["import_id"]))
    shown = call(dataset_mapping.leave, began["import_id"])
    assert shown["import_id"] == NO_ID and not shown["mapping"].visible and imports.list_jobs() == []


def test_a_reload_finds_the_import_and_what_became_of_it() -> None:
    began = call(dataset_sources.take_text, json.dumps([talk("a", "b")]))
    running = call(dataset_sources.reopen, "", began["import_id"], *SETTINGS)
    assert running["import_timer"].active or running["dataset_id"]
    list(imports.follow(began["import_id"]))
    done = call(dataset_sources.reopen, "", began["import_id"], *SETTINGS)
    assert open_dataset(done["dataset_id"]).name == "Pasted text" and done["import_id"] == NO_ID
    odd = call(dataset_sources.take_text, ODD)
    list(imports.follow(odd["import_id"]))
    asked = call(dataset_sources.reopen, done["dataset_id"], odd["import_id"], *SETTINGS)
    assert asked["mapping"].visible and asked["dataset_id"] == done["dataset_id"]


@pytest.mark.parametrize("import_id", ["im-gone", "../x", "x" * 500])
def test_a_reload_with_an_import_that_is_gone_begins_anew(import_id: str) -> None:
    shown = call(dataset_sources.reopen, "ds-gone", import_id, *SETTINGS)
    assert shown["import_id"] == NO_ID and shown["dataset_id"] == "" and "Choose the conversations" in shown["sentence"]
    assert call(dataset_sources.offer_paths).visible, "at this machine files are taken by their path"


def test_an_import_is_stopped_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    line = json.dumps(talk("Why? " * 50, "Because. " * 50)) + "\n"
    path.write_text(line * 200_000, encoding="utf-8")
    began = call(dataset_sources.take_path, str(path))
    deadline = time.monotonic() + 60
    while imports.load(began["import_id"]).state == "queued" and time.monotonic() < deadline:
        time.sleep(0.02)
    shown = call(dataset_sources.stop, began["import_id"])
    assert "was stopped" in shown["import_said"] and shown["import_id"] == NO_ID and list_datasets() == []


def test_a_file_that_is_no_text_says_why(uploads: Path) -> None:
    upload = uploads / "data.json"
    upload.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    shown = followed(call(dataset_sources.take_upload, str(upload)))
    assert 'role="alert"' in shown["import_said"] and "/" not in visible(shown["import_said"]).replace("What to do", "")
    assert shown["import_id"] == NO_ID and list_datasets() == []


def test_progress_says_rows_bytes_speed_and_what_is_left() -> None:
    job = ImportJob(
        job_id="im-x", kind="upload", name=EVIL, state="running", stage="checking", done_bytes=50_000_000, total_bytes=100_000_000,
        rows=1000, rows_per_s=500.4, eta_s=12.0,
    )  # fmt: skip
    shown = import_view.progress(job)
    assert "50.0 MB of 100.0 MB, 1,000 rows, 500 rows per second, about 12 s left" in visible(shown) and "<script" not in shown
    assert 'aria-valuenow="50"' in shown
    fetching = job.model_copy(update={"stage": "fetching", "rows": 0, "rows_per_s": None})
    assert "fetched 50.0 MB of 100.0 MB, about" in visible(import_view.progress(fetching))


def test_work_nobody_waits_for_ends_only_if_it_may() -> None:
    for may_be_abandoned in (True, False):
        is_left, is_over, steps = threading.Event(), threading.Event(), list[int]()

        def work(tell: Any, is_left: Any = is_left, is_over: Any = is_over, steps: list[int] = steps) -> None:
            try:
                assert is_left.wait(60)
                for step in range(100):
                    tell(step, 100)
                    steps.append(step)
            finally:
                is_over.set()

        watched = background.watch(work, patience_s=0.01, may_be_abandoned=may_be_abandoned)
        assert not next(watched).is_finished
        watched.close()
        is_left.set()
        assert is_over.wait(60)
        assert len(steps) == (0 if may_be_abandoned else 100)

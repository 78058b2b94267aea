"""A fault in a JSON list costs its own row, whatever the rows look like, and time that grows with the file and not with its square."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.data import scan, values
from core.data.validate import Report, validate
from tests.unit.data.files import dump, record


def judged(path: Path, text: str, encoding: str = "utf-8") -> Report:
    path.write_text(text, encoding=encoding)
    report = validate(path)
    assert report.num_rows == report.num_valid + report.num_rejected
    return report


def alpaca(count: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {n} {{x}}.", "input": "", "output": f"[{n}], said."} for n in range(count)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("fault", ["no quote", "no brace", "not a number"])
@pytest.mark.parametrize("chunk_bytes", [200, 1 << 20])
def test_a_fault_among_rows_without_conversations_costs_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None, fault: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr("core.data.source.CHUNK_BYTES", chunk_bytes)
    rows = alpaca(40)
    if fault == "not a number":
        rows[20]["score"] = float("nan")
    text = json.dumps(rows, indent=indent)
    at = text.index("Say 20 ") - 1 if fault == "no quote" else text.index("}", text.index("[20], said"))
    if fault != "not a number":
        text = text[:at] + text[at + 1 :]
    report = judged(tmp_path / "data.json", text)
    assert (report.num_rows, [issue.row for issue in report.issues if issue.severity == "error"]) == (40, [20])


@pytest.mark.parametrize("indent", [None, 2])
def test_rows_that_hold_objects_like_themselves_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None) -> None:
    def row(number: int, children: int) -> dict[str, Any]:
        return {"question": f"q{number}", "answer": "a", "replies": [row(each, 0) for each in range(children)]}

    monkeypatch.setattr(values, "PATIENCE_BYTES", 64)
    report = judged(tmp_path / "data.json", json.dumps([row(number, number % 4) for number in range(60)], indent=indent))
    assert (report.num_rows, report.num_valid) == (60, 60)


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": "x", "conversations": [' + ",".join(['{"id": 0}'] * 4000) + "]}]",
        "[" + '{"id": 1, "x": [0, ' * 4000,
        '[{"id": 1, "x": [' + ",".join(['{"id": {"y": [0, {"id": 2}]}}'] * 400) + "]}]",
    ],
    ids=["beside each other", "in each other", "both"],
)
def test_objects_that_begin_as_records_do_are_scanned_a_bounded_number_of_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    scanned: list[int] = []
    find_end = scan.find_end

    def counting(data: bytes, start: int, *rest: Any, **options: Any) -> scan.End:
        end = find_end(data, start, *rest, **options)
        scanned.append(end.at - start)
        return end

    for module in (scan, values):
        monkeypatch.setattr(module, "find_end", counting)
    judged(tmp_path / "data.json", text)
    assert len(text) <= sum(scanned) < 100 * len(text)


def test_wrapped_lists_one_after_the_other_are_all_read(tmp_path: Path) -> None:
    users = [{"user": "a", "chats": [record(2 * n), record(2 * n + 1)], "age": n, "more": {"x": [n]}} for n in range(5)]
    report = judged(tmp_path / "data.jsonl", "\n".join(map(dump, users)) + "\n")
    assert (report.num_rows, report.num_valid) == (10, 10)
    assert report.counts == {"content-after-list": 1, "object-not-list": 1}


def test_a_second_list_behind_other_members_is_read(tmp_path: Path) -> None:
    report = judged(tmp_path / "data.json", dump({"v": 1, "data": [record(1)], "n": 2, "kind": "x", "more": [record(2)], "done": True}))
    assert (report.num_rows, report.counts) == (2, {"object-not-list": 1})


@pytest.mark.parametrize("encoding", ["utf-16", "gb18030", "utf-8"])
def test_a_record_beyond_the_limit_may_end_inside_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    monkeypatch.setattr(values, "MAX_RECORD_BYTES", 1 << 14)
    monkeypatch.setattr("core.data.source.CHUNK_BYTES", 4096)
    for before in range(3):
        long = {"id": "x" * before, "conversations": [{"from": "human", "value": "你好" * 60_000}]}
        text = "[" + ",".join(json.dumps(each, ensure_ascii=False) for each in (record(0), long, record(1))) + "]"
        report = judged(tmp_path / "data.json", text, encoding)
        assert (report.num_rows, report.counts["record-too-long"]) == (3, 1)

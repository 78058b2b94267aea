"""Files as other programs leave them, made here and not kept: each is named for what it is, and what can be read of it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.data.validate import Report, validate
from tests.unit.data.files import dump, found, record, talk

RECORDS = [record(0), talk(("human", "天空是什么颜色？"), ("gpt", "天空是蓝色的。"), id="sky"), record(1)]
LINES = "".join(dump(each) + "\n" for each in RECORDS)


# name: (bytes of the file, everything that is found, rows that can be trained)
FILES: dict[str, tuple[bytes, dict[str, int], int]] = {
    "UTF-8": (LINES.encode(), {}, 3),
    "UTF-8 with a byte order mark": (LINES.encode("utf-8-sig"), {"byte-order-mark": 1}, 3),
    "UTF-16": (LINES.encode("utf-16"), {"byte-order-mark": 1, "not-utf-8": 1}, 3),
    "UTF-16 without a mark": (LINES.encode("utf-16-be"), {"not-utf-8": 1}, 3),
    "UTF-32": (LINES.encode("utf-32"), {"byte-order-mark": 1, "not-utf-8": 1}, 3),
    "GB18030": (LINES.encode("gb18030"), {"not-utf-8": 1}, 3),
    "CRLF": (LINES.replace("\n", "\r\n").encode(), {"crlf-line-ends": 1}, 3),
    "CRLF, UTF-16": (LINES.replace("\n", "\r\n").encode("utf-16"), {"byte-order-mark": 1, "not-utf-8": 1, "crlf-line-ends": 1}, 3),
    "cut in a record": (LINES.encode()[:-20], {"truncated-file": 1}, 2),
    "cut in a character": (LINES.encode()[: LINES.encode().index("蓝".encode()) + 1], {"truncated-file": 1}, 1),
    "a list that is cut in a character": (
        dump(RECORDS).encode()[: dump(RECORDS).encode().index("蓝".encode()) + 1],
        {"truncated-file": 1},
        1,
    ),
    "a list that is cut": (dump(RECORDS).encode()[:-20], {"truncated-file": 1}, 2),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is_and_what_is_whole_is_read(name: str, tmp_path: Path) -> None:
    content, codes, num_valid = FILES[name]
    report = on_disk(tmp_path, content)
    assert (report.counts, report.num_valid) == (codes, num_valid)
    assert report.num_rows == report.num_valid + report.num_rejected


def test_the_encoding_is_said_by_its_name(tmp_path: Path) -> None:
    for name, said in (("UTF-16", "UTF-16"), ("GB18030", "GB18030"), ("UTF-32", "UTF-32")):
        (issue,) = [issue for issue in on_disk(tmp_path, FILES[name][0]).issues if issue.code == "not-utf-8"]
        assert said in issue.problem


def test_an_evaluation_split_that_is_empty_or_leaks_is_named_whatever_its_encoding(tmp_path: Path) -> None:
    data, other = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    data.write_bytes(LINES.encode())
    for nothing in (b"", b"[]", b"\n", (dump(talk(("human", "And?"))) + "\n").encode()):
        other.write_bytes(nothing)
        assert found(validate(data, eval_path=other), None) == [("eval-empty", None)]
    for encoding in ("utf-8", "utf-16", "gb18030"):
        other.write_bytes((dump(record(7)) + "\n" + dump(RECORDS[1]) + "\n").encode(encoding))
        leaked = validate(data, eval_path=other)
        assert leaked.counts == {"eval-leak": 1} and found(leaked, 1) == [("eval-leak", None)]
        assert "row 1" in leaked.issues[0].problem


def on_disk(folder: Path, content: bytes) -> Report:
    (folder / "data.jsonl").write_bytes(content)
    return validate(folder / "data.jsonl")

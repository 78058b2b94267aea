"""Broken files of every encoding: each fault at its row, line and byte, and no bytes that leave a row unaccounted."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.data import batch, source
from core.data.parse import _text_depth
from core.data.reader import read_records
from core.data.validate import validate
from core.paths import EXAMPLES
from tests.unit.data.files import Written, dump, talk, write_lines, write_list
from tests.unit.data.test_reader import FAULTS, UNRECOGNISABLE

ENCODINGS = {
    "utf-8": ("utf-8", b""),
    "utf-8 with mark": ("utf-8", b"\xef\xbb\xbf"),
    "utf-16-le": ("utf-16-le", b"\xff\xfe"),
    "utf-16-be": ("utf-16-be", b"\xfe\xff"),
    "utf-16-le without mark": ("utf-16-le", b""),
    "utf-32-le": ("utf-32-le", b"\xff\xfe\0\0"),
    "gb18030": ("gb18030", b""),
}
LAYOUTS = ["compact list", "one a line", "indented list", "jsonl"]
FOLLOWING = ("same-role-twice", "extra-key")  # what a planted fault brings with it


def chinese(number: int) -> dict[str, Any]:
    """A good record with text by which its encoding can be told."""
    return talk(
        ("human", f"Question {number}? 你叫什么名字？请告诉我。"), ("gpt", f"Answer {number}. 我叫小明，很高兴认识你。"), id=f"row_{number}"
    )


def write(layout: str, folder: Path, records: list[str], end: str, encoding: str) -> Written:
    named, mark = ENCODINGS[encoding]
    if layout == "jsonl":
        return write_lines(folder / "data.jsonl", records, end, named, mark)
    if layout == "indented list":
        records = [each.replace("{", "{" + end + "    ").replace('", "', '",' + end + '    "') for each in records]
    return write_list(folder / "data.json", records, ", " if layout == "compact list" else "," + end, named, mark)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_planted_faults_are_found_in_their_place_in_every_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    layout, encoding = data.draw(st.sampled_from(LAYOUTS)), data.draw(st.sampled_from(sorted(ENCODINGS)))
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    monkeypatch.setattr(source, "CHUNK_BYTES", data.draw(st.sampled_from([64, 1000, 1 << 20])))
    monkeypatch.setattr(batch, "BATCH_BYTES", data.draw(st.sampled_from([0, 700, 1 << 16])))
    chosen = data.draw(st.lists(st.sampled_from([None, None, None, *FAULTS]), min_size=3, max_size=20))
    for row in range(1, len(chosen)):
        if chosen[row] in UNRECOGNISABLE[layout] and chosen[row - 1]:
            chosen[row] = None
    records = [dump(chinese(number)) for number in range(len(chosen))]
    planted = [FAULTS[fault][0](text) if fault else text for fault, text in zip(chosen, records, strict=True)]
    written = write(layout, tmp_path, [*planted, dump(chinese(99))], end, encoding)
    report = validate(written.path)
    hurt = {row for row, fault in enumerate(chosen) if fault}
    found = [
        (issue.row, issue.line, issue.byte, issue.code)
        for issue in report.issues
        if issue.row is not None and (issue.row not in hurt or issue.code not in FOLLOWING)
    ]
    assert found == [(row, *written.places[row], FAULTS[fault][1]) for row, fault in enumerate(chosen) if fault]
    assert report.num_rows == len(records) + 1 == report.num_valid + report.num_rejected
    of_the_file = {issue.code for issue in report.issues if issue.row is None}
    if "no conversations" in chosen:
        of_the_file.discard("unknown-layout")  # where most rows that can be read have it
    assert of_the_file == {code for code, is_there in whole_file(encoding, end, layout).items() if is_there}


def whole_file(encoding: str, end: str, layout: str) -> dict[str, bool]:
    name, mark = ENCODINGS[encoding]
    return {"byte-order-mark": bool(mark), "not-utf-8": name != "utf-8", "crlf-line-ends": end == "\r\n" and layout != "compact list"}


PIECES = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\n", b"\r", b"\0", b"\xff", b"\xc2\x85", b"\\u0000", b"\\ud800", b"</s>", b"NaN", b"1e999",
          b"\x1f\x8b", b"PK\x03\x04", b"\x80\x04", b"[" * 70, "你".encode("gb18030"), "😀".encode("utf-16-le")]  # fmt: skip


@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_mutated_files_lose_no_row_and_point_into_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    """Seeded edits of real records, in lists and in lines; what stays readable is read the same whatever the pieces the file comes in."""
    dice = random.Random(encoding)
    text = (EXAMPLES / "identity.json").read_text(encoding="utf-8")[:6_000] + dump(chinese(1)) + "]"
    lines = "".join(dump(chinese(number)) + "\n" for number in range(40))
    named, mark = ENCODINGS[encoding]
    for round_number in range(100):
        content = bytearray(mark + (text, lines, lines.replace("\n", "\r\n"))[round_number % 3].encode(named))
        for _ in range(dice.randint(1, 5)):
            at, length = dice.randrange(len(content)), dice.choice([0, 0, 1, 1, 2, 3, 40, 400])
            content[at : at + length] = dice.choice([b"", dice.choice(PIECES), dice.randbytes(3), content[at : at + length] * 2])
        path = tmp_path / "data.json"
        path.write_bytes(bytes(content[: dice.choice([len(content), dice.randrange(1, len(content))])]))
        whole = list(read_records(path))
        report = validate(path)
        assert report.num_rows == len(whole) == report.num_valid + report.num_rejected
        assert report.num_rows or report.counts
        assert report.num_rejected == len({issue.row for issue in report.issues if issue.severity == "error" and issue.row is not None})
        assert [each.row for each in whole] == list(range(len(whole)))
        assert all(a.byte < b.byte and a.line <= b.line for a, b in pairwise(whole))
        assert all(0 <= each.byte < path.stat().st_size for each in whole)
        with monkeypatch.context() as small:
            small.setattr(batch, "BATCH_BYTES", 300)
            assert list(read_records(path)) == whole


@pytest.mark.parametrize("fault", ["deep lists", "deep objects", "half deep", "quotes"])
def test_a_hostile_record_is_refused_in_linear_time(tmp_path: Path, fault: str) -> None:
    hostile = {"deep lists": "[" * 300_000, "deep objects": '{"a":' * 100_000, "half deep": "[1," * 100_000, "quotes": '"' * 300_001}[fault]
    (tmp_path / "data.jsonl").write_text(dump(chinese(0)) + "\n" + hostile + "\n" + dump(chinese(2)) + "\n", encoding="utf-8")
    report = validate(tmp_path / "data.jsonl")
    assert (report.num_rows, report.num_valid) == (3, 2)


@pytest.mark.parametrize(
    ("raw", "depth"),
    [(b"", 0), (b"[]", 1), (b'{"a": [1]}', 2), (b'"[[["', 0), (b"[[[", 3), (b"]][", 0), (b'["]", [', 2), (b"[" * 200_000 + b"]" * 200_000, 200_000),
     (b"[]" * 70_000 + b"[[", 2)],
)  # fmt: skip
def test_the_depth_of_a_text_counts_brackets_outside_of_strings(raw: bytes, depth: int) -> None:
    assert _text_depth(raw) == depth

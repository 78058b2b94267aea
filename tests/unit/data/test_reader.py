"""The reader finds every record with its exact row, line and byte, whatever stands between or inside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.data import reader, source, values
from core.data.reader import read_records
from core.data.rules import RULES
from core.data.validate import validate
from tests.unit.data.files import Written, dump, record, talk, write_lines, write_list

per_file = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

# --- well-formed files: against a file written by hand ---------------------------------------------------------------------------

plain_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30)
braces = st.sampled_from(['{"id": "x"}', "}, {", "]", "[", '"', "\\", '\\"', "},\n  {", '{"id":', "</p>", "你好", "😀", "null"])
texts = st.lists(plain_text | braces, min_size=1, max_size=4).map("".join)


@st.composite
def good_records(draw: st.DrawFn) -> list[str]:
    """The texts of some good records, each as its own writer might have written it."""
    written: list[str] = []
    for number in range(draw(st.integers(1, 6))):
        pairs = draw(st.lists(st.tuples(texts, texts), min_size=1, max_size=3))
        turns = [turn for question, answer in pairs for turn in (("human", "Q" + question), ("gpt", "A" + answer))]
        value = talk(*turns, id=f"row_{number}")
        if draw(st.booleans()):
            value = dict(reversed(value.items()))
        indent = draw(st.sampled_from([None, None, 1, 2, "\t"]))
        written.append(json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent))
    return written


ENCODINGS = [
    ("utf-8", b""),
    ("utf-8", b"\xef\xbb\xbf"),
    ("utf-16-le", b"\xff\xfe"),
    ("utf-16-be", b"\xfe\xff"),
    ("utf-32-le", b"\xff\xfe\0\0"),
]


@per_file
@given(good_records(), st.sampled_from([",", ", ", ",\n", ",\r\n", "\n,\n  "]), st.sampled_from(ENCODINGS))
def test_every_record_of_a_list_is_found_where_it_was_written(
    tmp_path: Path, records: list[str], between: str, encoding: tuple[str, bytes]
) -> None:
    written = write_list(tmp_path / "data.json", records, between, *encoding)
    assert_all_read(written, records)


@per_file
@given(good_records(), st.sampled_from(["\n", "\r\n", "\n\n", " \n\t"]), st.sampled_from(ENCODINGS))
def test_every_record_of_a_jsonl_file_is_found_where_it_was_written(
    tmp_path: Path, records: list[str], between: str, encoding: tuple[str, bytes]
) -> None:
    records = [dump(json.loads(each)) for each in records]
    written = write_lines(tmp_path / "data.jsonl", records, between, *encoding)
    assert_all_read(written, records)


@per_file
@given(good_records())
def test_objects_one_after_the_other_are_read_as_records(tmp_path: Path, records: list[str]) -> None:
    records = [json.dumps(json.loads(each), ensure_ascii=False, indent=2) for each in records]
    assert_all_read(write_lines(tmp_path / "data.json", records), records)


def assert_all_read(written: Written, records: list[str]) -> None:
    read = list(read_records(written.path))
    assert [(each.row, each.line, each.byte) for each in read] == [(row, *place) for row, place in enumerate(written.places)]
    assert [each.value for each in read] == [json.loads(each) for each in records]
    assert not any(each.findings for each in read)


# --- planted faults -----------------------------------------------------------------------------------------------------------------


def _drop(what: str, number: int = 0) -> Callable[[str], str]:
    """Leave out the `number`-th occurrence of `what` (-1: the last)."""

    def plant(text: str) -> str:
        places = [at for at in range(len(text)) if text.startswith(what, at)]
        at = places[number]
        return text[:at] + text[at + len(what) :]

    return plant


def _replace(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


# what is planted into the text of a good record -> the code it must be found under
FAULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "closing brace missing": (_drop("}", -1), "broken-json"),
    "opening brace missing": (_drop("{"), "broken-json"),
    "brace of a turn missing": (_drop("}", 0), "broken-json"),
    "bracket missing": (_drop("]", -1), "broken-json"),
    "comma missing": (_drop(","), "broken-json"),
    "colon missing": (_drop(":"), "broken-json"),
    "quote of a key missing": (_drop('"', 1), "broken-json"),
    "quote of the id missing": (_drop('"', 3), "broken-json"),
    "last quote missing": (_drop('"', -1), "broken-json"),
    "cut in the middle": (lambda text: text[: text.index("Answer") + 3], "broken-json"),
    "word for a value": (_replace('"gpt"', "gpt"), "broken-json"),
    "single quotes": (_replace('"', "'"), "broken-json"),
    "NaN": (_replace('"gpt"', "NaN"), "nan-or-infinity"),
    "raw NUL": (_replace("Answer", "An\0swer"), "nul-character"),
    "lone surrogate": (_replace("Answer", "\\ud800"), "lone-surrogate"),
    "trailing comma": (_replace("}]", "},]"), "trailing-comma"),
    "duplicate key": (_replace('"value"', '"value": "", "value"'), "duplicate-key"),
    "first turn from gpt": (_replace('"human"', '"gpt"'), "first-turn-assistant"),
    "unknown role": (_replace('"gpt"', '"robot"'), "unknown-role"),
    "number for a value": (_replace('"Answer', '1, "x": "Answer'), "value-not-text"),
    "no conversations": (_replace('"conversations"', '"talk"'), "missing-conversations"),
    "too deep": (_replace('"conversations"', '"x": ' + "[" * 80 + "]" * 80 + ', "conversations"'), "too-deep"),
}
FOLLOW_UPS = {"first turn from gpt": {"same-role-twice"}, "number for a value": {"extra-key"}, "too deep": set[str]()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layout", ["compact list", "one a line", "indented list", "jsonl"])
@pytest.mark.parametrize("row", [0, 2, 5])
def test_a_planted_fault_is_found_at_its_row_line_and_byte_and_no_other_is_invented(
    tmp_path: Path, layout: str, fault: str, row: int
) -> None:
    plant, code = FAULTS[fault]
    records = [dump(record(number)) for number in range(6)]
    records[row] = plant(records[row])
    written = write(layout, tmp_path, records)
    report = validate(written.path)
    assert report.num_rows == 6
    issues = [issue for issue in report.issues if issue.code not in FOLLOW_UPS.get(fault, set())]
    is_cut = row == 5 and code == "broken-json" and [issue.code for issue in issues] == ["truncated-file"]
    assert [issue.code for issue in issues] == [code] or is_cut, report.issues
    assert {(issue.row, issue.line, issue.byte) for issue in report.issues} == {(row, *written.places[row])}
    assert report.num_rejected == (RULES[code].severity == "error")


def write(layout: str, folder: Path, records: list[str]) -> Written:
    if layout == "jsonl":
        return write_lines(folder / "data.jsonl", records)
    if layout == "indented list":
        records = [each.replace("{", "{\n    ").replace('", "', '",\n    "') for each in records]
    return write_list(folder / "data.json", records, ", " if layout == "compact list" else ",\n")


# Behind another broken record nothing tells these from a part of it.
UNRECOGNISABLE = {
    "jsonl": {"opening brace missing"},
    "one a line": {"opening brace missing", "no conversations"},
    "indented list": {"opening brace missing", "no conversations"},
    "compact list": {"opening brace missing", "no conversations", "single quotes"},
}


@per_file
@given(st.data())
def test_many_planted_faults_are_all_found_each_in_its_place(tmp_path: Path, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(["compact list", "one a line", "indented list", "jsonl"]))
    chosen = data.draw(st.lists(st.sampled_from([None, None, *FAULTS]), min_size=3, max_size=25))
    for row in range(1, len(chosen)):
        if chosen[row] in UNRECOGNISABLE[layout] and chosen[row - 1]:
            chosen[row] = None
    records = [dump(record(number)) for number in range(len(chosen))]
    planted = [FAULTS[fault][0](text) if fault else text for fault, text in zip(chosen, records, strict=True)]
    written = write(layout, tmp_path, [*planted, dump(record(99))])
    report = validate(written.path)
    hurt = {row for row, fault in enumerate(chosen) if fault}  # one fault may be followed by another of the same record
    first = [
        (issue.row, issue.line, issue.byte, issue.code)
        for issue in report.issues
        if issue.row is not None and (issue.row not in hurt or issue.code not in ("same-role-twice", "extra-key"))
    ]
    of_the_file = {issue.code for issue in report.issues if issue.row is None}
    assert of_the_file <= ({"unknown-layout"} if "no conversations" in chosen else set())  # where most rows that can be read have it
    assert first == [(row, *written.places[row], FAULTS[fault][1]) for row, fault in enumerate(chosen) if fault]
    assert report.num_rows == len(records) + 1


def test_broken_first_lines_do_not_hide_that_the_file_is_one_record_a_line(tmp_path: Path) -> None:
    faults = ("closing brace missing", "quote of a key missing", "no conversations")
    records = [FAULTS[fault][0](dump(record(row))) for row, fault in enumerate(faults)]
    report = validate(write_lines(tmp_path / "data.jsonl", [*records, dump(record(99))]).path)
    assert [(issue.row, issue.code) for issue in report.issues] == [(0, "broken-json"), (1, "broken-json"), (2, "missing-conversations")]
    assert (report.num_rows, report.num_valid, report.num_rejected) == (4, 1, 3)


# --- any bytes at all ---------------------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\n", b"\r", b" ", b"\0", b"\xff", b"\xfe", b"\xef\xbb\xbf", b'{"id"', b'"conversations"',
     b'{"id": "a", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}', b"NaN", b"1e999", b"\\ud800",
     "你".encode("gb18030"), "😀".encode(), b"[" * 70, b"null", b"-"]
)  # fmt: skip


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=30).map(b"".join) | st.binary(max_size=80))
@example(b"\xff\xfe[")
@example(b'{"id"' * 40)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'["' + b"\\" * 999)
@example(b"9" * 5000)
def test_no_bytes_crash_the_validator_and_its_rows_add_up(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    report = validate(tmp_path / "data.json")
    rejected = {issue.row for issue in report.issues if issue.severity == "error" and issue.row is not None}
    assert report.num_rows == report.num_valid + report.num_rejected
    assert report.num_rejected == len(rejected)
    assert report.num_rows > 0 or report.counts
    report.model_dump_json()


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(pieces, max_size=30).map(b"".join))
def test_the_records_lie_in_order_and_nothing_but_separators_is_left_between_them(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    findings: list[Any] = []
    records = list(read_records(tmp_path / "data.json", findings.append))
    encoding = source.detect_encoding(tmp_path / "data.json")
    if not encoding.is_utf8 or {"object-not-list", "not-a-text-file"} & {each.finding.code for each in findings}:
        return
    at = encoding.bom_bytes
    for number, each in enumerate(records):
        assert each.row == number
        assert not content[at : each.byte].strip(b" \t\r\n,[]")
        assert content[each.byte : each.byte + len(each.raw)] == each.raw
        assert each.line == content[: each.byte].count(b"\n") + 1
        at = each.byte + len(each.raw)
    assert not content[at:].strip(b" \t\r\n,[]")


# --- edges of the window ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["compact list", "one a line", "indented list", "jsonl"])
@pytest.mark.parametrize("chunk_bytes", [1, 7, 64, 300])
def test_the_edges_between_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, chunk_bytes: int) -> None:
    records = [dump(record(number)) for number in range(12)]
    for row, fault in ((3, "quote of the id missing"), (4, "closing brace missing"), (8, "trailing comma"), (9, "cut in the middle")):
        records[row] = FAULTS[fault][0](records[row])
    written = write(layout, tmp_path, records)
    whole = list(read_records(written.path))
    monkeypatch.setattr(source, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(values, "PATIENCE_BYTES", 64)
    assert list(read_records(written.path)) == whole
    assert [(each.line, each.byte) for each in whole] == written.places


@pytest.mark.parametrize("layout", ["compact list", "one a line", "jsonl"])
def test_a_record_beyond_the_limit_is_named_and_the_next_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    for module in (values, reader):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 1 << 17)
    monkeypatch.setattr(source, "CHUNK_BYTES", 1 << 12)
    long = dump(talk(("human", "x" * 500_000), ("gpt", "y")))
    written = write(layout, tmp_path, [dump(record(0)), long, dump(record(2))])
    report = validate(written.path)
    assert report.counts == {"record-too-long": 1}
    (issue,) = report.issues
    assert (issue.row, issue.line, issue.byte) == (1, *written.places[1])
    assert (report.num_rows, report.num_valid) == (3, 2)


def test_a_long_record_within_the_limit_is_read(tmp_path: Path) -> None:
    long = dump(talk(("human", "x" * 500_000), ("gpt", '"}]}, {"id": ' * 100_000)))
    written = write_list(tmp_path / "data.json", [dump(record(0)), long, dump(record(2))])
    assert validate(written.path).counts == {}

"""Every layout is known by its shape, read without losing a row, and what is wrong is found in its place."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.conversation import Turn
from core.data import layouts, parquetrows
from core.data.csvrows import read_csv
from core.data.datafile import preview
from core.data.dataset import REJECTED, import_dataset
from core.data.layouts import detect
from core.data.mapping import ColumnMapping, parse_mapping
from core.data.parquetrows import decoded_bytes, read_parquet, row_group_of
from core.data.rows import check_rows, conversation_at
from core.data.rules import RULES
from core.data.validate import validate
from core.errors import UserError
from tests.unit.data.files import dump, found, record

per_file = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
USER, ASSISTANT = "user", "assistant"


def lines(rows: list[Any]) -> str:
    return "".join(dump(row) + "\n" for row in rows)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def said(path: Path, mapping: ColumnMapping | None = None) -> list[list[tuple[str, str]] | None]:
    """Role and text of every turn of every row; None for a rejected one."""
    rows = check_rows(path, mapping=mapping)
    return [[(turn.role, turn.content) for turn in row.conversation.turns] if row.conversation else None for row in rows]


# --- known layouts ------------------------------------------------------------------------------------------------------------------

KNOWN: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("alpaca", {"instruction": "Add.", "input": "1+1", "output": "2"}, [(USER, "Add.\n1+1"), (ASSISTANT, "2")]),
    ("alpaca", {"instruction": "Hi", "input": "", "output": "Ho"}, [(USER, "Hi"), (ASSISTANT, "Ho")]),
    ("alpaca", {"instruction": "", "input": "x", "output": "y"}, [(USER, "x"), (ASSISTANT, "y")]),
    (
        "alpaca",
        {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]},
        [("system", "s"), (USER, "a"), (ASSISTANT, "b"), (USER, "c"), (ASSISTANT, "d")],
    ),
    ("alpaca", {"instruction": "c", "context": "k", "response": "d", "category": "qa"}, [(USER, "c\nk"), (ASSISTANT, "d")]),
    ("prompt-completion", {"prompt": "p", "completion": " c"}, [(USER, "p"), (ASSISTANT, " c")]),
    (
        "prompt-completion",
        {
            "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": "c"}],
        },
        [("system", "s"), (USER, "p"), (ASSISTANT, "c")],
    ),
    ("question-answer", {"question": "q", "answer": "a"}, [(USER, "q"), (ASSISTANT, "a")]),
    ("question-answer", {"id": 7, "Question": "q", "Answer": "a"}, [(USER, "q"), (ASSISTANT, "a")]),
    (
        "question-answer",
        {"query": "q", "response": "a", "history": [["b", "c"]]},
        [(USER, "b"), (ASSISTANT, "c"), (USER, "q"), (ASSISTANT, "a")],
    ),
    ("question-answer", {"input": "q", "output": "a"}, [(USER, "q"), (ASSISTANT, "a")]),
    ("question-answer", {"问题": "q", "回答": "a"}, [(USER, "q"), (ASSISTANT, "a")]),
    ("messages", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, [(USER, "q"), (ASSISTANT, "a")]),
    ("vicuna", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [(USER, "q"), (ASSISTANT, "a")]),
]


@pytest.mark.parametrize(("kind", "row", "turns"), KNOWN)
def test_a_known_layout_is_read_from_json_jsonl_and_parquet(tmp_path: Path, kind: str, row: dict[str, Any], turns: Any) -> None:
    for path in (
        write(tmp_path / "data.json", json.dumps([row, row], indent=1)),
        write(tmp_path / "data.jsonl", lines([row, row])),
        write_parquet(tmp_path / "data.parquet", [row, row]),
    ):
        layout = detect(path)
        assert (layout.kind, layout.num_sampled) == (kind, 2), path
        assert layout.why.startswith("All 2 rows looked at have") and layout.title in layout.why
        assert said(path) == [turns, turns]
        assert not {code for code in validate(path).counts if RULES[code].severity == "error"}


def test_text_columns_are_read_from_csv_with_any_separator_and_encoding(tmp_path: Path) -> None:
    for delimiter in ",;\t|":
        for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030"):
            text = delimiter.join(("question", "answer")) + "\r\n" + delimiter.join(("你好，世界和平，今天天气很好", '"谁\r\n你"')) + "\r\n"
            path = write(tmp_path / "data.csv", text.encode(encoding))
            assert said(path) == [[(USER, "你好，世界和平，今天天气很好"), (ASSISTANT, "谁\r\n你")]], (delimiter, encoding)
            assert detect(path).kind == "question-answer"
            assert ("not-utf-8" in validate(path).counts) == (not encoding.startswith("utf-8"))


def test_a_turns_column_of_a_csv_file_holds_json(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": 'a "b"'}, {"from": "gpt", "value": "c\nd"}]
    path = write(tmp_path / "data.csv", to_csv([["id", "conversations"], ["x", dump(turns)], ["y", "[broken"]]))
    assert said(path) == [[(USER, 'a "b"'), (ASSISTANT, "c\nd")], None]
    assert found(validate(path), 1) == [("conversations-not-list", None)]


def test_a_file_is_told_by_its_content_where_its_name_says_nothing(tmp_path: Path) -> None:
    assert detect(write(tmp_path / "pasted.txt", "question\tanswer\nq\ta\n")).container == "csv"
    assert detect(write(tmp_path / "pasted.txt", '{"prompt": "p", "completion": "c"}')).kind == "prompt-completion"
    assert detect(write(tmp_path / "pasted.txt", '[\n {"instruction": "p", "output": "c"}]')).kind == "alpaca"
    assert detect(write(tmp_path / "data.csv", dump([record()]))).container == "json"
    assert detect(write(tmp_path / "pasted.txt", "Dear Sir, or Madam\nhow are you, today\n")).container == "json"


def test_the_sample_reaches_all_over_a_large_file(tmp_path: Path) -> None:
    rows = [{"question": "q" * 3000, "answer": "a"}] * 1500 + [{"question": "q" * 3000, "answer": "a", "late": 1}] * 1500
    layout = detect(write(tmp_path / "data.jsonl", lines(rows)))
    assert "late" in {column.name for column in layout.columns}
    assert layout.ignored() == ["late"]
    layout = detect(
        write_parquet(tmp_path / "data.parquet", [{"question": str(number), "answer": "a"} for number in range(5000)], row_group_size=100)
    )
    assert layout.num_sampled >= 200 and len(layout.columns[0].samples) == layouts.SAMPLES


def test_columns_that_are_not_used_are_named_once(tmp_path: Path) -> None:
    report = validate(write(tmp_path / "data.jsonl", lines([{"question": "q", "answer": "a", "source": "web", "score": 1}])))
    assert [(issue.code, issue.row) for issue in report.issues] == [("columns-ignored", None)]
    assert '"source", "score"' in report.issues[0].problem


def test_rows_of_several_layouts_in_one_file_are_all_read(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "a"}] * 3 + [record(1), {"prompt": "p", "completion": "c"}, {"text": "t"}]
    path = write(tmp_path / "data.jsonl", lines(rows))
    report = validate(path)
    assert said(path)[3:] == [[(USER, "Question 1?"), (ASSISTANT, "Answer 1.")], [(USER, "p"), (ASSISTANT, "c")], None]
    assert [found(report, row) for row in (3, 4)] == [[("mixed-formats", None)], [("mixed-formats", None)]]
    assert found(report, 5) == [("missing-column", None), ("missing-column", None)]
    assert (report.num_rows, report.num_valid, report.num_rejected) == (6, 5, 1)


# --- unknown layouts and mappings ---------------------------------------------------------------------------------------------------


def test_an_unknown_layout_names_its_columns_and_proposes_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "Frage;Antwort;Nummer\nWas?;Das.;1\nWer?;Der.;2\n")
    layout = detect(path)
    assert (layout.kind, layout.mapping) == ("unknown", ColumnMapping(question="Frage", answer="Antwort"))
    first = layout.columns[0]
    assert (first.name, first.kinds, first.share, first.samples) == (
        "Frage",
        ("text",),
        1.0,
        ('"Was?"', '"Wer?"'),
    )
    assert '"Frage", "Antwort", "Nummer"' in layout.why
    report = validate(path)
    assert (report.num_rows, report.num_rejected) == (2, 2)
    assert report.counts["unknown-layout"] == 1
    assert said(path, layout.mapping) == [[(USER, "Was?"), (ASSISTANT, "Das.")], [(USER, "Wer?"), (ASSISTANT, "Der.")]]


@pytest.mark.parametrize(("num_known", "kind"), [(1, "unknown"), (99, "unknown"), (100, "prompt-completion")])
def test_a_layout_that_few_rows_have_is_proposed_and_not_taken(tmp_path: Path, num_known: int, kind: str) -> None:
    rows = [{"prompt": "Q", "completion": "A"}] * num_known + [{"ask": "Q", "reply": "A"}] * (200 - num_known)
    path = tmp_path / "data.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    layout = detect(path)
    assert (layout.kind, layout.mapping.question, layout.mapping.answer) == (kind, "prompt", "completion")
    assert kind == "prompt-completion" or f"Only {num_known} of" in layout.why


def test_records_that_are_merely_broken_do_not_make_a_layout_unknown(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record(0), *([{"id": "x", "text": "hello"}] * 9)]), encoding="utf-8")
    assert detect(path).kind == "vicuna"


def test_a_list_of_messages_under_other_names_is_proposed_and_mapped(tmp_path: Path) -> None:
    rows = [{"dialog": [{"speaker": "user", "words": "q"}, {"speaker": "bot", "words": "a"}], "who": "s"}]
    path = write(tmp_path / "data.json", dump(rows))
    assert detect(path).mapping == ColumnMapping(turns="dialog", role_key="speaker", content_key="words")
    mapping = detect(path).mapping.model_copy(update={"system": "who"})
    assert said(path, mapping) == [[("system", "s"), (USER, "q"), (ASSISTANT, "a")]]
    assert conversation_at(path, 0, mapping).turns[0] == Turn("system", "s")


def test_a_list_of_texts_alternates_from_the_person_on(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", lines([{"data": ["a", "b", "c", "d"]}, {"data": ["a"]}, {"data": ["a", 1]}]))
    mapping = ColumnMapping(turns="data")
    assert said(path, mapping) == [[(USER, "a"), (ASSISTANT, "b"), (USER, "c"), (ASSISTANT, "d")], None, None]
    report = validate(path, mapping=mapping)
    assert found(report, 1) == [("trailing-question", 0)]


def test_a_csv_file_without_a_header_loses_no_row(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "Was?,Das.\nWer?,Der.\n")
    assert said(path, ColumnMapping(question="1", answer="2", has_header=False)) == [
        [(USER, "Was?"), (ASSISTANT, "Das.")],
        [(USER, "Wer?"), (ASSISTANT, "Der.")],
    ]


def test_a_mapping_is_followed_and_never_widened_by_a_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "data.jsonl", lines([{"a": "q", "b": "r"}, {"question": "q", "answer": "a"}, record(1)]))
    report = validate(path, mapping=ColumnMapping(question="a", answer="b"))
    assert (report.num_valid, report.num_rejected) == (1, 2)
    assert found(report, 1) == found(report, 2) == [("missing-column", None), ("missing-column", None)]


@pytest.mark.parametrize("text", ["question=a", "answer=b", "turns=c,question=a,answer=b", "what=a", "question", ""])
def test_a_mapping_that_maps_no_conversation_is_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_mapping(text)
    assert parse_mapping("question=a b, answer=c,has_header=false") == ColumnMapping(question="a b", answer="c", has_header=False)


def test_a_preview_shows_what_would_come_and_what_stands_in_the_way(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", 'a,b,n\nq,r,1\n"q2",,2\nx\n')
    shown = preview(path, ColumnMapping(question="a", answer="b"), 5)
    assert [(each.row, each.line, len(each.messages)) for each in shown] == [(0, 2, 2), (1, 3, 0), (2, 4, 0)]
    assert shown[0].problems == [] and "empty" in shown[1].problems[0] and "1 cells" in shown[2].problems[0]
    assert len(preview(path, ColumnMapping(question="a", answer="b"), 1)) == 1


# --- values that do not fit ---------------------------------------------------------------------------------------------------------

ODD: list[tuple[dict[str, Any], list[tuple[str, int | None]]]] = [
    ({"question": "", "answer": "a"}, [("empty-value", 0)]),
    ({"question": "q", "answer": " "}, [("blank-value", 1)]),
    ({"question": "q", "answer": None}, [("value-not-text", 1)]),
    ({"question": "q", "answer": 7}, [("value-not-text", 1)]),
    ({"question": ["q"], "answer": "a"}, [("value-not-text", 0)]),
    ({"question": "q", "answer": "x</s>"}, [("eos-in-value", 1)]),
    ({"question": "q", "answer": "a\u0007"}, [("control-character", 1)]),
    ({"question": "q", "answer": "a", "system": 3}, [("value-not-text", None)]),
    ({"question": "q", "answer": "a", "history": "before"}, [("history-not-pairs", None)]),
    ({"question": "q", "answer": "a", "history": [["b"]]}, [("history-not-pairs", None)]),
    ({"question": "q", "answer": "a", "history": [["b", 2]]}, [("value-not-text", 1)]),
    ({"question": "q"}, [("missing-column", None)]),
    ({}, [("missing-column", None), ("missing-column", None)]),
]


@pytest.mark.parametrize(("row", "codes"), ODD)
def test_a_row_that_does_not_fit_is_named_and_the_others_are_read(tmp_path: Path, row: Any, codes: Any) -> None:
    good = {"question": "q", "answer": "a"}
    path = write(
        tmp_path / "data.jsonl", lines([good, {"question": "q2", "answer": "a", "system": "", "history": []}, row, good | {"answer": "b"}])
    )
    report = validate(path)
    assert found(report, 2) == codes
    rejected = any(RULES[code].severity == "error" for code, _ in codes)
    assert (report.num_rows, report.num_rejected) == (4, int(rejected))
    assert [issue.line for issue in report.issues if issue.row == 2] == [3] * len(codes)


# --- planted faults in CSV ----------------------------------------------------------------------------------------------------------

cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(str.strip)
wild = st.lists(cells | st.sampled_from([",", '"', "\n", "\r\n", ";", '""', "a,b", "'", "\t"]), min_size=1, max_size=4).map("".join)


def to_csv(rows: list[list[str]], **options: Any) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, **options).writerows(rows)
    return out.getvalue()


@per_file
@given(
    st.lists(st.tuples(wild, wild), min_size=1, max_size=8),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([("utf-8", b""), ("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe")]),
)
def test_every_row_of_a_csv_file_is_found_where_it_was_written(tmp_path: Path, pairs: Any, quoting: Any, end: str, encoding: Any) -> None:
    text, places = "question,answer" + end, []
    for pair in pairs:
        places.append((text.count("\n") + 1, len(encoding[1]) + len(text.encode(encoding[0]))))
        text += to_csv([list(pair)], quoting=quoting, lineterminator=end)
    path = write(tmp_path / "data.csv", encoding[1] + text.encode(encoding[0]))
    read = list(read_csv(path))
    assert [(row.row, row.line, row.byte) for row in read] == [(number, *place) for number, place in enumerate(places)]
    assert [tuple(row.value.values()) for row in read] == pairs


CSV_FAULTS: dict[str, tuple[Callable[[list[str]], str], str]] = {
    "a cell too few": (lambda row: row[0], "ragged-row"),
    "a cell too many": (lambda row: ",".join([*row, "more"]), "ragged-row"),
    "a quote not closed": (lambda row: f'"{row[0]},{row[1]}', "broken-row"),
    "a quote closed in the middle": (lambda row: f'"{row[0]}"x,{row[1]}', "broken-row"),
    "bytes that are no text": (lambda row: f"{row[0]},\udcff{row[1]}", "undecodable-bytes"),
    "NUL": (lambda row: f"{row[0]},\0{row[1]}", "nul-character"),
    "control character": (lambda row: f"{row[0]},\x1b{row[1]}", "control-character"),
    "empty answer": (lambda row: f"{row[0]},", "empty-value"),
    "end of text": (lambda row: f"{row[0]},{row[1]}</s>", "eos-in-value"),
}


@per_file
@given(st.lists(st.sampled_from([None, None, *CSV_FAULTS]), min_size=1, max_size=20), st.sampled_from(["plain", "multiline", "quoted"]))
def test_faults_planted_into_a_csv_file_are_all_found_and_none_is_invented(tmp_path: Path, chosen: list[str | None], style: str) -> None:
    text, expected = "question,answer\n", []
    for number, fault in enumerate([*chosen, None]):
        place = (number, text.count("\n") + 1, len(text.encode("utf-8", "surrogateescape")))
        row = [f"Question {number}", f"Answer {number}"]
        if fault:
            expected.append((*place, CSV_FAULTS[fault][1]))
            text += CSV_FAULTS[fault][0](row) + "\n"
        elif style == "plain":
            text += to_csv([row], lineterminator="\n")
        else:
            text += to_csv([[row[0], row[1] + ("\nand more" if style == "multiline" else "")]], lineterminator="\n", quoting=csv.QUOTE_ALL)
    path = write(tmp_path / "data.csv", text.encode("utf-8", "surrogateescape"))
    report = validate(path)
    assert [(issue.row, issue.line, issue.byte, issue.code) for issue in report.issues] == expected
    assert (report.num_rows, report.num_valid + report.num_rejected) == (len(chosen) + 1, len(chosen) + 1)


def test_a_rejected_row_keeps_its_text_as_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", b'question,answer\nq,"a\n\n\xff"\r\nb\n')
    assert [row.raw for row in read_csv(path)] == [b'q,"a\n\n\xff"', b"b"]


def test_a_header_that_names_a_column_twice_loses_none(tmp_path: Path) -> None:
    path = write(tmp_path / "data.csv", "question,answer,answer,\nq,a,b,c\n")
    (row,) = read_csv(path)
    assert row.value == {"question": "q", "answer": "a", "answer (2)": "b", "column 4": "c"}
    assert validate(path).counts["duplicate-column"] == 1


def test_line_ends_of_old_macs_and_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    assert said(write(tmp_path / "data.csv", "question,answer\rq,a\rr,b\r")) == [
        [(USER, "q"), (ASSISTANT, "a")],
        [(USER, "r"), (ASSISTANT, "b")],
    ]
    path = write(tmp_path / "data.csv", 'question,answer\n"q,a\n' + "r,b\n" * 1000)
    report = validate(path)
    assert (report.num_rows, report.num_rejected, report.counts["broken-row"]) == (1001, 1, 1)


def test_a_line_beyond_the_limit_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.data import csvrows, source

    monkeypatch.setattr(csvrows, "MAX_RECORD_BYTES", 10_000)
    monkeypatch.setattr(source, "CHUNK_BYTES", 1000)
    path = write(tmp_path / "data.csv", "question,answer\nq,a\nx," + "y" * 50_000 + "\nr,b\n")
    rows = list(read_csv(path))
    assert [(row.row, row.line, row.is_readable) for row in rows] == [(0, 2, True), (1, 3, False), (2, 4, True)]
    assert [finding.code for finding in rows[1].findings] == ["broken-row"]


# --- Parquet ------------------------------------------------------------------------------------------------------------------------


def test_faults_in_a_parquet_file_are_found_at_their_rows(tmp_path: Path) -> None:
    rows = [{"question": f"q{number}", "answer": f"a{number}", "id": number} for number in range(3000)]
    rows[7]["answer"], rows[1500]["question"], rows[2999]["answer"] = None, "", "x</s>"
    path = write_parquet(tmp_path / "data.parquet", rows, row_group_size=1000)
    report = validate(path)
    assert [(issue.row, issue.line, issue.byte, issue.code) for issue in report.issues] == [
        (7, 0, 0, "value-not-text"),
        (1500, 0, 0, "empty-value"),
        (2999, 0, 0, "eos-in-value"),
    ]
    assert (report.num_rows, report.num_valid) == (3000, 2997)
    assert [row_group_of(path, row) for row in (7, 999, 1000, 2999)] == [0, 0, 1, 2]
    assert json.loads(next(row.record.raw for row in check_rows(path) if row.record.row == 7)) == rows[7]


def test_values_that_json_cannot_hold_are_no_obstacle(tmp_path: Path) -> None:
    from datetime import UTC, datetime
    from decimal import Decimal

    odd = {"when": datetime(2026, 1, 1, tzinfo=UTC), "price": Decimal("1.5"), "blob": b"\x00\xff", "share": float("nan")}
    path = write_parquet(tmp_path / "data.parquet", [{"question": "q", "answer": "a", **odd}])
    assert said(path) == [[(USER, "q"), (ASSISTANT, "a")]]
    assert validate(path).counts == {"columns-ignored": 1}


def test_the_rows_of_a_damaged_row_group_are_refused_and_counted(tmp_path: Path) -> None:
    rows = [{"question": os.urandom(20).hex(), "answer": os.urandom(20).hex()} for _ in range(400)]
    path = write_parquet(tmp_path / "data.parquet", rows, row_group_size=100, write_page_checksum=True, compression="none")
    content = bytearray(path.read_bytes())
    at = content.index(rows[150]["answer"].encode())
    content[at : at + 8] = b"\xff" * 8
    path.write_bytes(content)
    report = validate(path)
    assert (report.num_rows, report.num_valid, report.counts) == (400, 300, {"unreadable-row": 100})
    assert {issue.row for issue in report.issues} == set(range(100, 200))


def test_a_parquet_row_with_bytes_that_are_no_text_is_refused_and_can_be_looked_at(tmp_path: Path) -> None:
    texts = pa.array([b"Who?", b"Me.", b"What?", b"It is \xff\xfe."]).view(pa.string())
    turns = pa.StructArray.from_arrays([pa.array(["human", "gpt"] * 2), texts], names=["from", "value"])
    table = pa.table({"id": pa.array(["0", "1"]), "conversations": pa.ListArray.from_arrays(pa.array([0, 2, 4]), turns)})
    pq.write_table(table, tmp_path / "data.parquet")
    first, second = read_parquet(tmp_path / "data.parquet")
    assert first.is_readable and not second.is_readable
    assert [finding.code for finding in second.findings] == ["undecodable-bytes"]
    assert json.loads(second.raw) == {
        "id": "1", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "It is \\xff\\xfe."}]
    }  # fmt: skip


def test_a_parquet_file_cut_short_is_refused_in_words(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data.parquet", [{"question": "q", "answer": "a"}] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    assert validate(path).counts == {"broken-parquet": 1}
    assert validate(write_parquet(tmp_path / "none.parquet", [{"question": "q", "answer": "a"}][:0] or [{"x": 1}][:1])).num_rejected == 1


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"\x80\x04\x95", b"BZh9"])
@pytest.mark.parametrize("name", ["data.parquet", "data.csv", "data.txt"])
def test_an_archive_under_another_name_is_refused(tmp_path: Path, head: bytes, name: str) -> None:
    report = validate(write(tmp_path / name, head + b"question,answer\nq,a\n"))
    assert (report.counts, report.num_rows) == ({"not-a-text-file": 1}, 0)


def test_parquet_is_taken_under_its_own_name_only(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data.parquet", [{"question": "q", "answer": "a"}])
    assert validate(write(tmp_path / "data.json", path.read_bytes())).counts == {"not-a-text-file": 1}
    assert validate(write(tmp_path / "text.parquet", lines([record()]))).num_valid == 1


def test_a_text_given_many_times_is_held_once_and_a_long_row_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquetrows, "BATCH_BYTES", 1 << 16)
    monkeypatch.setattr(parquetrows, "MAX_RECORD_BYTES", 1 << 14)
    rows = [{"question": "q", "answer": "x" * 5000}] * 500 + [{"question": "q", "answer": "y" * 50_000}, {"question": "q", "answer": "z"}]
    path = write_parquet(tmp_path / "data.parquet", rows)
    table = pa.table({"a": pa.array(["x" * 5000] * 500).dictionary_encode()})
    assert decoded_bytes(table.to_batches()[0].to_struct_array()) == 2_500_000 > table.nbytes * 100
    assert path.stat().st_size < 20_000
    read = list(read_parquet(path))
    assert [row.row for row in read if not row.is_readable] == [500]
    assert [finding.code for finding in read[500].findings] == ["record-too-long"]
    assert len(read) == 502


# --- any bytes at all ---------------------------------------------------------------------------------------------------------------

pieces = st.sampled_from(
    [b"question,answer\n", b"q,a\n", b'"', b",", b"\n", b"\r", b"\r\n", b";", b"\t", b"\0", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b'""', b"[", b"{",
     b'{"question": "q", "answer": "a"}', b"PAR1", "你".encode(), "你".encode("gb18030"), b" ", b'"a\nb"', b"\\", b"|"]
)  # fmt: skip


MAPPINGS = (None, ColumnMapping(question="question", answer="answer"), ColumnMapping(question="1", answer="2", has_header=False))


def import_accounted(path: Path, mapping: ColumnMapping | None = None) -> None:
    """Import the file, and count its rows one by one where they lie; a file may also be refused as a whole."""
    try:
        dataset = import_dataset(path, mapping=mapping)
    except UserError as refused:
        assert refused.code == "LAYOUT" or validate(path, mapping=mapping).num_rows == 0, refused
        return
    num_rejected = (dataset.folder / REJECTED).read_bytes().count(b"\n")
    assert sum(1 for _ in dataset) + num_rejected == dataset.manifest.num_rows == validate(path, mapping=mapping).num_rows
    assert [row["row"] for row in dataset.rejected()] == sorted(
        set(range(dataset.manifest.num_rows)) - {row for _, row in dataset.numbered()}
    )
    shutil.rmtree(dataset.folder)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(pieces, max_size=20).map(b"".join) | st.binary(max_size=60),
    st.sampled_from(["data.csv", "data.tsv", "data.txt", "data.parquet", "data"]),
    st.sampled_from(MAPPINGS),
)
def test_no_bytes_crash_a_reader_and_rows_add_up(
    workspace: Path, tmp_path: Path, content: bytes, name: str, imported_by: ColumnMapping | None
) -> None:
    path = write(tmp_path / name, content)
    import_accounted(path, imported_by)
    for mapping in MAPPINGS:
        report = validate(path, mapping=mapping)
        rejected = {issue.row for issue in report.issues if issue.severity == "error" and issue.row is not None}
        assert report.num_rows == report.num_valid + len(rejected)
        assert report.num_rows > 0 or report.counts
        report.model_dump_json()
    preview(path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_parquet_file_with_any_damage_never_crashes_and_loses_no_row(tmp_path: Path, data: st.DataObject) -> None:
    rows = [{"question": f"q{number}", "answer": "a" * number, "turns": [{"from": "human", "value": "x"}]} for number in range(30)]
    path = write_parquet(tmp_path / "data.parquet", rows, row_group_size=10)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    report = validate(path)
    assert report.num_rows == report.num_valid + report.num_rejected
    assert report.num_rows == 30 or report.counts


# --- public collections, where they are at hand -------------------------------------------------------------------------------------


def _folder(variable: str) -> Path:
    if not (given_path := os.environ.get(variable)):
        pytest.skip(f"{variable} names no folder")
    return Path(given_path)


def test_a_public_json_suite_crashes_nothing(workspace: Path, tmp_path: Path) -> None:
    """Each file as a file, as a line, and as a value: accounted for. What the grammar refuses is counted by benchmarks/bench_parsing.py."""
    files = sorted(_folder("TRANSMUTE_JSON_SUITE").rglob("*.json"))
    assert files
    for file in files:
        content = file.read_bytes()
        in_value = b'{"id": "x", "conversations": [{"from": "human", "value": ' + content + b'}, {"from": "gpt", "value": "a"}]}\n'
        for text in (content, content + b"\n" + lines([record(1)]).encode(), in_value):
            report = validate(write(tmp_path / "data.json", text))
            assert report.num_rows == report.num_valid + report.num_rejected, file.name
            assert report.num_rows or report.counts, file.name
            import_accounted(tmp_path / "data.json")
            write(tmp_path / "data.csv", text)
            validate(tmp_path / "data.csv")


def test_naughty_strings_come_through_every_format_unchanged(workspace: Path, tmp_path: Path) -> None:
    folder = _folder("TRANSMUTE_NAUGHTY_STRINGS")
    strings = [each for file in sorted(folder.rglob("blns.json")) for each in json.loads(file.read_bytes()) if each.strip()]
    assert strings
    rows = [{"question": each, "answer": "a" + each} for each in strings]
    files = (
        write(tmp_path / "data.json", dump(rows)),
        write(tmp_path / "data.jsonl", lines(rows)),
        write_parquet(tmp_path / "data.parquet", rows),
        write(tmp_path / "data.csv", to_csv([["question", "answer"], *([row["question"], row["answer"]] for row in rows)])),
    )
    for path in files:
        report = validate(path)
        assert report.num_rows == len(rows) == report.num_valid + report.num_rejected
        assert said(path) == [[(USER, row["question"]), (ASSISTANT, row["answer"])] for row in rows]
        import_accounted(path)

"""Each rule of the validator: what breaks it is found at its row and turn, and nothing else is said."""

from __future__ import annotations

import gzip
import re
from pathlib import Path
from typing import Any

import pytest

from core.data.duplicates import BLOCK_ROWS, Numbers
from core.data.rules import RULES, rules_table
from core.data.validate import validate
from core.errors import UserError
from tests.unit.data.files import dump, found, one, record, report_on, talk

GOOD = record(1)
H, G = ("human", "Why?"), ("gpt", "Because.")

# (the broken record, everything that must be found in it as (code, turn))
RECORDS: list[tuple[Any, list[tuple[str, int | None]]]] = [
    (talk(G, H, G), [("first-turn-assistant", 0)]),
    (talk(("system", "Be brief."), G, H, G), [("first-turn-assistant", 1)]),
    (talk(H, ("human", "And?"), G), [("same-role-twice", 1)]),
    (talk(H, G, ("gpt", "Also.")), [("same-role-twice", 2)]),
    (talk(("alien", "Why?"), G), [("unknown-role", 0)]),
    (talk((7, "Why?"), G), [("unknown-role", 0)]),
    (talk((["human"], "Why?"), G), [("unknown-role", 0)]),
    (talk(H, G, H), [("trailing-question", 2)]),
    (talk(H), [("trailing-question", 0)]),
    (talk(H, ("gpt", "")), [("empty-value", 1)]),
    (talk(("human", ""), G), [("empty-value", 0)]),
    (talk(H, ("gpt", " \n")), [("blank-value", 1)]),
    (talk(H, ("gpt", "Done.</s>")), [("eos-in-value", 1)]),
    (talk(H, ("gpt", "a <s> b")), [("bos-in-value", 1)]),
    (talk(H, ("gpt", "a <unk> b")), [("unk-in-value", 1)]),
    (talk(("human", "Say ASSISTANT: now"), G), [("role-marker-in-value", 0)]),
    (talk(("human", "Say ASSISTANT:"), G), [("role-marker-in-value", 0)]),
    (talk(H, ("gpt", "a\x07b")), [("control-character", 1)]),
    (talk(H, ("gpt", "a\x7fb")), [("control-character", 1)]),
    (talk(H, ("gpt", "a\x85b")), [("control-character", 1)]),
    (talk(H, ("gpt", "a\tb\r\nc")), []),
    (talk(H, ("gpt", None)), [("value-not-text", 1)]),
    (talk(H, ("gpt", 4)), [("value-not-text", 1)]),
    (talk(H, ("gpt", {"text": "x"})), [("value-not-text", 1)]),
    (talk(H, ("gpt", ["x"])), [("value-not-text", 1)]),
    (talk(("system", "Be brief.")), [("only-system", 0)]),
    (talk(("system", "")), [("empty-system", 0), ("only-system", 0)]),
    (talk(("system", ""), H, G), [("empty-system", 0)]),
    (talk(H, G, ("system", "Be brief."), H, G), [("system-not-first", 2)]),
    (talk(("system", "a"), H, G, system="b"), [("system-twice", None)]),
    (talk(H, G, system=3), [("value-not-text", None)]),
    (talk(H, G, system="a</s>"), [("eos-in-value", None)]),
    (talk(H, G, system="Be brief."), []),
    (talk(H, G, system=""), []),
    (talk(H, G, system=" \n"), [("empty-system", None)]),
    (talk(*[H, G] * 5000), []),
    (talk(*[H, G] * 5000, H), [("too-many-turns", None)]),
    ({"id": "x", "conversations": [7] * 10_001}, [("too-many-turns", None)]),
    (talk(H, G, **{f"key {number}": number for number in range(999)}), [("too-many-keys", None)]),
    (
        {"id": "x", "conversations": [{f"key {number}": number for number in range(1001)}, {"from": "gpt", "value": "x"}]},
        [("too-many-keys", 0)],
    ),
    (talk(H, G, messages=[{"role": "user", "content": "Another?"}]), [("extra-key", None)]),
    ({"conversations": record()["conversations"], "conversation": []}, [("missing-id", None), ("extra-key", None)]),
    ({"id": "x", "text": "hello"}, [("missing-conversations", None)]),
    ({}, [("missing-conversations", None)]),
    ({"id": "x", "conversations": "hello"}, [("conversations-not-list", None)]),
    ({"id": "x", "conversations": None}, [("conversations-not-list", None)]),
    ({"id": "x", "conversations": []}, [("empty-conversations", None)]),
    ({"id": "x", "conversations": ["hello", {"from": "gpt", "value": "x"}]}, [("turn-not-object", 0)]),
    ({"id": "x", "conversations": [{"value": "Why?"}, {"from": "gpt", "value": "x"}]}, [("missing-role", 0)]),
    ({"id": "x", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt"}]}, [("missing-value", 1)]),
    ({"id": "x", "conversations": [{"from": "human", "value": "x", "weight": 1}, {"from": "gpt", "value": "y"}]}, [("extra-key", 0)]),
    (talk(H, G, model="gpt-4"), [("extra-key", None)]),
    ({"conversations": record()["conversations"]}, [("missing-id", None)]),
    ({"id": 7, "conversations": record()["conversations"]}, [("id-not-text", None)]),
    ("hello", [("record-not-object", None)]),
    (None, [("record-not-object", None)]),
    ([1], [("record-not-object", None)]),
    (3.5, [("record-not-object", None)]),
    (talk(("user", "Why?"), ("chatgpt", "Because.")), []),
]


@pytest.mark.parametrize(("broken", "expected"), RECORDS, ids=lambda value: dump(value)[:60] if not isinstance(value, list) else None)
def test_a_record_is_reported_with_exactly_what_is_wrong_and_rejected_if_that_is_an_error(
    tmp_path: Path, broken: Any, expected: list[tuple[str, int | None]]
) -> None:
    report = report_on(tmp_path / "data.json", [GOOD, broken, record(2)])
    assert found(report, 1) == sorted(expected, key=lambda pair: -1 if pair[1] is None else pair[1])
    assert found(report, 0) == found(report, 2) == found(report, None) == []
    has_error = any(RULES[code].severity == "error" for code, _ in expected)
    assert (report.num_rows, report.num_valid, report.num_rejected) == (3, 3 - has_error, int(has_error))


# (the text of the broken record, everything that must be found)
TEXTS: list[tuple[str, list[str]]] = [
    ('{"id": "x", "conversations": [', ["broken-json"]),
    ('{"id": "x" "conversations": []}', ["broken-json"]),
    ("{'id': 'x'}", ["broken-json"]),
    (dump(talk(H, G)).replace("Because.", "Be\tcause."), ["broken-json"]),
    (dump(talk(H, G)).replace("Because.", "Be\0cause."), ["nul-character"]),
    (dump(talk(H, G)).replace("Because.", "Be\\u0000cause."), ["nul-character"]),
    (dump(talk(H, G)).replace("Because.", "Be\\ud83dcause."), ["lone-surrogate"]),
    (dump(talk(H, G)).replace('"talk"', '"\\udc00"'), ["lone-surrogate"]),
    (dump(talk(H, G)).replace('"talk"', "NaN"), ["nan-or-infinity"]),
    (dump(talk(H, G, score=1)).replace(": 1}", ": -Infinity}"), ["nan-or-infinity"]),
    (dump(talk(H, G)).replace('"from": "gpt"', '"from": "gpt", "from": "gpt"'), ["duplicate-key"]),
    (dump(talk(H, G)).replace('"from": "gpt"', '"from" : "gpt", "from" :"gpt"'), ["duplicate-key"]),
    (dump(talk(H, G))[:-1] + ",}", ["trailing-comma"]),
    (dump(talk(H, G))[:-2] + ",]}", ["trailing-comma"]),
    (dump(talk(H, G))[:-1] + ', "deep": ' + "[" * 70 + "]" * 70 + "}", ["too-deep"]),
    ("[" * 5000 + "]" * 5000, ["too-deep"]),
    (dump(talk(H, G)).replace("Because.", "\\ud83d\\ude00 is whole"), []),
    (dump(talk(H, ("gpt", '{"a": 1, "a": 2} and "x": "y":'))), []),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS, ids=lambda value: value[:60] if isinstance(value, str) else None)
@pytest.mark.parametrize("layout", ["list", "lines"])
def test_a_record_that_is_not_clean_json_is_named_and_its_neighbours_are_read(
    tmp_path: Path, layout: str, text: str, expected: list[str]
) -> None:
    records = [dump(record(1)), text, dump(record(2)), dump(record(3))]
    content = "[" + ",\n".join(records) + "]" if layout == "list" else "\n".join(records)
    report = report_on(tmp_path / "data.json", content)
    assert [issue.code for issue in report.issues] == expected
    assert {issue.row for issue in report.issues} <= {1}
    assert report.num_rows == 4
    assert report.num_rejected == any(RULES[code].severity == "error" for code in expected)


def test_bytes_that_are_no_utf8_reject_their_row_only(tmp_path: Path) -> None:
    records = [dump(record(n)).encode() for n in range(3)]
    records[1] = records[1].replace(b"Answer", b"\xe9\xff Answer")
    report = report_on(tmp_path / "data.jsonl", b"\n".join(records))
    assert found(report, 1) == [("undecodable-bytes", None)]
    assert report.num_valid == 2


def test_a_faulty_surrogate_is_reported_at_its_turn(tmp_path: Path) -> None:
    report = report_on(tmp_path / "data.json", "[" + dump(talk(H, G)).replace("Because.", "\\udfff") + "]")
    assert found(report, 0) == [("lone-surrogate", 1)]
    assert "\\udfff" in one(report, "lone-surrogate").remedy


def test_ids_and_conversations_given_twice_are_found_on_the_whole_conversation(tmp_path: Path) -> None:
    same_first_pair = talk(("human", "Question 0?"), ("gpt", "Answer 0."), H, G)
    records = [record(0), same_first_pair, {**record(0), "id": "other"}, {**record(5), "id": "row_0"}, talk(G, H, G, id="other")]
    report = report_on(tmp_path / "data.json", records)
    assert [found(report, row) for row in range(5)] == [
        [], [], [("duplicate-conversation", None)], [("duplicate-id", None)], [("duplicate-id", None), ("first-turn-assistant", 0)],
    ]  # fmt: skip
    assert "row 0" in one(report, "duplicate-conversation").problem


def test_a_record_of_another_format_is_named_and_read(tmp_path: Path) -> None:
    openai = {"id": "o", "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]}
    report = report_on(tmp_path / "data.json", [record(0), openai, record(1)])
    assert found(report, 1) == [("mixed-formats", None)]
    assert report.num_valid == 3
    assert (
        one(report, "mixed-formats").problem
        == "This record is in the messages (role/content) format, the ones before it in conversations (from/value)."
    )


@pytest.mark.parametrize("cut", [40, 90, 130, 150])
@pytest.mark.parametrize("layout", ["list", "lines"])
def test_a_truncated_file_is_named_once_and_keeps_what_is_whole(tmp_path: Path, layout: str, cut: int) -> None:
    records = [dump(record(n)) for n in range(3)]
    content = ("[" + ",".join(records) + "]") if layout == "list" else "\n".join(records) + "\n"
    cut_at = content.index("row_2") - 8 + cut if layout == "lines" or cut < 130 else len(content) - 1
    report = report_on(tmp_path / "data.json", content[:cut_at])
    if layout == "list" or cut < 130:
        assert report.counts == {"truncated-file": 1}
        is_whole = cut_at == len(content) - 1
        assert (one(report, "truncated-file").row, report.num_valid) == ((None, 3) if is_whole else (2, 2))
    else:
        assert report.counts == {}


@pytest.mark.parametrize(
    ("content", "codes", "num_rows"),
    [
        (b"", {"empty-file": 1}, 0),
        (b"\xef\xbb\xbf", {"byte-order-mark": 1, "empty-file": 1}, 0),
        (b" \n ", {"no-records": 1}, 0),
        (b"[]", {"no-records": 1}, 0),
        (b"[,]", {"no-records": 1, "trailing-comma": 1}, 0),
        (f"[{dump(GOOD)},]".encode(), {"trailing-comma": 1}, 1),
        (f"[{dump(GOOD)}{dump(record(2))}]".encode(), {"misplaced-comma": 1}, 2),
        (f"[{dump(GOOD)},,{dump(record(2))}]".encode(), {"misplaced-comma": 1}, 2),
        (f"[{dump(GOOD)}][{dump(record(2))}]".encode(), {"content-after-list": 1}, 2),
        (f'{{"version": 2, "data": [{dump(GOOD)}, {dump(record(2))}]}}'.encode(), {"object-not-list": 1}, 2),
        (f"{dump(GOOD)},\n{dump(record(2))}".encode(), {"trailing-comma": 1}, 2),
        (f"{dump(GOOD)}{dump(record(2))}\n".encode(), {"shared-line": 1}, 2),
        (f"{dump(GOOD)}\r\n{dump(record(2))}\r\n".encode(), {"crlf-line-ends": 1}, 2),
        (f"{dump(GOOD)}\n\n{dump(record(2))}\n".encode(), {}, 2),
        (dump(GOOD).encode(), {}, 1),
    ],
)  # fmt: skip
def test_the_file_as_a_whole_is_judged(tmp_path: Path, content: bytes, codes: dict[str, int], num_rows: int) -> None:
    report = report_on(tmp_path / "data.json", content)
    assert (report.counts, report.num_rows) == (codes, num_rows)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "utf-8-sig"])
def test_other_encodings_are_named_and_read(tmp_path: Path, encoding: str) -> None:
    text = dump([talk(("human", "你叫什么名字？"), ("gpt", "我叫小明，很高兴认识你。"))])
    (tmp_path / "data.json").write_bytes(text.encode(encoding))
    report = validate(tmp_path / "data.json")
    assert report.num_valid == 1
    assert set(report.counts) <= {"not-utf-8", "byte-order-mark"}
    assert ("not-utf-8" in report.counts) == (encoding != "utf-8-sig")


def test_a_latin_1_file_is_not_taken_for_chinese(tmp_path: Path) -> None:
    content = dump([talk(("human", "Où est le café à côté de l'hôtel ?"), ("gpt", "Là-bas, près de la forêt."))]).encode("latin-1")
    assert report_on(tmp_path / "data.json", content).counts == {"other-encoding": 1, "undecodable-bytes": 1}


FRENCH = "Où est le café à côté de l'hôtel ? Là-bas, près de la forêt, où l'été a été très chaud."
RUSSIAN = "Где находится кафе рядом с гостиницей? Там, у леса, где летом было очень жарко."


@pytest.mark.parametrize(
    ("text", "codec", "named"),
    [(FRENCH, "latin-1", "WINDOWS-1252"), (FRENCH, "cp1252", "WINDOWS-1252"), (RUSSIAN, "cp1251", "WINDOWS-1251")],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_file_in_an_old_encoding_says_what_to_convert_it_from(tmp_path: Path, text: str, codec: str, named: str, suffix: str) -> None:
    content = f"question,answer\n{text.replace(',', '')},ok\n" if suffix == "csv" else dump(talk(("human", text), ("gpt", "ok")))
    (tmp_path / f"data.{suffix}").write_bytes(content.encode(codec))
    report = validate(tmp_path / f"data.{suffix}")
    (issue,) = [issue for issue in report.issues if issue.code == "other-encoding"]
    assert f"iconv -f {named} -t UTF-8" in issue.remedy and report.num_rejected == 1
    (tmp_path / f"new.{suffix}").write_bytes((tmp_path / f"data.{suffix}").read_bytes().decode(named).encode())
    assert validate(tmp_path / f"new.{suffix}").counts == {}


@pytest.mark.parametrize("content", [b"\xff", b'[{"id": "1", "conversations": []}, "\xe9\xe9"]'])
def test_one_wrong_byte_is_damage_and_no_old_encoding(tmp_path: Path, content: bytes) -> None:
    assert "other-encoding" not in report_on(tmp_path / "data.json", content).counts


def test_utf_8_with_a_broken_byte_is_no_old_encoding(tmp_path: Path) -> None:
    content = dump([talk(("human", FRENCH), ("gpt", "ok")), record(1)]).encode().replace(b"caf\xc3\xa9", b"caf\xe9")
    assert report_on(tmp_path / "data.json", content).counts == {"undecodable-bytes": 1}


@pytest.mark.parametrize("head", [b"\x1f\x8b\x08\x00", b"PK\x03\x04", b"\x80\x04\x95", b"PAR1", b"BZh9", b"\xfd7zXZ\x00", b"ARROW1\x00\x00",
                                  b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"\x93NUMPY", b"GGUF", b"SQLite format 3\x00"])  # fmt: skip
def test_an_archive_or_binary_file_is_refused_whatever_its_name(tmp_path: Path, head: bytes) -> None:
    report = report_on(tmp_path / "data.json", head + dump([record()]).encode())
    assert (report.counts, report.num_rows) == ({"not-a-text-file": 1}, 0)


def test_a_bomb_of_a_gigabyte_is_refused_by_its_first_bytes(tmp_path: Path) -> None:
    """1 MB that unpacks to 1 GB: a thousand times the same member."""
    member = gzip.compress(bytes(10**6))
    (tmp_path / "data.json").write_bytes(member * 1000)
    assert (tmp_path / "data.json").stat().st_size < 2 * 10**6
    report_on(tmp_path / "other.json", b"\x1f\x8b\x08\x00")  # whatever is read once is read now
    before = bytes_read()
    report = validate(tmp_path / "data.json")
    assert bytes_read() - before < 100_000
    assert (report.counts, report.num_rows) == ({"not-a-text-file": 1}, 0)


def bytes_read() -> int:
    """By this process so far, from files and pipes."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_leaked_and_empty_evaluation_data_are_named(tmp_path: Path) -> None:
    report_on(tmp_path / "eval.json", [record(7), record(1)])
    report_on(tmp_path / "nothing.json", [talk(H)])
    report_on(tmp_path / "data.json", [record(0), record(1)])
    leaked = validate(tmp_path / "data.json", eval_path=tmp_path / "eval.json")
    assert found(leaked, 1) == [("eval-leak", None)]
    assert "row 1" in one(leaked, "eval-leak").problem
    assert found(validate(tmp_path / "data.json", eval_path=tmp_path / "nothing.json"), None) == [("eval-empty", None)]


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file 'data.json'"):
        validate(tmp_path / "data.json")


def test_issues_arrive_one_by_one_and_stand_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(dump([record(0), talk(G, H, G), record(0), 5]), encoding="utf-8")
    heard: list[str] = []
    report = validate(tmp_path / "data.json", on_issue=lambda issue: heard.append(issue.code))
    assert sorted(heard) == sorted(issue.code for issue in report.issues)
    assert [issue.row for issue in report.issues] == [1, 2, 2, 3]


def test_numbers_that_repeat_are_found_over_any_distance() -> None:
    numbers, count = Numbers(), 3 * BLOCK_ROWS + 5
    for start in range(0, count, 1000):
        numbers.extend(range(start, min(start + 1000, count)))
    assert numbers.repeated() == {}
    numbers.extend([0, 7, 0, 2 * BLOCK_ROWS, 7])
    assert numbers.repeated() == {count + 1: 7, count + 3: 2 * BLOCK_ROWS, count + 4: 7}, "0 is nothing to compare"


def test_every_rule_has_its_line_in_the_table_and_every_sentence_its_values() -> None:
    table = rules_table()
    for rule in RULES.values():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.code)
        assert table.count(f"| `{rule.code}` | {rule.severity} |") == 1
    assert all(line.count("|") - line.count("\\|") == 5 for line in table.splitlines())


def test_what_a_problem_quotes_its_remedy_names_too() -> None:
    unquoted = {"crlf-line-ends", "content-after-list", "truncated-file", "undecodable-bytes"}
    for rule in RULES.values():
        quoted = set(re.findall(r"(?<!{){(text|escape)}", rule.problem))
        assert rule.code in unquoted or not quoted or quoted & set(re.findall(r"{(text|escape)}", rule.remedy)), rule.code


def test_the_offending_value_is_quoted_shortly_and_on_one_line(tmp_path: Path) -> None:
    report = report_on(tmp_path / "data.json", [talk(H, ("gpt", {"nested": ["x" * 500, None]})), talk(("a\x1b[31m\nb", "x"), G)])
    assert one(report, "value-not-text").remedy.startswith('Write {"nested": ["xxx')
    assert len(one(report, "value-not-text").remedy) < 130
    assert "\\x1b[31m\\nb" in one(report, "unknown-role").remedy

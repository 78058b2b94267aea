"""Reading many records at once says exactly what reading them one by one says."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from core.data import batch
from core.data.batch import Batch
from core.data.reader import read_batches
from core.data.rows import check_rows
from core.data.validate import validate
from tests.unit.data.files import dump, record, talk

PATCHED = [HealthCheck.function_scoped_fixture]

# What rules look for, in every way JSON can write it, and what only looks like it.
HIDDEN = [
    "</s>", "<\\/s>", "\\u003c/s>", "<s>", "<unk>", "</p>", " ASSISTANT:", "ASSISTANT:", " ASSISTAN\\u0054:", "\\b", "\\f", "\\\\b", "\\\\\\b",
    "\\u0007", "\\\\u0007", "\\u0022", "\\\"", "\\\\\\\"", "\\\\", "\\n", "\\t", "\\/", "\x7f", "\\u007f", "\x85", "\\u0085", "é", "\\u00e9",
    "\\ud83d\\ude00", "\\ud800", "😀", "你好", "\\u0000", '}, {\\"id\\": ', "\u2028", " : ", "\\\" :", "\\\":", "{", "}", "[]", "\x00", "\t",
]  # fmt: skip
VALUES = st.lists(st.sampled_from(HIDDEN) | st.just("word "), min_size=1, max_size=5).map("".join)


@st.composite
def odd_turns(draw: st.DrawFn) -> str:
    """The text of a record's turns, seldom as it should be."""
    count = draw(st.sampled_from([2, 2, 2, 4, 1, 3, 0]))
    turns: list[str] = []
    for number in range(count):
        role = draw(st.sampled_from(["human", "gpt"][number % 2 :] + ["human", "gpt"][: number % 2] + ["system", "user", "robot"]))
        key = draw(st.sampled_from(['"from"'] * 6 + ['"role"', '"from" ', '"fr\\u006fm"', '"id"', '"from": "x", "from"']))
        value = draw(VALUES | st.sampled_from(["", " ", "\\n"]))
        end = draw(st.sampled_from([""] * 6 + [', "x": 1', ', "value": "twice"', ","]))
        turns.append(f'{{{key}: "{role}", "value": "{value}"{end}}}')
    return ", ".join(turns)


@st.composite
def odd_records(draw: st.DrawFn) -> str:
    turns = draw(odd_turns())
    name = draw(st.sampled_from(['"a"', '"b"', '"\\u0022"', '"x\\\\"', "1", "null", '""', '"<s>"']))
    key = draw(st.sampled_from(['"conversations"'] * 6 + ['"messages"', '"conversations" ', '"id": "twice", "conversations"']))
    extra = draw(st.sampled_from([""] * 6 + [', "system": "Be brief."', ', "x": {"id": "y"}', ', "conversations": []', ","]))
    return f'{{"id": {name}, {key}: [{turns}]{extra}}}'


GOOD = st.integers(0, 9).map(lambda number: dump(record(number)))


@settings(max_examples=300, suppress_health_check=PATCHED)
@given(
    st.lists(GOOD | GOOD | odd_records(), min_size=4, max_size=14),
    st.sampled_from([", ", ",\n", ",\n  ", ",,", "\n", "\r\n", "\n\n", ",\r\n"]),
    st.booleans(),
    st.sampled_from([200, 500, 1 << 16]),
)
@example(
    [dump(record(0))] * 2 + ['{"id": "a", "conversations": [{"from": "human", "value": "x"}', '{"from": "gpt", "value": "y"}]}'],
    "\n",
    False,
    1 << 16,
)
def test_every_row_is_the_same_read_alone_or_among_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: list[str], between: str, is_list: bool, batch_bytes: int
) -> None:
    path = tmp_path / "data.json"
    opening, closing = ("[", "]") if is_list else ("", "\n")
    path.write_text(opening + between.join([dump(record(77)), *records]) + closing, encoding="utf-8", errors="surrogatepass", newline="")
    assert_same(path, monkeypatch, batch_bytes)


def assert_same(path: Path, monkeypatch: pytest.MonkeyPatch, batch_bytes: int) -> None:
    monkeypatch.setattr(batch, "BATCH_BYTES", 0)
    findings: list[Any] = []
    one_by_one, report = list(check_rows(path, findings.append)), validate(path)
    monkeypatch.setattr(batch, "BATCH_BYTES", batch_bytes)
    others: list[Any] = []
    assert list(check_rows(path, others.append)) == one_by_one
    assert others == findings
    assert validate(path) == report


@pytest.mark.parametrize(
    "layout", ["compact", "one a line", "indented", "ascii", "lines", "windows lines", "turns first", "messages", "utf-16"]
)
def test_good_files_of_every_layout_are_read_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    path, encoding = tmp_path / "data.json", "utf-16" if layout == "utf-16" else "utf-8"
    records: list[dict[str, Any]] = [
        talk(("system", "Be kind."), ("human", f'Wo "ist" {n}?\n\\frac'), ("gpt", "Là <p> \u00a0你"), id=f"row_{n}")
        if n % 5 == 0
        else record(n)
        for n in range(300)
    ]
    if layout == "turns first":
        records = [dict(reversed(each.items())) for each in records]
    if layout == "messages":
        records = [
            {"id": str(n), "messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "!"}]} for n in range(300)
        ]
    texts = [json.dumps(each, ensure_ascii=layout == "ascii") for each in records]
    content = {
        "one a line": "[\n" + ",\n".join(texts) + "\n]\n",
        "indented": json.dumps(records, indent=2, ensure_ascii=False),
        "lines": "\n".join(texts) + "\n",
        "windows lines": "\r\n".join(texts) + "\r\n",
    }.get(layout, "[" + ", ".join(texts) + "]")
    path.write_text(content, encoding=encoding, newline="")
    monkeypatch.setattr(batch, "BATCH_BYTES", 4096)
    sizes = [len(item) for item in read_batches(path) if isinstance(item, Batch)]
    assert sum(sizes) >= 280
    assert len(sizes) >= 3
    assert_same(path, monkeypatch, 4096)


def test_a_file_that_is_never_good_is_seldom_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(dump(record(n, source="web")) + "\n" for n in range(3000)), encoding="utf-8")
    tried: list[int] = []
    read = batch.read_columns
    monkeypatch.setattr(batch, "read_columns", lambda raw, *rest: tried.append(len(raw)) or read(raw, *rest))
    monkeypatch.setattr(batch, "BATCH_BYTES", 2048)
    assert validate(path).counts == {"extra-key": 3000}
    assert 0 < sum(tried) < path.stat().st_size / 8


def test_one_bad_record_in_many_costs_its_neighbours_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [record(n) for n in range(1000)]
    records[500] = talk(("human", "Q </s>"), ("gpt", "A"))
    path = tmp_path / "data.json"
    path.write_text(dump(records), encoding="utf-8")
    monkeypatch.setattr(batch, "BATCH_BYTES", 2048)
    rows = {item.row for item in read_batches(path) if not isinstance(item, Batch)}
    assert 500 in rows
    assert len(rows) < 12
    assert [(issue.row, issue.code) for issue in validate(path).issues] == [(500, "eos-in-value")]


def test_long_records_behind_a_bad_one_are_read_in_batches_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [talk(("human", f"{n}?"), ("gpt", "word " * 100)) for n in range(300)]
    records[3] = talk(("human", "Q </s>"), ("gpt", "A"))
    path = tmp_path / "data.json"
    path.write_text(dump(records), encoding="utf-8")
    monkeypatch.setattr(batch, "BATCH_BYTES", 2048)
    assert sum(not isinstance(item, Batch) for item in read_batches(path)) < 30


def test_mutated_bytes_of_a_real_file_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random edits of the shipped demo data: whatever comes out, nothing crashes and the rows add up."""
    from core.paths import EXAMPLES

    whole = (EXAMPLES / "identity.json").read_bytes()[:12_000]
    dice = random.Random(20)
    pieces = [
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\n",
        b"\0",
        b"\xff",
        b"\xc2\x85",
        b"\\u0000",
        b"\\ud800",
        b"</s>",
        b"NaN",
        b"\x1f\x8b",
    ]
    path = tmp_path / "data.json"
    for _ in range(150):
        content = bytearray(whole if dice.random() < 0.5 else whole.replace(b"\n", b"\r\n"))
        for _ in range(dice.randint(1, 6)):
            at, length = dice.randrange(len(content)), dice.choice([0, 0, 1, 1, 2, 40, 400])
            content[at : at + length] = dice.choice([b"", dice.choice(pieces), bytes(dice.randbytes(3)), content[at : at + length] * 2])
        path.write_bytes(bytes(content[: dice.choice([len(content), dice.randrange(len(content))])]))
        report = validate(path)
        rejected = {issue.row for issue in report.issues if issue.severity == "error" and issue.row is not None}
        assert report.num_rows == report.num_valid + report.num_rejected
        assert report.num_rejected == len(rejected)
        assert_same(path, monkeypatch, dice.choice([300, 1000, 1 << 16]))

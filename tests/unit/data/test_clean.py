"""Cleaning changes what was chosen and nothing else, and every row is accounted for."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import paths
from core.conversation import Conversation
from core.data.clean import account, clean, dropped, preview, restore
from core.data.dataset import Dataset, import_dataset, open_dataset
from core.data.dropped import DROPPED, INDEX
from core.data.repairs import REPAIRS, parse_chosen
from core.data.tokenizer import ChatTokenizer, load_tokenizer
from core.errors import UserError
from tests.unit.data.files import dump, record, talk


@pytest.fixture(scope="module")
def tokenizer() -> ChatTokenizer:
    return load_tokenizer(paths.STARTER)


def imported(folder: Path, records: list[Any], name: str = "talks") -> Dataset:
    """The dataset of these records; a str stands in the file as it is."""
    lines = [each if isinstance(each, str) else dump(each) for each in records]
    (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return import_dataset(folder / f"{name}.jsonl")


def texts(dataset: Dataset) -> list[list[str]]:
    return [[f"{turn.role[0]}:{turn.content}" for turn in conversation.turns] for conversation in dataset]


def one(folder: Path, value: Any, fixes: str, tokenizer: ChatTokenizer | None = None) -> list[list[str]]:
    """What the repairs make of one record beside a good one."""
    return texts(clean(imported(folder, [value, record(99)]), parse_chosen(fixes), tokenizer=tokenizer))[:-1]


@pytest.mark.parametrize(
    ("fixes", "turns", "expected"),
    [
        ("fix-encoding", [("human", "cafÃ© â€œhiâ€\x9d"), ("gpt", "naïve\nÃ©")], ["u:café “hi”", "a:naïve\né"]),
        ("strip-control", [("human", "a\x00b\x1b"), ("gpt", "\x85c\td\n")], ["u:ab", "a:c\td\n"]),
        ("strip-special", [("human", "hi</s>"), ("gpt", "<</s>/s>ok<|im_end|>")], ["u:hi", "a:ok"]),
        ("strip-special:tokens=[END];[STOP]", [("human", "hi[END]"), ("gpt", "ok[STOP]")], ["u:hi", "a:ok"]),
        ("rename-roles:roles=robot=gpt;customer=human", [("customer", "hi"), ("robot", "ok")], ["u:hi", "a:ok"]),
        ("merge-same-role", [("human", "a"), ("human", "b"), ("gpt", "c"), ("gpt", "d")], ["u:a\n\nb", "a:c\n\nd"]),
        ("drop-empty", [("human", "a"), ("gpt", ""), ("human", "b"), ("gpt", "c"), ("human", " "), ("gpt", "d")], ["u:b", "a:c"]),
        ("merge-same-role,drop-empty", [("human", "a"), ("human", ""), ("gpt", "c")], ["u:a", "a:c"]),
        ("drop-leading-answer", [("system", "s"), ("gpt", "hello"), ("human", "a"), ("gpt", "b")], ["s:s", "u:a", "a:b"]),
        ("drop-trailing-question", [("human", "a"), ("gpt", "b"), ("human", "c")], ["u:a", "a:b"]),
    ],
)
def test_a_repair_brings_a_row_into_order(
    workspace: Path, tmp_path: Path, fixes: str, turns: list[tuple[str, str]], expected: list[str]
) -> None:
    assert one(tmp_path, talk(*turns), fixes) == [expected]


@pytest.mark.parametrize(
    ("fixes", "gone"),
    [
        ("drop-language:keep=Latin", {"chinese", "russian"}),
        ("drop-language:drop=cyrillic", {"russian"}),
        ("drop-length:min_turns=4", {"chinese", "russian", "short"}),
        ("drop-length:max_turns=2", {"long"}),
        ("drop-length:max_characters=6", {"long", "russian", "chinese"}),
        ("drop-length:min_tokens=50", {"short", "chinese"}),
        ("drop-phrase:phrases=привет;something else", set()),
        ("drop-phrase:phrases=привет, МИР,where=anywhere", {"russian"}),
        ("drop-phrase:phrases=as an ai, i;b", {"long"}),
    ],
)
def test_rows_are_dropped_by_what_they_are(workspace: Path, tmp_path: Path, tokenizer: ChatTokenizer, fixes: str, gone: set[str]) -> None:
    rows = [
        talk(("human", "q"), ("gpt", "a"), id="short"),
        talk(("human", "你好吗"), ("gpt", "我很好 ok"), id="chinese"),
        talk(("human", "Привет, мир"), ("gpt", "Да"), id="russian"),
        talk(("human", "x"), ("gpt", "As an AI, I cannot"), ("human", "y"), ("gpt", "z"), id="long"),
    ]
    cleaned = clean(imported(tmp_path, rows), parse_chosen(fixes), tokenizer=tokenizer)
    assert {"short", "chinese", "russian", "long"} - {conversation.id for conversation in cleaned} == gone
    assert {row.id for row in dropped(cleaned)} == gone


def test_rejected_rows_come_back_when_mended_and_stay_when_not(workspace: Path, tmp_path: Path) -> None:
    rows = [
        talk(("human", "a"), ("human", "b"), ("gpt", "c"), id="twice"),
        '{"id": "cut", "conversations": [{"from": "human", ',
        talk(("human", "a"), ("robot", "c"), id="role"),
        7,
        record(1),
    ]
    parent = imported(tmp_path, rows)
    assert len(parent) == 1
    cleaned = clean(parent, {"merge-same-role": {}})
    assert [conversation.id for conversation in cleaned] == ["twice", "row_1"]
    assert (cleaned.manifest.num_rows, cleaned.manifest.num_rejected) == (5, 3)
    assert (account(cleaned).num_kept, account(cleaned).num_changed) == (4, 1)
    both = clean(cleaned, {"rename-roles": {"roles": ["robot=gpt"]}, "drop-rejected": {}})
    assert [conversation.id for conversation in both] == ["twice", "role", "row_1"]
    assert both.manifest.num_rejected == 0
    assert [(row.row, row.code) for row in dropped(both)] == [(1, "drop-rejected"), (3, "drop-rejected")]
    assert next(iter(dropped(both))).text == rows[1].strip()


def test_rows_are_dropped_by_the_codes_chosen(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [talk(("gpt", "a")), talk(("human", "a")), record(0), talk(("human", ""), ("gpt", "x"))])
    cleaned = clean(parent, {"drop-rejected": {"codes": ["trailing-question", "empty-value"]}})
    assert [row.row for row in dropped(cleaned)] == [1, 3]
    assert (len(cleaned), cleaned.manifest.num_rejected) == (1, 1)


def test_bytes_that_are_no_utf8_and_raw_control_characters_can_be_mended(workspace: Path, tmp_path: Path) -> None:
    latin = dump(talk(("human", "café \\x41 C:\\xe9"), ("gpt", "ok"), id="latin")).encode("cp1252")
    control = dump(talk(("human", "a@b"), ("gpt", "ok"), id="control")).encode().replace(b"@", b"\x07")
    (tmp_path / "bytes.jsonl").write_bytes(b"\n".join([dump(record(0)).encode() + "é".encode() * 0, latin, control]) + b"\n")
    parent = import_dataset(tmp_path / "bytes.jsonl")
    assert len(parent) == 1
    cleaned = clean(parent, {"fix-encoding": {}, "strip-control": {}})
    assert texts(cleaned)[1:] == [["u:café \\x41 C:\\xe9", "a:ok"], ["u:ab", "a:ok"]]


def test_a_long_conversation_is_split_between_pairs_and_loses_none(workspace: Path, tmp_path: Path, tokenizer: ChatTokenizer) -> None:
    pairs = [(role, f"{role} {number} " + "word " * (140 if number == 3 else 4)) for number in range(9) for role in ("human", "gpt")]
    cleaned = clean(
        imported(tmp_path, [talk(("system", "Be brief."), *pairs, id="long"), record(1)]),
        parse_chosen("split-long:max_tokens=120"),
        tokenizer=tokenizer,
    )
    parts = [conversation for conversation in cleaned if conversation.id.startswith("long_part")]
    assert [part.id for part in parts] == [f"long_part{number}" for number in range(1, len(parts) + 1)]
    assert all(part.turns[0].content == "Be brief." for part in parts)
    assert [turn.content for part in parts for turn in part.turns[1:]] == [text for _, text in pairs]
    from core.data.render import tokenize

    too_long = [part for part in parts if tokenize(part, tokenizer).full_length > 120]
    assert [len(part.turns) for part in too_long] == [3], "a pair that is too long by itself stays whole, alone"
    found = account(cleaned)
    assert (found.num_in, found.num_made, found.num_kept, found.num_changed) == (2, len(parts) - 1, 1, len(parts))
    assert (found.num_too_long, found.too_long) == (1, [0])


def test_the_first_of_equal_and_of_similar_conversations_stays(workspace: Path, tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(60)]
    almost = [*words[:59], "other"]
    rows = [
        talk(("human", "tell"), ("gpt", " ".join(words)), id="first"),
        talk(("human", "tell"), ("gpt", " ".join(words)), id="same"),
        talk(("human", "tell"), ("gpt", " ".join(almost)), id="almost"),
        talk(("human", "else"), ("gpt", " ".join(reversed(words))), id="else"),
    ]
    parent = imported(tmp_path, rows)
    exact = clean(parent, {"dedupe-exact": {}})
    assert [conversation.id for conversation in exact] == ["first", "almost", "else"]
    both = clean(parent, {"dedupe-near": {}, "dedupe-exact": {}})
    assert [conversation.id for conversation in both] == ["first", "else"]
    assert [(row.id, row.code, row.twin) for row in dropped(both)] == [("same", "dedupe-exact", 0), ("almost", "dedupe-near", 0)]
    assert [row.id for row in dropped(both, code="dedupe-near")] == ["almost"]


def test_dropped_rows_can_be_restored_and_the_parent_stays(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [record(0), talk(("human", "a"), ("robot", "b")), record(0), record(3)])
    before = {path: path.read_bytes() for path in parent.folder.iterdir()}
    cleaned = clean(parent, {"drop-rejected": {}, "dedupe-exact": {}}, name="Clean")
    assert [row.row for row in dropped(cleaned)] == [1, 2]
    back = restore(cleaned, [2])
    assert [conversation.id for conversation in back] == ["row_0", "row_0", "row_3"]
    assert (account(back).num_restored, [row.row for row in dropped(back)]) == (1, [1])
    assert account(back).balances
    assert restore(back, [1]).manifest.num_rejected == 1
    with pytest.raises(UserError, match="Row 0 was not dropped"):
        restore(cleaned, [0])
    with pytest.raises(UserError, match="not made by a cleaning"):
        list(dropped(parent))
    assert before == {path: path.read_bytes() for path in parent.folder.iterdir()}


def test_a_page_of_dropped_rows_reads_nothing_but_its_own_lines(workspace: Path, tmp_path: Path) -> None:
    rows = [record(number) if number % 3 else talk(("human", f"é {number}"), id=f"row_{number}") for number in range(30)]
    cleaned = clean(imported(tmp_path, [*rows, record(1)]), {"drop-rejected": {}, "dedupe-exact": {}})
    everything = list(dropped(cleaned))
    assert [row.row for row in everything] == [*range(0, 30, 3), 30]
    lines = bytearray((cleaned.folder / DROPPED).read_bytes())
    begin = lines.index(b'{"row": 15')
    (cleaned.folder / DROPPED).write_bytes(b"\xff" * begin + lines[begin:])
    for code, of_code in (("", everything), ("drop-rejected", everything[:-1]), ("dedupe-exact", everything[-1:]), ("drop-phrase", [])):
        assert list(dropped(cleaned, 5, 3, code)) == of_code[5:8]
        assert list(dropped(cleaned, 99, 3, code)) == []
    (cleaned.folder / DROPPED).write_bytes(lines)
    (cleaned.folder / INDEX).unlink()  # as in a dataset of an earlier version
    assert list(dropped(cleaned)) == everything


def test_rows_are_restored_by_the_tokenizer_that_the_cleaning_counted_with(
    workspace: Path, tmp_path: Path, tokenizer: ChatTokenizer
) -> None:
    parent = imported(tmp_path, [record(0), talk(("human", "a " * 500), ("gpt", "b"))])
    chosen = {"drop-length": {"max_tokens": 100}}
    cleaned = clean(parent, chosen, tokenizer=replace(tokenizer, model="starter"))
    assert clean(parent, chosen, tokenizer=tokenizer).id == cleaned.id  # what the model is called makes no other dataset
    for other in (replace(tokenizer, sha256="0" * 64), None):
        with pytest.raises(UserError, match="another tokenizer") as refused:
            restore(cleaned, [1], other)
        assert "Choose starter" in refused.value.remedy
    assert len(restore(cleaned, [1], tokenizer)) == 2
    plain = clean(parent, {"drop-phrase": {"phrases": ["b"]}})
    assert restore(plain, [1], tokenizer).id == restore(plain, [1]).id


def test_a_cleaned_dataset_knows_where_it_comes_from_and_is_made_once(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [record(0), record(1)])
    first = clean(parent, {"strip-control": {}, "drop-rejected": {}}, name="Clean")
    again = clean(parent, {"drop-rejected": {"codes": []}, "strip-control": {}}, name="Other")
    assert (again.id, again.name) == (first.id, "Clean")
    assert (first.manifest.parent, first.manifest.made_by["verb"]) == (parent.id, "clean")  # type: ignore[index]
    assert open_dataset(first.id).manifest == first.manifest
    assert clean(parent, {"drop-rejected": {}}).id != first.id


def test_the_preview_is_the_account_with_examples_and_writes_nothing(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [talk(("human", "a"), ("human", "b"), ("gpt", "c")), record(0), record(0)])
    chosen = {"merge-same-role": {}, "dedupe-exact": {}}
    listed = sorted(paths.datasets_dir().iterdir())
    steps: list[tuple[int, int]] = []
    seen = preview(parent, chosen, on_progress=lambda done, total: steps.append((done, total)))
    assert sorted(paths.datasets_dir().iterdir()) == listed
    assert seen == account(clean(parent, chosen))
    merge, dedupe = seen.effects
    assert (merge.num_changed, dedupe.num_dropped) == (1, 1)
    assert "user: a\nuser: b" in merge.examples[0].before and "user: a\n\nb" in (merge.examples[0].after or "")
    assert (dedupe.examples[0].row, dedupe.examples[0].after) == (2, None)
    assert steps[-1] == (6, 6)


@pytest.mark.parametrize(
    ("fixes", "problem"),
    [
        ("", "no repair ''"),
        ("mend", "no repair 'mend'"),
        ("drop-length", "no limit"),
        ("drop-length:min_turns=x", "cannot be 'x'"),
        ("drop-length:min_turns=-1", "cannot be '-1'"),
        ("drop-length:most=1", "no parameter 'most'"),
        ("drop-language:keep=Klingon", "cannot be 'Klingon'"),
        ("dedupe-near:threshold=2", "cannot be '2'"),
        ("drop-length:min_tokens=5", "needs a base model"),
        ("rename-roles:roles=robot", "renames no role"),
        ("rename-roles:roles=robot=machine", "renames no role"),
        ("merge-same-role:x", "neither a repair nor"),
        ("merge-same-role,mend", "neither a repair nor"),
    ],
)
def test_what_cannot_be_done_is_said(workspace: Path, tmp_path: Path, fixes: str, problem: str) -> None:
    parent = imported(tmp_path, [record(0)])
    with pytest.raises(UserError, match=problem):
        clean(parent, parse_chosen(fixes))
    assert len(list(paths.datasets_dir().iterdir())) == 1


ROLES = st.sampled_from(["human", "gpt", "system", "robot"])
PIECES = st.sampled_from(["a", "b", "cafÃ©", "é", "</s>", "\x00", " ", "\n", "你", "ö", "<", "/s>", "\x85", "word word word", ""])
FAULTY = st.lists(st.tuples(ROLES, st.lists(PIECES, max_size=4).map("".join)), min_size=1, max_size=6).map(lambda turns: talk(*turns))
BROKEN = st.sampled_from(
    ["7", '"text"', "{", '{"id": 1}', '{"conversations": []}', '{"conversations": [7]}', "}{", '{"a": {"b": ', "[", "\\", '{"a":1}x}']
)
CHOICES = {
    "fix-encoding": {}, "strip-control": {}, "strip-special": {}, "rename-roles": {"roles": ["robot=gpt"]}, "merge-same-role": {},
    "drop-empty": {}, "drop-leading-answer": {}, "drop-trailing-question": {}, "split-long": {"max_tokens": 0, "max_characters": 6},
    "drop-rejected": {}, "drop-language": {"drop": ["Han"]}, "drop-length": {"max_turns": 4}, "drop-phrase": {"phrases": ["b"]},
    "dedupe-exact": {}, "dedupe-near": {},
}  # fmt: skip
assert list(CHOICES) == list(REPAIRS)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.one_of(FAULTY, FAULTY, BROKEN), min_size=1, max_size=8),
    codes=st.sets(st.sampled_from(sorted(CHOICES)), min_size=1),
)
def test_the_account_balances_and_cleaning_twice_is_cleaning_once(tmp_path: Path, rows: list[Any], codes: set[str]) -> None:
    parent = imported(tmp_path, [dump(record(0))] + [dump(row) if not isinstance(row, str) else row for row in rows])
    chosen = {code: CHOICES[code] for code in codes}
    cleaned = clean(parent, chosen)
    found = account(cleaned)
    assert found.balances
    assert (found.num_in, found.num_out) == (parent.manifest.num_rows, cleaned.manifest.num_rows)
    assert len(list(dropped(cleaned))) == found.num_dropped
    assert Counter(row.code for row in dropped(cleaned)) == {
        effect.code: effect.num_dropped for effect in found.effects if effect.num_dropped
    }
    if "drop-rejected" in codes:
        assert cleaned.manifest.num_rejected == 0
    again = clean(cleaned, chosen)
    assert texts(again) == texts(cleaned)
    assert (account(again).num_changed, account(again).num_dropped) == (0, 0)
    assert again.source.read_bytes() == cleaned.source.read_bytes()


GOOD = st.lists(
    st.tuples(st.text("ab 你", min_size=1).filter(str.strip), st.text("xy é", min_size=1).filter(str.strip)), min_size=1, max_size=6
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(talks=st.lists(GOOD, min_size=1, max_size=5), limit=st.integers(1, 30))
def test_splitting_and_joining_lose_no_text(tmp_path: Path, talks: list[list[tuple[str, str]]], limit: int) -> None:
    rows = [
        talk(*[(role, text) for pair in pairs for role, text in zip(("human", "gpt"), pair, strict=True)], id=str(number))
        for number, pairs in enumerate(talks)
    ]
    parent = imported(tmp_path, rows)

    def said(dataset: Dataset) -> dict[str, str]:
        found: dict[str, str] = {}
        for conversation in dataset:
            number = conversation.id.partition("_part")[0]
            found[number] = found.get(number, "") + "".join(turn.content for turn in conversation.turns)
        return found

    split = clean(parent, {"split-long": {"max_tokens": 0, "max_characters": limit}})
    assert said(split) == said(parent)
    assert all(_size(part) <= limit or len(part.turns) == 2 for part in split)
    doubled = imported(
        tmp_path, [{**row, "conversations": [half for turn in row["conversations"] for half in (turn, turn)]} for row in rows], "doubled"
    )
    joined = clean(doubled, {"merge-same-role": {}})
    assert [[turn.content for turn in conversation.turns] for conversation in joined] == [
        [f"{turn.content}\n\n{turn.content}" for turn in conversation.turns] for conversation in parent
    ]


def _size(conversation: Conversation) -> int:
    return sum(len(turn.content) for turn in conversation.turns)


def test_dropped_rows_are_json_lines(workspace: Path, tmp_path: Path) -> None:
    cleaned = clean(imported(tmp_path, [record(0), record(0, id="é\u2028")]), {"dedupe-exact": {}})
    (line,) = (cleaned.folder / "dropped.jsonl").read_bytes().split(b"\n")[:-1]
    assert json.loads(line)["id"] == "é\u2028"


def test_rejected_rows_of_a_table_come_back_too(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("instruction,output,id\nHi,Hello,a\nBad\x07bell,ok</s>,b\nStill bad</s>,,c\n", encoding="utf-8")
    parent = import_dataset(tmp_path / "table.csv")
    assert (parent.manifest.num_rows, len(parent)) == (3, 1)
    cleaned = clean(parent, {"strip-special": {}, "drop-rejected": {}})
    assert [(conversation.id, conversation.turns[1].content) for conversation in cleaned] == [("a", "Hello"), ("b", "ok")]
    assert [(row.row, row.text) for row in dropped(cleaned)] == [(2, "user: Still bad\nassistant: ")]


def test_a_cleaning_that_is_broken_off_leaves_nothing_and_can_be_done_again(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [record(number) for number in range(5)])

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        clean(parent, {"strip-control": {}}, on_progress=stop)
    assert [folder.name for folder in paths.datasets_dir().iterdir()] == [parent.id]
    assert len(clean(parent, {"strip-control": {}})) == 5


def test_a_full_disk_is_said_and_leaves_nothing(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = imported(tmp_path, [record(number) for number in range(5)])

    def full(_folder: Path, _needed_bytes: int, step: str) -> None:
        raise UserError("The disk is full.", step, "Free some space.", code="DISK")

    monkeypatch.setattr(paths, "require_disk", full)
    with pytest.raises(UserError, match="disk is full"):
        clean(parent, {"strip-control": {}})
    assert [folder.name for folder in paths.datasets_dir().iterdir()] == [parent.id]


def test_the_same_cleaning_twice_at_once_is_refused(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [record(number) for number in range(5)])
    refusals: list[str] = []

    def again(_done: int, _total: int) -> None:
        with pytest.raises(UserError, match="being made already") as raised:
            clean(parent, {"strip-control": {}})
        refusals.append(raised.value.problem)

    assert len(clean(parent, {"strip-control": {}}, on_progress=again)) == 5
    assert refusals


def test_a_file_where_every_row_goes_leaves_an_empty_dataset_with_its_account(workspace: Path, tmp_path: Path) -> None:
    parent = imported(tmp_path, [record(number) for number in range(3)])
    cleaned = clean(parent, {"drop-phrase": {"phrases": ["answer"]}})
    assert (len(cleaned), account(cleaned).num_dropped, account(cleaned).num_out) == (0, 3, 0)
    assert len(restore(cleaned, [1])) == 1


def test_many_rows_are_walked_through_one_by_one(workspace: Path, tmp_path: Path) -> None:
    """Rejected and good rows keep their order across the batches of the Arrow file."""
    rows = [record(number) if number % 7 else talk(("human", "q"), id=f"row_{number}") for number in range(3000)]
    parent = imported(tmp_path, rows)
    kept = clean(parent, {"strip-control": {}})
    assert [json.loads(line)["id"] for line in kept.source.read_bytes().splitlines()] == [f"row_{number}" for number in range(3000)]

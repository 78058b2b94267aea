"""The files of a split become one without a word lost: what stands wrong in one of them is refused with its name, or is still wrong in the whole."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.data import shards
from core.data.cursor import MAX_RECORD_BYTES
from core.data.shards import join
from core.data.validate import validate
from core.errors import UserError
from tests.unit.data.files import dump, record


def written(folder: Path, *contents: bytes, suffix: str = "jsonl") -> tuple[Path, ...]:
    files = tuple(folder / f"part-{number}.{suffix}" for number in range(len(contents)))
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    return files


def lines(*numbers: int) -> bytes:
    return "".join(dump(record(number)) + "\n" for number in numbers).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [(gzip.compress(lines(1)), "gzip"), (b"[" + lines(1).strip() + b",\n", "ends in the middle"), (b"PK\x03\x04" + lines(1), "zip"),
     (lines(1) + lines(2)[:40], "ends in the middle")],
)  # fmt: skip
def test_a_part_that_cannot_be_read_to_its_end_is_refused_by_its_name(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=r"part-1\.jsonl") as refused:
        join(written(tmp_path, lines(0), content), tmp_path)
    assert said in refused.value.problem.lower()
    assert refused.value.where == "part-1.jsonl"


def test_what_is_broken_in_a_part_is_broken_in_the_whole(tmp_path: Path) -> None:
    broken = b'[{"id": "x", "conversations": [{"from": "human", "value": "a\nb"}, {"from": "gpt", "value": "c"}]}]'
    long = dump(record(2, note="x" * MAX_RECORD_BYTES)).encode() + b"\n"
    joined = join(written(tmp_path, lines(0), broken, long + lines(3), b""), tmp_path)
    report = validate(joined.file)
    assert (report.num_rows, report.num_valid) == (4, 2)
    assert joined.first_rows == (0, 1, 2, 4)
    assert [(issue.row, issue.code) for issue in report.issues if issue.severity == "error"] == [(1, "broken-json"), (2, "record-too-long")]


def test_parquet_is_joined_a_few_decoded_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [[{"from": "human", "value": "same " * 50}, {"from": "gpt", "value": f"{number}"}] for number in range(100)]
    files = written(tmp_path, b"", b"", suffix="parquet")
    for file in files:
        pq.write_table(pa.table({"conversations": turns, "id": [str(number) for number in range(100)]}), file)
    monkeypatch.setattr(shards, "BATCH_BYTES", 2000)
    joined = join(files, tmp_path)
    assert pq.read_table(joined.file).column("conversations").to_pylist() == turns * 2
    assert joined.first_rows == (0, 100)
    monkeypatch.setattr(shards, "BATCH_BYTES", 100)
    with pytest.raises(UserError, match="row 0 takes more") as refused:
        join(files, tmp_path)
    assert refused.value.where == "part-0.parquet"


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    files = written(tmp_path, b"", b"", suffix="parquet")
    for file in files:
        pq.write_table(pa.table({"question": ["a"], "answer": ["b"]}), file)
    files[1].write_bytes(b"PAR1 and nothing else PAR1")
    with pytest.raises(UserError, match="cannot be read") as refused:
        join(files, tmp_path)
    assert refused.value.where == "part-1.parquet"

"""The importer on two public collections: every file of JSONTestSuite as a file, as a line and as a value, and the Big List of Naughty Strings
through every format. Prints counts and, last, one JSON line.

Nothing of them is kept here: fetch github.com/nst/JSONTestSuite and github.com/minimaxir/big-list-of-naughty-strings and name their folders,
by the options or by the variables that the tests know too, TRANSMUTE_JSON_SUITE and TRANSMUTE_NAUGHTY_STRINGS.

    python benchmarks/bench_parsing.py --suite JSONTestSuite/test_parsing --strings big-list-of-naughty-strings --save
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.data.rows import check_rows
from core.data.validate import validate

RESULT = Path(__file__).parent / "results" / "parsing.json"
EXPECTED = {"y": "must be accepted", "n": "must be refused", "i": "may be either"}  # by the first letter of a file's name
FORMATS = (".json", ".jsonl", ".csv", ".parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suite", default=os.environ.get("TRANSMUTE_JSON_SUITE", ""), help="the folder test_parsing of JSONTestSuite")
    parser.add_argument(
        "--strings", default=os.environ.get("TRANSMUTE_NAUGHTY_STRINGS", ""), help="the folder of the Big List of Naughty Strings"
    )
    parser.add_argument("--save", action="store_true", help="write the result file")
    options = parser.parse_args()
    if not options.suite or not options.strings:
        print("Left out: the two collections are not here; --suite and --strings name their folders.")
        return
    with tempfile.TemporaryDirectory() as folder:
        measured = {"suite": suite(Path(options.suite), Path(folder)), "strings": strings(Path(options.strings), Path(folder))}
    for kind, found in measured["suite"]["values"].items():
        print(f"values that {EXPECTED[kind]}: {found['accepted']} accepted, {found['refused']} refused")
    for suffix, found in measured["strings"]["formats"].items():
        print(
            f"{measured['strings']['strings']} strings through {suffix}: {found['unchanged']} unchanged, {found['refused']} refused by name"
        )
    if options.save:
        RESULT.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(measured))


def suite(folder: Path, work: Path) -> dict[str, Any]:
    """Each file three ways. As the value of an answer's place it decides whether its record is JSON, which is what the suite judges."""
    files = sorted(folder.glob("*.json"))
    values = {kind: {"accepted": 0, "refused": 0} for kind in EXPECTED}
    codes: Counter[str] = Counter()
    rows = 0
    against: list[str] = []
    for file in files:
        content = file.read_bytes()
        as_value = (
            b'{"id": "x", "value": ' + content + b', "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}\n'
        )
        for text in (content, content + b"\n" + good() + b"\n", as_value):
            path = work / "data.json"
            path.write_bytes(text)
            report = validate(path)
            assert report.num_rows == report.num_valid + report.num_rejected and (report.num_rows or report.counts), file.name
            rows += report.num_rows
            codes.update(report.counts)
        kind = file.name[0]
        is_accepted = report.num_valid == report.num_rows == 1 and not {"trailing-comma", "truncated-file"} & set(report.counts)
        values[kind]["accepted" if is_accepted else "refused"] += 1
        if (kind, is_accepted) in (("y", False), ("n", True)):
            against.append(f"{file.name}: {', '.join(report.counts) or 'accepted'}")
    return {"files": len(files), "reports": 3 * len(files), "rows": rows, "values": values, "against": against, "codes": dict(codes)}


def good() -> bytes:
    return b'{"id": "good", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}'


def strings(folder: Path, work: Path) -> dict[str, Any]:
    """Each string as question and in the answer, through every format."""
    (file,) = folder.glob("blns.json")
    given = [text for text in json.loads(file.read_bytes()) if text.strip()]
    rows = [{"question": text, "answer": f"a{text}"} for text in given]
    formats: dict[str, dict[str, int]] = {}
    for suffix in FORMATS:
        path = work / f"strings{suffix}"
        write(rows, path)
        found = {"unchanged": 0, "refused": 0, "changed": 0}
        for row, (_, conversation, _) in zip(rows, check_rows(path), strict=True):
            said = None if conversation is None else [turn.content for turn in conversation.turns]
            found["refused" if said is None else "unchanged" if said == [row["question"], row["answer"]] else "changed"] += 1
        formats[suffix] = found
    return {"strings": len(rows), "formats": formats}


def write(rows: list[dict[str, str]], path: Path) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            with path.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ["question", "answer"])
                table.writeheader()
                table.writerows(rows)
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)


if __name__ == "__main__":
    main()

"""Datasets come from the Hub through the real client: the right files, every refusal explained, and no token left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import hubclient, paths
from core.data import imports
from core.data.dataset import Dataset, open_dataset
from core.data.hubfiles import HubFile, arranged, declared
from core.data.imports import ImportJob, ImportSource
from core.data.likeness import find_near_duplicates
from core.data.mapping import ColumnMapping
from core.data.origin import HubRef
from core.errors import UserError
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN, Repo
from tests.hub.server import Hub

QA = [{"question": f"Question {number}?", "answer": f"Answer {number}."} for number in range(4)]

MANY = [{"question": f"Question {number}?", "answer": f"Answer {number}."} for number in range(400)]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


def talk(question: str, *answer: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, *({"from": "gpt", "value": text} for text in answer)]
    return {"id": question, "conversations": turns}


# A list over many lines, and then lines, as Windows writes them; in both a question without an answer, in the second what is no JSON.
SAID = "the same long answer to a question that was hardly another one, word for word and to its very end"
PRETTY = json.dumps([talk("a", "b"), talk("c"), talk("e", SAID)], indent=2).replace("\n", "\r\n").encode()
LINES = b"\r\n".join(json.dumps(each).encode() for each in (talk("g"), talk("E", SAID), talk("k", "l")))[:-9] + b"\r\n"
DEFAULT = {"config_name": "default", "data_files": [{"split": "train", "path": "a/*.jsonl"}]}
REPOS = (
    Repo("org/one", {"README.md": b"# one", "data.jsonl": jsonl(QA), "model.pkl": b"\x80\x04", "load.py": b"raise SystemExit(1)"}),
    Repo("org/shards", {f"data/train-0000{part}-of-00002.parquet": parquet(MANY[part * 200 :][:200]) for part in range(2)}),
    Repo("org/langs", {"en/train.jsonl": jsonl(QA[:1]), "en/test.jsonl": jsonl(QA[1:2]), "de/train.csv": b"question,answer\nWas?,Das.\n"}),
    Repo(
        "org/carded",
        {"a/x.jsonl": jsonl(QA[:3]), "a/y.jsonl": jsonl(QA[3:]), "b.jsonl": jsonl(QA[:1])},
        card={"configs": [DEFAULT, {"config_name": "small", "data_files": "b.jsonl"}]},
    ),
    Repo(
        "org/script",
        {"script.py": b"raise SystemExit(1)", "data.zip": b"PK\x03\x04"},
        branches={"refs/convert/parquet": {"plain/train/0000.parquet": parquet(QA)}},
    ),
    Repo("org/empty", {"README.md": b"#"}),
    Repo("org/gated", {"data.jsonl": jsonl(QA)}, access="gated"),
    Repo("org/private", {"data.jsonl": jsonl(QA)}, access="private"),
    Repo("org/disabled", {"data.jsonl": jsonl(QA)}, access="disabled"),
    Repo("org/branched", {"data.jsonl": jsonl(QA[:1])}, branches={"v2": {"data.jsonl": jsonl(QA)}}),
    Repo("org/faulty", {"data/train-00000-of-00002.json": PRETTY, "data/train-00001-of-00002.json": LINES}),
    Repo("org/large", {"data.jsonl": jsonl(QA * 3000)}),
)  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, workspace: Path) -> Iterator[Hub]:
    with Hub(REPOS) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
        yield running


def bring(repo_id: str, token: str | None = None, **chosen: Any) -> ImportJob:
    job_id = imports.start(ImportSource(kind="hub", hub=HubRef(repo_id=repo_id, **chosen)), token)
    *_, job = imports.follow(job_id)
    return job


def brought(repo_id: str, token: str | None = None, **chosen: Any) -> Dataset:
    job = bring(repo_id, token, **chosen)
    assert job.state == "done", job.error
    assert job.dataset_id
    return open_dataset(job.dataset_id)


def refused(repo_id: str, token: str | None = None, **chosen: Any) -> dict[str, str]:
    job = bring(repo_id, token, **chosen)
    assert job.state == "failed" and job.error and job.dataset_id is None
    return job.error


def test_a_dataset_is_fetched_imported_and_says_where_it_came_from(server: Hub) -> None:
    dataset = brought("org/one")
    assert [conversation.turns[0].content for conversation in dataset] == [row["question"] for row in QA]
    origin = dataset.manifest.origin
    assert (origin.kind, origin.files, len(origin.commit)) == ("hub", ("data.jsonl",), 40)
    assert origin.hub == HubRef(repo_id="org/one", config="default", split="train", revision="main")
    assert dataset.source.read_bytes() == jsonl(QA)
    assert not [path for path in server.paths() if path.endswith((".py", ".pkl"))]


def test_the_shards_of_a_split_are_one_table_in_order(server: Hub) -> None:
    dataset = brought("org/shards")
    assert (len(dataset), dataset.source.name) == (400, "source.parquet")
    assert dataset[0].turns[0].content == "Question 0?" and dataset[399].turns[0].content == "Question 399?"
    origin = dataset.manifest.origin
    assert origin.first_rows == (0, 200)
    assert origin.place(199) == ("data/train-00000-of-00002.parquet", 199)
    assert origin.place(200) == ("data/train-00001-of-00002.parquet", 0)
    assert brought("org/one").manifest.origin.place(0) is None
    assert any(path.startswith("/cdn/") for path in server.paths())


def test_the_files_of_a_split_are_kept_and_every_finding_has_its_line_and_byte_in_its_own(server: Hub) -> None:
    dataset = brought("org/faulty")
    assert [part.read_bytes() for part in dataset.parts] == [PRETTY, LINES]
    assert (dataset.manifest.num_rows, dataset.manifest.num_rejected) == (6, 3)
    assert find_near_duplicates(dataset).counts["near-duplicate"] == 1
    findings = [issue for issue in dataset.findings() if issue.row is not None]
    assert {(issue.row, issue.code) for issue in findings} >= {(1, "trailing-question"), (3, "trailing-question"), (5, "broken-json")}
    first_file, rows = (PRETTY, LINES), {0: b'"a"', 1: b'"c"', 2: b'"e"', 3: b'"g"', 4: b'"E"', 5: b'"k"'}
    for issue in findings:
        place = dataset.manifest.origin.place(issue.row or 0)
        assert place
        content = first_file[dataset.manifest.origin.files.index(place.file)]
        begins = content[issue.byte :]
        assert begins.startswith(b"{") and rows[issue.row or 0] in begins[:40]
        assert content[: issue.byte].count(b"\n") + 1 == issue.line
    assert [(row["row"], row["line"], row["byte"]) for row in dataset.rejected()] == sorted(
        {(issue.row, issue.line, issue.byte) for issue in findings if issue.severity == "error"}
    )
    assert [dataset.source_position(index) for index in range(len(dataset))] == [(0, 2), (2, 24), (4, 2)]


def test_the_columns_of_a_split_are_mapped_anew_from_the_files_it_came_in(server: Hub) -> None:
    dataset = brought("org/shards")
    turned = imports.again(imports.ask(dataset), ColumnMapping(question="answer", answer="question"))
    *_, job = imports.follow(turned)
    assert job.state == "done" and job.dataset_id
    other = open_dataset(job.dataset_id)
    assert other[250].turns[0].content == "Answer 250." and other.id != dataset.id
    assert [part.read_bytes() for part in other.parts] == [part.read_bytes() for part in dataset.parts]
    assert [part.name for part in other.parts] == [part.name for part in dataset.parts]
    assert other.manifest.origin == dataset.manifest.origin


def test_config_split_and_revision_are_chosen_by_name(server: Hub) -> None:
    assert len(brought("org/langs", config="en", split="test")) == 1
    assert brought("org/langs", config="de")[0].turns[1].content == "Das."
    assert len(brought("org/carded")) == 4
    assert len(brought("org/carded", config="small")) == 1
    assert len(brought("org/branched", revision="v2")) == 4
    assert brought("org/branched").manifest.num_rows == 1


def test_a_repository_made_by_a_script_is_read_from_the_hubs_own_conversion(server: Hub) -> None:
    dataset = brought("org/script")
    assert (len(dataset), dataset.manifest.origin.files) == (4, ("plain/train/0000.parquet",))
    assert dataset.manifest.origin.hub == HubRef(repo_id="org/script", config="plain", split="train", revision="refs/convert/parquet")


@pytest.mark.parametrize(
    ("repo_id", "token", "chosen", "code", "said"),
    [
        ("org/missing", None, {}, "MISSING", "no dataset 'org/missing'"),
        ("org/missing", GOOD_TOKEN, {}, "MISSING", "no dataset"),
        ("org/private", None, {}, "MISSING", "private"),
        ("org/private", OTHER_TOKEN, {}, "MISSING", "private"),
        ("org/gated", None, {}, "GATED", "gated"),
        ("org/gated", OTHER_TOKEN, {}, "GATED", "gated"),
        ("org/disabled", None, {}, "MISSING", "disabled"),
        ("org/one", "hf_" + "expired" * 4, {}, "LOGIN", "login"),
        ("org/one", None, {"revision": "v9"}, "REVISION", "'v9'"),
        ("org/one", None, {"split": "test"}, "SPLIT", "'test'"),
        ("org/langs", None, {}, "CONFIG", "2 configs"),
        ("org/langs", None, {"config": "fr"}, "CONFIG", "'fr'"),
        ("org/langs", None, {"config": "en", "split": "dev"}, "SPLIT", "'dev'"),
        ("org/empty", None, {}, "", "no file that can be read"),
    ],
)
def test_what_cannot_be_fetched_is_explained(server: Hub, repo_id: str, token: str | None, chosen: Any, code: str, said: str) -> None:
    error = refused(repo_id, token, **chosen)
    assert error["code"] == code
    assert said in error["problem"]
    assert error["remedy"]
    if code in ("CONFIG", "SPLIT"):
        assert "train" in error["remedy"] or "en" in error["remedy"]


def test_a_login_that_may_read_reads(server: Hub) -> None:
    assert len(brought("org/gated", GOOD_TOKEN)) == len(brought("org/private", GOOD_TOKEN)) == 4


def test_without_a_token_this_machines_own_is_not_lent(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert refused("org/private")["code"] == "MISSING"
    assert not [asked for asked in server.asked if "authorization" in asked.headers]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_hub_is_asked_again_and_then_explained(server: Hub, status: int) -> None:
    server.faults = [Fault("GET /api/.*", "status", status, times=2)]
    assert len(brought("org/one")) == 4
    server.faults = [Fault("GET /api/.*", "status", status, times=99)]
    error = refused("org/one")
    assert error["code"] == "NET" and str(status) in error["problem"] + str(429)


def test_a_connection_dropped_on_the_way_is_taken_up_again(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)  # what is written at a time, and so not asked for again
    server.faults = [Fault("GET /cdn/.*", "drop", after_bytes=70_000)]
    dataset = brought("org/large")
    assert dataset.source.read_bytes() == jsonl(QA * 3000)
    ranges = [asked.headers["range"] for asked in server.asked if asked.path.startswith("/cdn/") and "range" in asked.headers]
    assert ranges == ["bytes=70000-"]


def test_a_download_can_be_cancelled_and_leaves_nothing(server: Hub, workspace: Path) -> None:
    is_cancelled = threading.Event()
    server.faults = [Fault("GET /cdn/.*", "slow", seconds=60, until=is_cancelled)]
    job_id = imports.start(ImportSource(kind="hub", hub=HubRef(repo_id="org/large")))
    while not any(path.startswith("/cdn/") for path in server.paths()):
        time.sleep(0.01)
    with ThreadPoolExecutor(1) as pool:
        cancelling = pool.submit(imports.cancel, job_id)
        while not (workspace / "imports" / job_id / imports.CANCEL_FILE).exists():
            time.sleep(0.01)
        is_cancelled.set()
        job = cancelling.result()
    assert (job.state, job.dataset_id) == ("cancelled", None)
    *_, job = imports.follow(job_id)
    assert not list((workspace / "datasets").glob("*"))
    assert not (workspace / "imports" / job_id / "hub").exists()


def test_no_hub_at_all_is_an_error_with_a_remedy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as gone:
        url = gone.url
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setattr(hubclient, "FIRST_WAIT_S", 0.01)
    assert refused("org/one")["code"] == "NET"


@pytest.mark.parametrize("name", ["", "../etc/passwd", "a/b/c", "a b/c", "https://x/y", "-x/y", "a/..", "a/" + "b" * 200])
def test_what_is_no_id_is_refused_before_anything_is_asked(workspace: Path, name: str) -> None:
    with pytest.raises(UserError, match="no dataset id"):
        imports.start(ImportSource(kind="hub", hub=HubRef(repo_id=name)))
    assert not (workspace / "imports").exists()


def test_the_command_line_imports_from_the_hub_and_the_token_stays_in_its_process(server: Hub, workspace: Path) -> None:
    canary = GOOD_TOKEN
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_TOKEN": canary, "HF_HOME": str(workspace / "hf")}
    command = [sys.executable, "-m", "core", "import", "org/private", "--json"]
    done = subprocess.run(command, env=environment, cwd=paths.PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["num_valid"] == 4
    assert canary not in done.stdout + done.stderr
    assert not [file for file in workspace.rglob("*") if file.is_file() and canary.encode() in file.read_bytes()]
    failed = subprocess.run(
        [*command[:-2], "org/langs", "--json"], env=environment, cwd=paths.PROJECT, capture_output=True, text=True, check=False
    )
    assert failed.returncode == 2
    assert json.loads(failed.stdout.splitlines()[-1])["error"]["code"] == "CONFIG"


@pytest.mark.parametrize(
    ("path", "config", "split"),
    [
        ("train.jsonl", "default", "train"),
        ("data/train-00000-of-00002.parquet", "default", "train"),
        ("data/train-00000-of-00002-0a1b2c3d4e5f.parquet", "default", "train"),
        ("en/validation.csv", "en", "validation"),
        ("en/dev-00000-of-00001.parquet", "en", "validation"),
        ("alpaca_data.json", "alpaca_data", "train"),
        ("gsm_test.jsonl", "gsm", "test"),
        ("test/part_0.jsonl", "part", "test"),
        ("ShareGPT_V3_unfiltered_cleaned_split.json", "ShareGPT_V3_unfiltered_cleaned_split", "train"),
        ("main/test-00000-of-00001.parquet", "main", "test"),
    ],
)  # fmt: skip
def test_config_and_split_are_read_from_the_path(path: str, config: str, split: str) -> None:
    assert arranged([HubFile(path, 1)]) == {config: {split: (HubFile(path, 1),)}}


def test_of_one_split_in_several_kinds_one_is_taken() -> None:
    files = [HubFile("train.csv", 1), HubFile("train.parquet", 1), HubFile("train.json", 1)]
    assert arranged(files) == {"default": {"train": (HubFile("train.parquet", 1),)}}


@pytest.mark.parametrize(
    "configs", [None, 7, ["x"], [{}], [{"config_name": "a", "data_files": "nothing.json"}], [{"data_files": [{"path": 3}]}]]
)
def test_a_card_that_declares_nothing_useful_is_passed_over(configs: Any) -> None:
    assert declared(configs, [HubFile("a.json", 1)]) == {}

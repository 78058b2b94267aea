"""Validation and tokenization beside FastChat, `datasets` and TRL, interleaved, each measurement in a process of its own.

``--quick`` is a look at whether everything runs; ``--save`` keeps the result file that claims of speed link to.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
RESULT = PROJECT / "benchmarks" / "results" / "dataset.json"
SIZES = {"10MB": 10**7, "100MB": 10**8, "1GB": 10**9}
THROWN_AWAY = ("fschat==0.2.36", "gguf==0.19.0")  # installed without their dependencies for the time of the benchmark
REOPENED_ROWS = 8000  # conversations, again and again
REOPENED = ("1", "1000000000", "4000000000")  # bytes that the file of built rows has at least
INDEX_BYTES = 16  # that the index of duplicates may take for each row
VALIDATION = {
    "ours": "Transmute, every rule, line and byte",
    "fastchat": "FastChat's role check + type rule",
    "fastchat-script": "the same, good rows written as its scripts do",
    "load_dataset": 'load_dataset("json") + loop',
}
ROWS = {
    "rows-ours": "Transmute, in memory",
    "rows-built": "Transmute, dataset to file",
    "rows-exact": "Transmute, tokenizer alone",
    "rows-fastchat legacy": "FastChat preprocess, legacy",
    "rows-fastchat plain": "FastChat preprocess, not legacy",
    "rows-trl": "TRL preparation",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=SIZES, help="of the generated files; 100MB when not given")
    parser.add_argument("--part", choices=("validation", "rows", "reopened", "all"), default="all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000, help="conversations to tokenize")
    parser.add_argument("--quick", action="store_true", help="10 MB, 100 conversations, one run")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(PROJECT)}")
    options = parser.parse_args()
    sizes, runs, rows = (["10MB"], 1, 100) if options.quick else (options.size or ["100MB"], options.runs, options.rows)
    result: dict[str, Any] = {"machine": machine(), "runs": runs}
    with tempfile.TemporaryDirectory(prefix="transmute-bench-") as name:
        folder = Path(name)
        install(folder / "site")
        if options.part in ("validation", "all"):
            result["validation"] = {size: validation(folder, SIZES[size], runs) for size in sizes}
        if options.part in ("rows", "all"):
            result["rows"] = tokenization(folder, rows, runs)
        if options.part in ("reopened", "all"):
            result["reopened"] = reopened(folder, runs)
    if options.save:
        RESULT.parent.mkdir(exist_ok=True)
        kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
        RESULT.write_text(json.dumps(merged(kept, result), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def merged(kept: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`kept` with the parts and sizes that were measured now."""
    return kept | new | {"validation": kept.get("validation", {}) | new.get("validation", {})}


def install(site: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(site)]
    subprocess.run([*command, *THROWN_AWAY], check=True)
    sys.path.append(str(site))


def measure(folder: Path, *arguments: str) -> dict[str, Any]:
    """One measurement by `benchmarks.dataset.measure`."""
    environment = os.environ | {
        "PYTHONPATH": f"{PROJECT}:{folder / 'site'}",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSMUTE_HOME": str(folder / "home"),
    }
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.dataset.measure", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{arguments} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def interleaved(folder: Path, runs: int, kinds: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """The medians of `runs` rounds, in each of which every kind is measured once."""
    measured: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, arguments in kinds.items():
            measured[kind].append(measure(folder, *arguments))
    return {kind: {key: statistics.median(each[key] for each in found) for key in found[0]} for kind, found in measured.items()}


def validation(folder: Path, size: int, runs: int) -> dict[str, Any]:
    from benchmarks.dataset import files

    found: dict[str, Any] = {}
    for suffix in (".json", ".jsonl"):
        path = folder / f"talks{suffix}"
        num_rows, num_bad = files.write(path, size)
        medians = interleaved(folder, runs, {kind: [kind, str(path)] for kind in VALIDATION})
        path.unlink()
        for kind, each in medians.items():
            assert (each["rows"], each["bad"]) == (num_rows, num_bad), f"{kind} counts {each}, not {num_rows} rows, {num_bad} of them bad"
        us = medians["ours"]
        us["peak_without_index_bytes"] = us["peak_bytes"] - INDEX_BYTES * num_rows
        print(
            f"\nValidation of {size / 1e6:.0f} MB, {'one list' if suffix == '.json' else 'lines'}: {num_rows:,} rows, {num_bad} bad; 1 core"
        )
        print(f"{'':46}{'CPU s':>8}{'wall s':>8}{'peak MB':>9}{'x CPU':>7}{'x wall':>7}")
        for kind, title in VALIDATION.items():
            each = medians[kind]
            each |= {"times_our_cpu": each["cpu_s"] / us["cpu_s"], "times_our_wall": each["wall_s"] / us["wall_s"]}
            figures = f"{each['cpu_s']:8.2f}{each['wall_s']:8.2f}{each['peak_bytes'] / 1e6:9.0f}"
            print(f"{title:46}{figures}{each['times_our_cpu']:7.2f}{each['times_our_wall']:7.2f}")
        found[suffix[1:]] = medians
    return found


def tokenization(folder: Path, count: int, runs: int) -> dict[str, Any]:
    from benchmarks.dataset import vocabularies

    vocabularies.make(folder / "vocabularies")
    path = talks(folder, count)
    found: dict[str, Any] = {"file_bytes": path.stat().st_size}
    for name in vocabularies.NAMES:
        vocabulary = str(folder / "vocabularies" / name)
        kinds = {kind: [kind.split()[0], str(path), vocabulary, *kind.split()[1:]] for kind in ROWS}
        medians = interleaved(folder, runs, kinds)
        assert medians["rows-ours"]["crc32"] == medians["rows-exact"]["crc32"], "the fast ids and labels are the exact ones"
        us = medians["rows-ours"]
        print(
            f"\nIds and labels with the vocabulary of {vocabularies.TITLES[name]}: {count:,} rows of {found['file_bytes'] / count:,.0f} bytes"
        )
        print(f"{'':34}{'rows / CPU s':>13}{'tokens with loss':>18}{'x, in memory':>14}{'x, built':>10}")
        for each in medians.values():
            each["rows_per_cpu_s"] = each["rows"] / each["cpu_s"]
        for kind, title in ROWS.items():
            each = medians[kind]
            each["times_slower"] = us["rows_per_cpu_s"] / each["rows_per_cpu_s"]
            each["times_slower_than_built"] = medians["rows-built"]["rows_per_cpu_s"] / each["rows_per_cpu_s"]
            speeds = f"{each['times_slower']:14.2f}{each['times_slower_than_built']:10.2f}"
            print(f"{title:34}{each['rows_per_cpu_s']:13,.0f}{each['loss_tokens']:18,}{speeds}")
        found[name] = medians
    return found


def talks(folder: Path, count: int) -> Path:
    """So many conversations as a file."""
    from benchmarks.dataset import corpus

    path = folder / "talks.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in corpus.conversations(count)), encoding="utf-8")
    return path


def reopened(folder: Path, runs: int) -> dict[str, Any]:
    """How long built rows take to open again, by the size of their file."""
    path = talks(folder, REOPENED_ROWS)
    kinds = {size: ["rows-reopened", str(path), str(PROJECT / "examples" / "starter"), size] for size in REOPENED}
    medians = interleaved(folder, runs, kinds)
    for each in medians.values():
        size, opened_ms = each["file_bytes"] / 1e9, 1000 * each["reopen_s"]
        print(f"{each['rows']:,} built rows in {size:.2f} GB open again, and the last is read, in {opened_ms:.1f} ms")
    return medians


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.release()}


if __name__ == "__main__":
    main()

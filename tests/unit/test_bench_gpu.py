"""A benchmark that is cut short keeps what it has measured, and goes on with what is missing: time on a GPU is lent by the minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_estimate, bench_train_gpu
from core import figures

FIGURES = {"tokens_per_s": 100.0, "peak_bytes": 10**9, "real_tokens": 100, "computed_tokens": 110, "parameters": 10**9, "first_loss": 1.0,
           "eval_loss": 0.9}  # fmt: skip
OTHER_GPU = {
    "gpu": "NVIDIA H100 80GB HBM3", "versions": {}, "runs": 1, "tensor_flops": 1.0,
    "results": {"lora 1B": {"task": {}, "arms": {arm: FIGURES | {"flop_utilisation": 0.2} for arm in ("ours", "trl", "trl-tuned")}}},
}  # fmt: skip


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What ran, as ``method size arm``; the machine has an H200, and the result file is of another GPU."""
    ran: list[str] = []
    monkeypatch.setattr(bench_train_gpu, "RESULT", tmp_path / "train_gpu.json")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(bench_train_gpu, "ready", lambda folder, method, documents: {"method": method, "documents": documents})

    def run_arm(arm: str, folder: Path) -> dict[str, Any]:
        ran.append(f"{folder.name} {folder.parent.name} {arm}")
        return FIGURES

    monkeypatch.setattr(bench_train_gpu, "run_arm", run_arm)
    (tmp_path / "train_gpu.json").write_text(json.dumps(OTHER_GPU))
    return ran


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", ["bench_train_gpu", "--resume", "--save", *arguments])
    bench_train_gpu.main()
    return json.loads(bench_train_gpu.RESULT.read_text())


def test_a_speed_benchmark_goes_on_where_it_was_cut_short(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench_train_gpu.run_arm

    def ended_at_the_fifth(arm: str, folder: Path) -> dict[str, Any]:
        if len(measured) == 4:
            raise KeyboardInterrupt
        return whole(arm, folder)

    monkeypatch.setattr(bench_train_gpu, "run_arm", ended_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch)
    kept = json.loads(bench_train_gpu.RESULT.read_text())
    assert [kept["results"][name]["gpu"] for name in kept["results"]] == ["NVIDIA H200"], "only of what all arms have run is there a result"
    monkeypatch.setattr(bench_train_gpu, "run_arm", whole)
    found = run(monkeypatch)
    every = [f"{method} {size} {arm}" for size in ("1B", "8B") for method in ("lora", "qlora") for arm in ("ours", "trl", "trl-tuned")]
    assert measured == every, "each ran once"
    assert found["results"].keys() == {"lora 1B", "qlora 1B", "lora 8B", "qlora 8B"}
    assert all(result["runs"] == 1 and result["arms"]["ours"]["flop_utilisation"] > 0 for result in found["results"].values())
    rows = list(figures._train_gpu(found))
    assert len(rows) == 4 and "one H200, packed to 2,048, 1 run" in rows[0][0]
    run(monkeypatch, "--runs", "2")
    assert measured == every * 2, "the second runs only"


def test_figures_of_another_gpu_stay_until_they_are_replaced(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, "--models", "8B")
    rows = [row[0] for row in figures._train_gpu(found)]
    assert "one H100" in rows[0] and "one H200" in rows[1]
    assert next(figures._train_gpu(OTHER_GPU))[0] == rows[0]


def test_an_arm_that_fails_costs_no_other(measured: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    whole = bench_train_gpu.run_arm

    def out_of_memory(arm: str, folder: Path) -> dict[str, Any]:
        if arm == "trl":
            raise subprocess.CalledProcessError(1, "arm", stderr="CUDA out of memory")
        return whole(arm, folder)

    monkeypatch.setattr(bench_train_gpu, "run_arm", out_of_memory)
    with pytest.raises(SystemExit, match="lora 1B trl, qlora 1B trl"):
        run(monkeypatch, "--models", "1B", "--runs", "2")
    assert "CUDA out of memory" in capsys.readouterr().err
    kept = json.loads(bench_train_gpu.RESULT.read_text())
    assert len(kept["measured"]["qlora 1B"]["arms"]["trl-tuned"]) == 2
    assert kept["results"]["lora 1B"]["gpu"] == "NVIDIA H100 80GB HBM3"


def test_pairs_that_are_measured_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    pairs = bench_estimate.PAIRS[:3]

    def one(pair: bench_estimate.Pair, *_: Any) -> dict[str, Any]:
        if len(ran) == 2 and not (tmp_path / "estimate.json").with_suffix(".again").exists():
            raise KeyboardInterrupt
        ran.append(pair.name)
        phases = {"measured_phases": {}, "predicted_phases": {}}
        return {
            "pair": pair.name,
            "error": 0.1,
            "accelerate_error": 1,
            "table_error": 2,
            "measured_bytes": 1,
            "predicted_bytes": 1,
        } | phases

    for name, fake in {
        "PROJECT": tmp_path,
        "RESULTS": tmp_path, "PAIRS": pairs, "one": one, "machine": lambda: {"cpu": "a"}, "has_gpu": lambda: False,
        "make": lambda _, folder: folder.mkdir(), "conversations": lambda path: path,
    }.items():  # fmt: skip
        monkeypatch.setattr(bench_estimate, name, fake)
    monkeypatch.setattr(sys, "argv", ["bench_estimate", "--resume", "--save"])
    monkeypatch.setenv("TRANSMUTE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(KeyboardInterrupt):
        bench_estimate.main()
    (tmp_path / "estimate.again").touch()
    bench_estimate.main()
    bench_estimate.main()
    assert ran == [pair.name for pair in pairs]
    assert json.loads((tmp_path / "estimate.json").read_text())["summary"]["pairs"] == 3

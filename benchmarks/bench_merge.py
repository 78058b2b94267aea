"""Merging an adapter: this project's merge beside PEFT's load, merge_and_unload and save_pretrained, each in a process of its own.

Two random-weight Llama models (276M and 1B parameters, bf16) are made in a temporary folder; the runs alternate and the medians count.
Both write a whole model; ours also hashes it, writes its manifest and waits until everything is on the disk. The targets are judged last:
the wall time, and the memory above imports, which is at most two of the model's largest tensors and some buffers. ``--save`` keeps the result.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
RESULT = Path(__file__).parent / "results" / "merge.json"
LEAST_SPEEDUP = 2.5
BUFFER_BYTES = 48 * 2**20  # blocks of rows (stored, product, written), the adapter's matrices of one weight, what torch keeps to itself
MODELS = {
    "276M": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 16},
    "1B": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4},
}
PEFT = """
import json, resource, sys, time
start = time.perf_counter()
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
def status(field): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024
imported_bytes, imported_s = status("VmRSS"), time.perf_counter() - start
base, adapter, out = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype="auto"), adapter).merge_and_unload()
model.save_pretrained(out)
"""
OURS = """
import json, sys, time
start = time.perf_counter()
import core.export.merge_child as child
def status(field): return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)) * 1024
imported_bytes, imported_s = status("VmRSS"), time.perf_counter() - start
base, adapter, out = sys.argv[1:]
import pathlib; pathlib.Path(out).mkdir()
child.merge({"base": base, "adapter": adapter, "out": out}, lambda event: None)
"""
REPORT = """
print(json.dumps({"peak_above_imports_bytes": status("VmHWM") - imported_bytes, "imports_s": imported_s}))
"""
ENGINE = """
import sys
from pathlib import Path
from core.export import artifacts
from core.export.merge import merge_adapter
base, adapter, out = sys.argv[1:]
merge_adapter(artifacts.resolve(adapter), Path(out))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--models", default="276M,1B")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(PROJECT)}")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    result: dict[str, Any] = {"machine": machine(), "runs": arguments.runs, "load_before": load}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models.split(","):
            result[name] = compare(Path(folder), name, arguments.runs)
            shutil.rmtree(Path(folder) / name)
    names = arguments.models.split(",")
    result["is_busy"] = max(load, os.getloadavg()[0]) > 1.5 * (os.cpu_count() or 1)
    result["passed"] = None if result["is_busy"] else all(map(is_met, map(result.get, names)))  # a busy machine gives no verdict
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def compare(root: Path, name: str, runs: int) -> dict[str, Any]:
    base, adapter = root / name / "base", root / name / "adapter"
    largest = json.loads(python(MAKE, json.dumps(MODELS[name]), str(base), str(adapter))["stdout"])
    ways = {"peft": PEFT + REPORT, "ours": ENGINE}
    timed: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(runs):
        for way, program in ways.items():
            timed[way].append(python(program, str(base), str(adapter), str(root / name / way)))
            check(root / name / way, base)
            shutil.rmtree(root / name / way)
            os.sync()
    memory = json.loads(python(OURS + REPORT, str(base), str(adapter), str(root / name / "memory"))["stdout"])
    found: dict[str, Any] = {"weights_bytes": sum(file.stat().st_size for file in base.glob("*.safetensors"))} | largest
    for way, samples in timed.items():
        found[way] = {field: statistics.median(sample[field] for sample in samples) for field in ("wall_s", "cpu_s", "peak_bytes")}
    peaks = [json.loads(sample["stdout"])["peak_above_imports_bytes"] for sample in timed["peft"]]
    found["peft"]["peak_above_imports_bytes"] = statistics.median(peaks)
    found["ours"]["peak_above_imports_bytes"] = memory["peak_above_imports_bytes"]
    found["speedup"] = statistics.median(peft["wall_s"] / ours["wall_s"] for peft, ours in zip(timed["peft"], timed["ours"], strict=True))
    for way in ways:
        figures = found[way]
        print(
            f"{name:5} {way:5} {figures['wall_s']:6.1f} s wall {figures['cpu_s']:6.1f} s CPU"
            f" {figures['peak_above_imports_bytes'] / 1e6:8.0f} MB above imports"
        )
    allowed_bytes = 2 * largest["largest_tensor_bytes"] + BUFFER_BYTES
    found["allowed_bytes"] = allowed_bytes
    print(
        f"{name:5} {found['speedup']:.2f} times as fast (at least {LEAST_SPEEDUP}); {allowed_bytes / 1e6:.0f} MB above imports are allowed"
    )
    return found


def is_met(found: dict[str, Any]) -> bool:
    """Whether one model's merge holds both targets."""
    return found["speedup"] >= LEAST_SPEEDUP and found["ours"]["peak_above_imports_bytes"] <= found["allowed_bytes"]


MAKE = """
import json, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
sizes, base, adapter = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, tie_word_embeddings=False, **sizes))
model.save_pretrained(base)
largest = max(weight.nbytes for weight in model.parameters())
lora = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
for name, weight in lora.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=0.01)
lora.peft_config["default"].base_model_name_or_path = base
lora.save_pretrained(adapter)
print(json.dumps({"parameters": sum(weight.numel() for name, weight in model.named_parameters() if "lora" not in name),
                  "largest_tensor_bytes": largest}))
"""


def python(program: str, *arguments: str) -> dict[str, Any]:
    """Run a program; wall and CPU seconds of it and its children, and the peak memory of the largest of them."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr, tempfile.TemporaryDirectory() as home:
        env = os.environ | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "TRANSMUTE_HOME": home}
        child = subprocess.Popen([sys.executable, "-c", program, *arguments], cwd=PROJECT, env=env, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if child.returncode:
            sys.exit(stderr.read().decode())
        lines = stdout.read().decode().splitlines()
    return {
        "wall_s": wall_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
        "stdout": lines[-1] if lines else "",
    }


def check(folder: Path, base: Path) -> None:
    """A merge that wrote less than the base is no merge."""
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    assert abs(written - sum(file.stat().st_size for file in base.glob("*.safetensors"))) < 2**20


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


if __name__ == "__main__":
    main()

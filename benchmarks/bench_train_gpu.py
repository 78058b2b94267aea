"""QLoRA and LoRA on one GPU beside TRL as its users run it and TRL as tuned as it gets, on random-weight Llama configurations of 1B and 8B.

Every arm takes the same token rows with the same labels, about the same documents per step, the same adapter (r 16 on all linear weights,
dropout 0.05), optimizer and learning rate, in a process of its own. Counted are the rows' own tokens a second, no padding, after the first
quarter of the steps, and the most memory that torch had allocated. Model FLOP utilisation counts 4 operations a parameter and token (LoRA has
no gradients of the base's weights) and what the cores can do in bf16 without sparsity. ``--save`` keeps every run of an arm as soon as it has
ended; ``--resume`` goes on from what the file has of this GPU, these versions and as many documents, so that time that runs out costs one arm.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))
RESULT = PROJECT / "benchmarks" / "results" / "train_gpu.json"
ARMS = {
    "ours": "Transmute",
    "ours-liger": "Transmute, use_liger_kernel",
    "trl": "TRL, its defaults",
    "trl-tuned": "TRL, packing, no checkpointing, bf16",
}
LLAMA = {"vocab_size": 128_256, "max_position_embeddings": 8192, "rope_theta": 500_000.0, "num_key_value_heads": 8}
MODELS: dict[str, dict[str, Any]] = {  # the shapes of Llama 3.2 1B and Llama 3.1 8B
    "1B": LLAMA | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                   "tie_word_embeddings": True},
    "8B": LLAMA | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32},
}  # fmt: skip
LONGEST = 1024
ROWS_PER_STEP = {"1B": 4, "8B": 2}  # of 2,048 tokens, in one micro batch
TENSOR_FLOPS = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
}  # NVIDIA's datasheets, bf16, dense


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="1B,8B")
    parser.add_argument("--methods", default="lora,qlora")
    parser.add_argument("--arms", default="ours,trl,trl-tuned")
    parser.add_argument("--runs", type=int, default=1, help="of each arm, interleaved: every arm once before any of them again")
    parser.add_argument("--documents", type=int, default=192)
    parser.add_argument("--folder", help="where the models are made; a temporary folder when not given")
    parser.add_argument("--save", action="store_true", help=f"write benchmarks/results/{RESULT.name}")
    parser.add_argument("--resume", action="store_true", help="measure only what that file does not have yet")
    options = parser.parse_args()
    import torch

    gpu = torch.cuda.get_device_name()
    peak = next((flops for name, flops in TENSOR_FLOPS.items() if name in gpu), None)
    result = begin(gpu, versions(), peak, options.documents, resume=options.resume)
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="transmute-bench-", dir=options.folder) as name:
        for number in range(1, options.runs + 1):
            for size in options.models.split(","):
                for method in options.methods.split(","):
                    failed += measure(Path(name) / size, method, options, result, number, failed)
    print(json.dumps(result))
    if failed:
        sys.exit(f"These failed: {', '.join(dict.fromkeys(failed))}.")


def begin(gpu: str, packages: dict[str, str], peak: float | None, documents: int, *, resume: bool) -> dict[str, Any]:
    """The result to go on from. What was measured in the same setting counts on with `resume`; what other GPUs gave stays until it is replaced."""
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"results": {}}
    whose = {name: kept[name] for name in ("gpu", "runs", "versions", "tensor_flops") if name in kept}  # of files that have one of each
    setting = {"gpu": gpu, "versions": packages, "documents": documents}
    is_same = resume and kept.get("setting") == setting
    return {
        "setting": setting,
        "tensor_flops": peak,
        "results": {name: whose | each for name, each in kept["results"].items()},
        "measured": kept["measured"] if is_same else {},
    }


def measure(folder: Path, method: str, options: argparse.Namespace, result: dict[str, Any], number: int, failed: list[str]) -> list[str]:
    """Run every arm that has fewer than `number` runs, and keep each; the names of those that failed."""
    name = f"{method} {folder.name}"
    lost: list[str] = []
    for arm in options.arms.split(","):
        measured = result["measured"].setdefault(name, {"arms": {}})
        if len(measured["arms"].get(arm, ())) >= number or f"{name} {arm}" in failed:
            continue
        measured["task"] = ready(folder, method, options.documents)
        try:
            measured["arms"].setdefault(arm, []).append(run_arm(arm, folder / method))
        except subprocess.CalledProcessError as error:
            print(f"{name} {arm}: {error.stderr[-3000:]}", file=sys.stderr, flush=True)
            lost.append(f"{name} {arm}")
            continue
        if all(measured["arms"].get(other) for other in ("ours", "trl", "trl-tuned")):
            result["results"][name] = summarised(name, measured, result)
        if options.save:
            written = RESULT.resolve().with_name(f"{RESULT.name}.partial")
            written.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            written.replace(RESULT.resolve())
    return lost


def ready(folder: Path, method: str, documents: int) -> dict[str, Any]:
    """The model, the runs and the rows of a method, made once."""
    if not (folder / "model").exists():
        make_model(folder / "model", MODELS[folder.name])
    if not (folder / method / "task.json").exists():
        prepare(folder / method, method, documents, ROWS_PER_STEP[folder.name])
    return json.loads((folder / method / "task.json").read_text(encoding="utf-8"))


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")}


def make_model(folder: Path, sizes: dict[str, Any]) -> None:
    """Random weights in bf16 with the starter's tokenizer, whose ids the large vocabulary holds."""
    run_python(MAKE, str(folder), json.dumps(sizes))


MAKE = """
import json, pathlib, shutil, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from core.paths import STARTER
folder, sizes = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = LlamaForCausalLM(LlamaConfig(bos_token_id=1, eos_token_id=2, **sizes))
model.save_pretrained(folder)
for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
    shutil.copyfile(STARTER / name, folder / name)
"""


def prepare(folder: Path, method: str, documents: int, rows: int) -> None:
    run_python(PREPARE, str(folder), method, str(documents), str(LONGEST), str(rows))


PREPARE = """
import importlib.util, json, pathlib, sys
from benchmarks.bench_estimate import conversations
from core import paths
from core.data.tokenizer import load_tokenizer
from core.running import runs
from core.training.recipe import build
from core.training.samples import rows_of
folder, method, count, longest, rows = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
folder.mkdir()
(folder / "model").symlink_to(folder.parent / "model")
tokenizer = load_tokenizer(folder / "model")
talks = json.loads(conversations(folder / "all.json", 10 * count).read_text(encoding="utf-8"))
short = [talk for talk in talks if len(tokenizer.tokenizer.encode(json.dumps(talk)).ids) < longest]
(folder / "rows.json").write_text(json.dumps(short[:count]), encoding="utf-8")
recipe = build({"base_model": str((folder / "model").resolve()), "dataset": str(folder / "rows.json"), "method": method, "max_length": 2048,
                "packing": True, "micro_batch_size": rows, "num_train_epochs": 1, "learning_rate": 1e-4, "lr_scheduler_type": "constant",
                "warmup_steps": 0, "weight_decay": 0, "eval_fraction": 0, "save_steps": 0, "logging_steps": 1, "levels": []}, "the benchmark")
arms = {"ours": {}} | ({"ours-liger": {"use_liger_kernel": True}} if importlib.util.find_spec("liger_kernel") else {})
for arm, more in arms.items():
    (folder / arm).symlink_to(paths.runs_dir() / runs.create(recipe.model_copy(update=more)))
trained, _ = rows_of(folder / "ours", tokenizer)
trained.dataset().flatten_indices().save_to_disk(folder / "rows")
trained.dataset().flatten_indices().select(range(8)).save_to_disk(folder / "eval_rows")
task = {"method": method, "documents": len(trained), "tokens": trained.num_tokens, "labelled_tokens": trained.num_loss_tokens,
        "learning_rate": 1e-4, "rows_per_step": rows, "documents_per_step": max(1, round(rows * 2048 * len(trained) / trained.num_tokens))}
(folder / "task.json").write_text(json.dumps(task))
"""


def run_python(program: str, *arguments: str) -> None:
    home = Path(arguments[0]).parent / "home"
    env = os.environ | {"PYTHONPATH": str(PROJECT), "TRANSMUTE_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])


def summarised(name: str, measured: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    """Medians of each arm's runs, beside ours; printed as a table."""
    found = {
        arm: {key: statistics.median(each[key] for each in all_of) for key in all_of[0]}
        for arm, all_of in measured["arms"].items()
        if all_of
    }
    runs, peak, us = min(map(len, measured["arms"].values())), result["tensor_flops"], found["ours"]
    print(f"\n{name}: {us['real_tokens']:,.0f} tokens, medians of {runs}", flush=True)
    print(f"{'':40}{'tokens/s':>10}{'ours x':>8}{'peak GB':>9}{'ours x':>8}{'padding':>9}{'MFU':>7}{'first loss':>11}{'eval loss':>10}")
    for arm, each in found.items():
        each["ours_times_as_fast"] = us["tokens_per_s"] / each["tokens_per_s"]
        each["ours_share_of_memory"] = us["peak_bytes"] / each["peak_bytes"]
        each["padding"] = 1 - each["real_tokens"] / each["computed_tokens"]
        each["flop_utilisation"] = 4 * each["parameters"] * each["tokens_per_s"] / peak if peak else None
        print(
            f"{ARMS[arm]:40}{each['tokens_per_s']:10,.0f}{each['ours_times_as_fast']:8.2f}{each['peak_bytes'] / 1e9:9.2f}"
            f"{each['ours_share_of_memory']:8.2f}{each['padding']:9.1%}{each['flop_utilisation'] or 0:7.1%}"
            f"{each['first_loss']:11.4f}{each['eval_loss']:10.4f}",
            flush=True,
        )
    setting = result["setting"]
    return {"gpu": setting["gpu"], "versions": setting["versions"], "runs": runs, "task": measured["task"], "arms": found}


def run_arm(arm: str, folder: Path) -> dict[str, Any]:
    """The figures of one arm, alone in its process; raises `subprocess.CalledProcessError` where it fails."""
    from core import process

    home = {"TRANSMUTE_HOME": str(folder.parent / "home")}
    env = (
        process.child_environment(home)
        if arm.startswith("ours")
        else os.environ | home | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.training.arm", arm, str(folder)],
        cwd=PROJECT,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()

"""Training on a CPU beside TRL as its users run it, TRL as tuned as it gets, and FastChat's shape, interleaved, each in its own process.

Every arm takes the same token rows with the same labels through the same random-weight model once, with about as many documents per step,
the same optimizer and learning rate. Ours runs in float32 and in bf16, of which `dtype: auto` takes one by CPU and model size; TRL's defaults
are bf16. Counted are the rows' own tokens, no padding, over the CPU seconds of the training loop, and the peak
memory above what the imports hold. ``--part start`` times a cold start to the end of the first optimizer step, ``core train`` beside
``accelerate launch`` of a TRL script that reads the same file. ``--save`` keeps the result.
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
sys.path.insert(0, str(PROJECT))
RESULT = PROJECT / "benchmarks" / "results" / "train.json"
ARMS = {
    "ours": "Transmute, float32",
    "ours-bf16": "Transmute, bf16",
    "trl": "TRL, its defaults (bf16)",
    "trl-tuned": "TRL, packing, no checkpointing, bf16",
    "fastchat": "FastChat's shape, padded to 2,048",
}
LLAMA = {"vocab_size": 32_000, "max_position_embeddings": 2048}
MODELS: dict[str, dict[str, Any]] = {
    "9M": LLAMA | {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4},
    "40M": LLAMA | {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 7, "num_attention_heads": 8, "num_key_value_heads": 8,
                    "tie_word_embeddings": True},
}  # fmt: skip
LONGEST = 1024  # tokens of a document: TRL's default maximum, so that nobody truncates
LEARNING_RATE = 5e-4
DOCUMENTS = {"9M": 48, "40M": 24}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="9M,40M")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--documents", type=int, default=0, help="to train on; by model when not given")
    parser.add_argument("--part", choices=("speed", "start", "all"), default="all")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.relative_to(PROJECT)}")
    options = parser.parse_args()
    result: dict[str, Any] = {"machine": machine(), "runs": options.runs}
    with tempfile.TemporaryDirectory(prefix="transmute-bench-") as name:
        root = Path(name)
        vocabulary = llama_vocabulary(root)
        if options.part != "start":
            result["speed"] = {}
            for size in options.models.split(","):
                task = prepare(root / size, MODELS[size], vocabulary, options.documents or DOCUMENTS[size])
                result["speed"][size] = speed(root / size, size, options.arms.split(","), options.runs) | {"task": task}
                result["speed"][size]["equality"] = equality(root / f"{size}-equal", MODELS[size], vocabulary)
        if options.part != "speed":
            prepare(root / "start", MODELS["9M"], vocabulary, 64)
            result["start"] = start(root / "start", options.runs)
    if options.save:
        kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
        result["speed"] = kept.get("speed", {}) | result.get("speed", {})  # models that were not asked for stay
        RESULT.write_text(json.dumps(kept | result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def llama_vocabulary(root: Path) -> Path:
    """A tokenizer folder with Llama 2's 32,000 pieces, from the converter's source distribution."""
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target", str(root / "site"),
                    "gguf==0.19.0"], check=True)  # fmt: skip
    sys.path.append(str(root / "site"))
    from benchmarks.dataset import vocabularies

    vocabularies.make(root / "vocabularies")
    return root / "vocabularies" / "llama-spm"


def prepare(folder: Path, sizes: dict[str, Any], vocabulary: Path, documents: int) -> dict[str, Any]:
    """The model, the run and the rows that every arm takes."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(folder), json.dumps(sizes), str(vocabulary), str(documents), str(LONGEST), str(LEARNING_RATE)],
        env=os.environ | {"PYTHONPATH": str(PROJECT), "TRANSMUTE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


PREPARE = """
import json, pathlib, shutil, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from benchmarks.dataset import corpus
from core import paths
from core.data.dataset import import_dataset
from core.data.tokenizer import load_tokenizer
from core.data.tokens import token_rows
from core.running import runs
from core.training.hardware import detect
from core.training.recipe import build
from core.training.samples import Rows, rows_of
from core.training.setting import precision_of

folder, sizes, vocabulary, count, longest, learning_rate = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), *sys.argv[3:]
count, longest, learning_rate = int(count), int(longest), float(learning_rate)
shutil.copytree(vocabulary, folder / "model", ignore=shutil.ignore_patterns("vocab.gguf"))
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(bos_token_id=1, eos_token_id=2, **sizes))
model.save_pretrained(folder / "model")
parameters = sum(map(torch.numel, model.parameters()))
tokenizer = load_tokenizer(folder / "model")
short = [talk for talk in corpus.conversations(20 * count) if len(tokenizer.tokenizer.encode(json.dumps(talk)).ids) < longest]
for name, talks in (("rows", short[:count]), ("eval_rows", short[count : count + count // 3])):
    (folder / f"{name}.json").write_text(json.dumps(talks), encoding="utf-8")
recipe = build({"base_model": str(folder / "model"), "dataset": str(folder / "rows.json"), "method": "fft", "max_length": 2048, "packing": True,
                "micro_batch_size": 1, "num_train_epochs": 1, "learning_rate": learning_rate, "lr_scheduler_type": "constant",
                "warmup_steps": 0, "weight_decay": 0, "eval_fraction": 0, "save_steps": 0, "logging_steps": 1, "levels": []}, "the benchmark")
for arm, dtype in (("ours", "fp32"), ("ours-bf16", "bf16")):
    (folder / arm).symlink_to(paths.runs_dir() / runs.create(recipe.model_copy(update={"dtype": dtype})))
aside = import_dataset(folder / "eval_rows.json")
tokens = token_rows(aside, tokenizer, 2048)
trained, _ = rows_of(folder / "ours", tokenizer)
trained.dataset().flatten_indices().save_to_disk(folder / "rows")
Rows(tokens, __import__("numpy").flatnonzero(tokens.num_loss_tokens)).dataset().flatten_indices().save_to_disk(folder / "eval_rows")
assert max(map(len, trained.dataset()["input_ids"])) <= longest
task = {"documents": len(trained), "tokens": trained.num_tokens, "labelled_tokens": trained.num_loss_tokens, "learning_rate": learning_rate,
        "documents_per_step": max(1, round(2048 * len(trained) / trained.num_tokens)), "parameters": parameters,
        "auto": precision_of(recipe, detect(), parameters)}
(folder / "task.json").write_text(json.dumps(task))
print(json.dumps(task))
"""


def run_arm(arm: str, folder: Path) -> dict[str, Any]:
    """One arm in a process of its own. Ours and the tuned TRL have the environment that this project gives its workers, the others the plain one."""
    from core import process

    home = {"TRANSMUTE_HOME": str(folder / "home")}
    plain = (
        os.environ
        | home
        | {"PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    )
    launch = json.loads((folder / "ours" / "launch.json").read_text())
    ours = process.child_environment(launch["env"] | home)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.training.arm", arm, str(folder)],
        cwd=PROJECT,
        env=ours if arm in ("ours", "ours-bf16", "trl-tuned") else plain,
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(folder / "out", ignore_errors=True)
    if done.returncode:
        sys.exit(f"{arm}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def speed(folder: Path, size: str, arms: list[str], runs: int) -> dict[str, Any]:
    measured: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for _ in range(runs):
        for arm in arms:
            measured[arm].append(run_arm(arm, folder))
    found = {arm: {key: statistics.median(each[key] for each in all_of) for key in all_of[0]} for arm, all_of in measured.items()}
    us = found["ours"]
    print(f"\n{size}: real tokens per CPU second, {us['real_tokens']:,.0f} tokens in {us['steps']:.0f} steps, medians of {runs}")
    print(
        f"{'':40}{'/ CPU s':>9}{'/ s':>8}{'fp32 x':>8}{'bf16 x':>8}{'peak MB':>9}{'fp32 x':>8}{'bf16 x':>8}{'padding':>9}{'eval loss':>11}"
    )
    for arm in arms:
        each = found[arm]
        for name, mine in (("ours", "ours"), ("bf16", "ours-bf16")):
            pairs = zip(measured[mine], measured[arm], strict=True)
            each[f"{name}_times_as_fast"] = statistics.median(one["tokens_per_cpu_s"] / other["tokens_per_cpu_s"] for one, other in pairs)
            each[f"{name}_share_of_memory"] = found[mine]["peak_bytes"] / each["peak_bytes"]
        each["padding"] = 1 - each["real_tokens"] / each["computed_tokens"]
        print(
            f"{ARMS[arm]:40}{each['tokens_per_cpu_s']:9,.0f}{each['tokens_per_s']:8,.0f}{each['ours_times_as_fast']:8.2f}"
            f"{each['bf16_times_as_fast']:8.2f}{each['peak_bytes'] / 1e6:9,.0f}{each['ours_share_of_memory']:8.2f}"
            f"{each['bf16_share_of_memory']:8.2f}{each['padding']:9.1%}{each['eval_loss']:11.4f}"
        )
    return {"arms": found}


def equality(folder: Path, sizes: dict[str, Any], vocabulary: Path) -> dict[str, float]:
    """The loss of the first step in float32 when both take the very same documents in it: so few that they fill one row."""
    prepare(folder, sizes, vocabulary, 4)
    ours, theirs = run_arm("ours", folder), run_arm("trl-fp32", folder)
    assert ours["steps"] == theirs["steps"] == 1, "one step takes all documents"
    difference = abs(ours["first_loss"] - theirs["first_loss"])
    print(f"first loss in float32: {ours['first_loss']:.6f}, TRL's {theirs['first_loss']:.6f}")
    return {"ours": ours["first_loss"], "trl": theirs["first_loss"], "difference": difference}


def start(folder: Path, runs: int) -> dict[str, Any]:
    """Seconds from the command to the end of the first optimizer step, with cold file caches where this user may drop them."""
    shutil.copy(folder / "ours" / "recipe.yaml", folder / "recipe.yaml")
    (folder / "train.py").write_text(TRL_SCRIPT, encoding="utf-8")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
              "--dynamo_backend", "no", str(folder / "train.py"), str(folder)]  # fmt: skip
    commands = {"ours": [sys.executable, "-m", "core", "train", str(folder / "recipe.yaml"), "--detach", "--json"], "trl": launch}
    taken: dict[str, list[float]] = {arm: [] for arm in commands}
    is_cold = False
    for _ in range(runs):
        for arm, command in commands.items():
            shutil.rmtree(folder / "home", ignore_errors=True)
            is_cold = drop_caches()
            env = os.environ | {"TRANSMUTE_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)}
            began = time.time()
            process = subprocess.Popen(command, cwd=PROJECT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            taken[arm].append(first_step(folder) - began)
            process.terminate()
            process.wait()
            subprocess.run(["pkill", "-f", str(folder / "home" / "runs")], check=False)
            (folder / "first_step").unlink(missing_ok=True)
            time.sleep(2)
    medians = {arm: statistics.median(each) for arm, each in taken.items()}
    share = statistics.median(mine / theirs for mine, theirs in zip(taken["ours"], taken["trl"], strict=True))
    print(
        f"\nto the end of the first step, {'cold' if is_cold else 'warm'} file caches: {medians['ours']:.1f} s, TRL {medians['trl']:.1f} s"
    )
    return {"file_caches": "cold" if is_cold else "warm", "seconds": medians, "ours_share": share}


TRL_SCRIPT = """
import json, pathlib, sys, time
from datasets import load_dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer
folder = pathlib.Path(sys.argv[1])
class First(TrainerCallback):
    def on_step_end(self, *_, **__):
        (folder / "first_step").write_text(str(time.time()))
        sys.exit()
roles = {"human": "user", "gpt": "assistant"}
rows = load_dataset("json", data_files=str(folder / "rows.json"), split="train", cache_dir=str(folder / "home" / "cache"))
rows = rows.map(lambda row: {"messages": [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]},
                remove_columns=rows.column_names)
arguments = SFTConfig(output_dir=str(folder / "home" / "out"), use_cpu=True, report_to="none", save_strategy="no", logging_steps=1)
SFTTrainer(model=str(folder / "model"), args=arguments, train_dataset=rows, callbacks=[First()]).train()
"""


def first_step(folder: Path) -> float:
    """When the first step of either command ended: TRL's script says so in a file, a run in its log."""
    while True:
        if (folder / "first_step").exists() and (said := (folder / "first_step").read_text()):
            return float(said)
        for log in (folder / "home" / "runs").glob("*/events.jsonl"):
            for line in log.read_text(encoding="utf-8").splitlines():
                if '"train_log"' in line:
                    return float(json.loads(line)["t"])
        time.sleep(0.05)


def drop_caches() -> bool:
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def machine() -> dict[str, Any]:
    model = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


if __name__ == "__main__":
    main()

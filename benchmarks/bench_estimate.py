"""Predicted against measured peak memory, over recipes and random-weight models: of 100M parameters and more on a CPU, 1B and 8B on a GPU.

Every pair is a real run of the real worker for a few steps, in a process and a workspace of its own; measured is the peak of its resident
memory above what it held after its imports, or on a GPU what torch had allocated, against the prediction without the CUDA context. Beside
it stand two other estimates: ``accelerate estimate-memory`` (weights, gradients and Adam of the whole model, whatever the method) and
LLaMA-Factory's table (GB for 7B: 120 in full, 60 pure bf16, 16 LoRA and freeze, 6 QLoRA; scaled by the number of parameters). ``--part
probe`` measures twenty real steps first, as the page does, and sets what the estimate then says beside a whole run with its evaluations and
checkpoints. ``--save`` keeps every pair as soon as it is measured; ``--resume`` measures only those that the result file does not have yet
from the same machine.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
sys.path.insert(0, str(PROJECT))
from benchmarks.bench_train_gpu import MODELS as LARGE  # noqa: E402 - once the project is on the path

TOKENIZER = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
STEPS = 2
# LLaMA-Factory, README, "Hardware Requirement", column 7B, read 2026-08: full (bf16 or fp16 mixed), pure bf16, freeze and LoRA, QLoRA 4 bit.
TABLE_GB = {"fft": 120, "sft": 16, "lora": 16, "qlora": 6}
TABLE_PARAMETERS = 7e9

LLAMA = {"model_type": "llama", "vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12,
         "num_attention_heads": 12, "num_key_value_heads": 12}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama-134M": LLAMA,
    "llama-272M": LLAMA | {"hidden_size": 1024,
                           "intermediate_size": 2816, "num_hidden_layers": 18, "num_attention_heads": 16, "num_key_value_heads": 4},
    "qwen3-148M": LLAMA | {"model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 640, "intermediate_size": 1792, "num_hidden_layers": 10,
                           "num_attention_heads": 10, "num_key_value_heads": 2, "head_dim": 64, "tie_word_embeddings": True},
    "gemma2-143M": LLAMA | {"model_type": "gemma2", "vocab_size": 96_000, "num_hidden_layers": 9, "num_key_value_heads": 4,
                    "head_dim": 64, "query_pre_attn_scalar": 64, "tie_word_embeddings": True},
    "phi3-134M": LLAMA | {"model_type": "phi3"},
} | {f"llama-{name}": LLAMA | shape for name, shape in LARGE.items()}  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """One recipe on one model. `knobs` are the recipe's, besides those that every pair has."""

    model: str
    method: str
    max_length: int
    micro_batch_size: int
    knobs: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        more = " ".join(f"{name}={value}" for name, value in self.knobs.items())
        return f"{self.method} {self.model} {self.micro_batch_size}x{self.max_length} {more}".strip()


BF16 = {"dtype": "bf16"}  # what `auto` comes to on a CPU that multiplies it; the others are in float32, on whatever CPU
PAIRS = (
    Pair("llama-134M", "lora", 256, 4),
    Pair("llama-134M", "lora", 512, 2, {"gradient_checkpointing": True}),
    Pair("llama-134M", "fft", 256, 2),
    Pair("llama-134M", "qlora", 256, 2),
    Pair("llama-134M", "sft", 256, 2),
    Pair("llama-134M", "sft", 256, 2, {"train_head": True, "train_norms": True}),
    Pair("llama-134M", "lora", 256, 2, {"lora_dropout": 0.0, "packing": False}),
    Pair("llama-134M", "fft", 256, 1, {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}),
    Pair("llama-134M", "fft", 256, 1, {"optim": "adafactor"}),
    Pair("llama-272M", "qlora", 256, 1, {"lora_r": 64}),
    Pair("llama-272M", "lora", 512, 1, {"target_modules": "q_proj,v_proj"}),
    Pair("qwen3-148M", "lora", 512, 1),
    Pair("gemma2-143M", "lora", 256, 2),
    Pair("phi3-134M", "qlora", 256, 2, {"gradient_checkpointing": True}),
    Pair("llama-134M", "lora", 256, 4, BF16),
    Pair("llama-134M", "fft", 256, 2, BF16),
    Pair("llama-134M", "qlora", 256, 2, BF16),
    Pair("llama-134M", "sft", 256, 2, BF16),
    Pair("qwen3-148M", "lora", 512, 1, BF16 | {"gradient_checkpointing": True}),
    Pair("llama-272M", "lora", 512, 1, BF16 | {"lora_dropout": 0.0}),
)
GPU_PAIRS = (
    Pair("llama-1B", "lora", 2048, 4),
    Pair("llama-1B", "lora", 2048, 8, {"gradient_checkpointing": True}),
    Pair("llama-1B", "lora", 2048, 2, {"packing": False}),
    Pair("llama-1B", "qlora", 2048, 4),
    Pair("llama-1B", "qlora", 1024, 8, {"lora_r": 64}),
    Pair("llama-1B", "sft", 2048, 4),
    Pair("llama-1B", "fft", 2048, 2),
    Pair("llama-1B", "fft", 2048, 2, {"optim": "adamw_8bit", "gradient_checkpointing": True}),
    Pair("llama-8B", "lora", 2048, 1),
    Pair("llama-8B", "lora", 2048, 4, {"gradient_checkpointing": True}),
    Pair("llama-8B", "qlora", 2048, 1),
    Pair("llama-8B", "qlora", 2048, 4, {"gradient_checkpointing": True}),
)
# Every method, and of those in float32 the recipes that the estimate was furthest off when they were chosen: there a probe is of most use.
PROBED = (
    "lora llama-134M 2x512 gradient_checkpointing=True",
    "lora gemma2-143M 2x256",
    "qlora phi3-134M 2x256 gradient_checkpointing=True",
    "sft llama-134M 2x256",
    "fft llama-134M 1x256 gradient_checkpointing=True gradient_accumulation_steps=2",
    "lora llama-1B 4x2048",
    "qlora llama-1B 4x2048",
    "sft llama-1B 4x2048",
    "fft llama-1B 2x2048",
)
PROBED_STEPS = 30  # of the whole run, in the middle of which it evaluates and saves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="pairs whose name holds this")
    parser.add_argument("--part", choices=("pairs", "probe"), default="pairs")
    parser.add_argument("--again", action="store_true", help="measure nothing: set today's predictions beside what was measured before")
    parser.add_argument("--resume", action="store_true", help="measure only what the result file does not have yet from this machine")
    parser.add_argument("--save", action="store_true", help=f"write {RESULTS.relative_to(PROJECT)}/estimate.json, or estimate_gpu.json")
    arguments = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # of several GPUs one, as the result says; without any it means nothing
    chosen = [pair for pair in (GPU_PAIRS if has_gpu() else PAIRS) if arguments.only in pair.name]
    file = RESULTS / ("estimate_gpu.json" if has_gpu() else "estimate.json")
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    goes_on = arguments.resume and kept.get("machine") == machine()
    if arguments.part == "probe":
        found = kept.get("probed", {}).get("pairs", []) if goes_on else []
        chosen = missing([pair for pair in chosen if pair.name in PROBED], found)
        probe_part(chosen, found, file if arguments.save else None)
        return
    known = {one["pair"]: one for one in kept["pairs"]} if arguments.again else {}
    chosen = [pair for pair in chosen if not arguments.again or pair.name in known]
    found = kept.get("pairs", []) if goes_on else []
    chosen = missing(chosen, found)
    if not chosen:
        print("Every pair is measured.")
        return
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSMUTE_HOME"] = str(Path(folder) / "workspace")
        data = conversations(Path(folder) / "words.json")
        for model in dict.fromkeys(pair.model for pair in chosen):
            base = Path(folder) / model
            make(MODELS[model], base)
            for pair in chosen:
                if pair.model == model:
                    found.append(one(pair, base, data, known.get(pair.name)))
                    print(line(found[-1]), flush=True)
                    result = kept | {"machine": machine(), "steps": STEPS, "summary": summary(found), "pairs": found}
                    if arguments.save:
                        write(file, result)
            shutil.rmtree(base)
    print(f"median error {result['summary']['median_error']:.1%}, worst under {result['summary']['worst_under']:.1%}")
    print(json.dumps(result))


def missing(chosen: list[Pair], found: list[dict[str, Any]]) -> list[Pair]:
    known = {each["pair"] for each in found}
    return [pair for pair in chosen if pair.name not in known]


def write(file: Path, result: dict[str, Any]) -> None:
    """Whole or not at all: a benchmark may be ended at any moment."""
    written = file.resolve().with_name(f"{file.name}.partial")
    written.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    written.replace(file.resolve())


@functools.cache
def has_gpu() -> bool:
    from core.training.hardware import detect

    return bool(detect().gpus)


def recipe_of(pair: Pair, base: Path, data: Path, **more: Any) -> Any:
    from core.training.recipe import build

    values = {
        "base_model": str(base),
        "dataset": str(data),
        "method": pair.method,
        "max_length": pair.max_length,
        "dtype": "auto" if has_gpu() else "fp32",
        "micro_batch_size": pair.micro_batch_size,
        "max_steps": STEPS,
        "eval_fraction": 0.05,
        "save_steps": 0,
    } | pair.knobs
    return build(values | more, "the benchmark")


def probe_part(chosen: list[Pair], found: list[dict[str, Any]], file: Path | None) -> None:
    """Before a whole run, the probe that the page and ``estimate --probe`` make, and what the estimate then says; each in an empty workspace."""
    for pair in chosen:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRANSMUTE_HOME"] = str(Path(folder) / "workspace")
            make(MODELS[pair.model], Path(folder) / pair.model)
            found.append(probed(pair, Path(folder) / pair.model, conversations(Path(folder) / "words.json")))
        each = found[-1]
        print(
            f"{each['pair']:78} {each['measured_bytes'] / 1e6:6.0f} MB, before the probe {each['error_before']:+.1%}, after {each['error']:+.1%}",
            flush=True,
        )
        if file:
            kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"machine": machine()}
            write(file, kept | {"probed": {"steps": PROBED_STEPS, "pairs": found}})
    print(json.dumps(found))


def probed(pair: Pair, base: Path, data: Path) -> dict[str, Any]:
    from core.running import probe, runs
    from core.training.hardware import detect
    from core.training.prospect import prospect

    halfway = PROBED_STEPS // 2
    # one checkpoint at a time: of 1B weights that all learn each takes 15 GB, and rented disks are small
    recipe = recipe_of(pair, base, data, max_steps=PROBED_STEPS, eval_steps=halfway, save_steps=halfway, save_total_limit=1)
    before = prospect(recipe, detect()).estimate
    probe_id = probe.begin(recipe)
    require_done(list(runs.follow(probe_id))[-1])
    twenty = probe.result(probe_id)
    after = prospect(recipe, detect()).estimate
    assert before and after and after.correction.runs == 1
    run_id = runs.create(recipe, steps=("train",))
    runs.start(run_id)
    run = list(runs.follow(run_id))[-1]
    require_done(run)
    measured = max(run.facts["memory_bytes"].values())
    before_bytes, after_bytes = (found.peak_bytes - found.memory.uncounted_bytes for found in (before, after))
    return {
        "pair": pair.name,
        "measured_bytes": measured,
        "measured_phases": run.facts["memory_bytes"],
        "probe_bytes": twenty.peak_bytes,
        "probe_phases": twenty.phases,
        "before_bytes": round(before_bytes),
        "after_bytes": round(after_bytes),
        "error_before": before_bytes / measured - 1,
        "error": after_bytes / measured - 1,
    }


def require_done(run: Any) -> None:
    if run.state != "done":
        sys.exit(f"{run.run_id} is {run.state}: {run.error}")


def one(pair: Pair, base: Path, data: Path, known: dict[str, Any] | None = None) -> dict[str, Any]:
    """The prediction, made before the run, and what the run then held, or `known` says it held."""
    from core.training.hardware import detect
    from core.training.prospect import prospect

    recipe = recipe_of(pair, base, data)
    foreseen = prospect(recipe, detect()).estimate
    assert foreseen
    predicted = foreseen.memory
    parts, threshold = (known["measured_phases"], known["mmap_threshold_bytes"]) if known else measure(pair, recipe)
    measured, foretold = max(parts.values()), predicted.measurable_bytes
    dtype = "float16" if has_gpu() or pair.knobs.get("dtype") == "bf16" else "float32"
    others = {name: known[name] for name in ("accelerate_bytes", "table_bytes")} if known else beside(pair.method, base, dtype)
    return {
        "pair": pair.name,
        "method": pair.method,
        "measured_bytes": measured,
        "mmap_threshold_bytes": threshold,
        "measured_phases": parts,
        "predicted_bytes": round(foretold),
        "predicted_phases": {name: round(max(0.0, size - predicted.uncounted_bytes)) for name, size in predicted.phases.items()},
        "predicted_parts": {part.name: round(part.size_bytes) for part in predicted.parts},
        "error": foretold / measured - 1,
        **others,
        **{f"{name.removesuffix('_bytes')}_error": size / measured - 1 for name, size in others.items() if size},
    }


def measure(pair: Pair, recipe: Any) -> tuple[dict[str, int], int | None]:
    """Run the worker; the peak of each phase, and the size from which its tensors were mapped by themselves."""
    from core import events, process
    from core.running import care, runs

    run_id = runs.create(recipe)
    run_dir = runs.folder(run_id)
    launch = json.loads((run_dir / "launch.json").read_text())
    worker = subprocess.run(
        launch["argv"], env=process.child_environment(launch["env"]), cwd=PROJECT, capture_output=True, text=True, check=False
    )
    if worker.returncode:
        sys.exit(f"{pair.name}: {worker.stderr[-2000:]}")
    parts = events.fold(events.read(run_dir)).facts["memory_bytes"]
    care.delete(run_id)
    threshold = launch["env"].get("MALLOC_MMAP_THRESHOLD_")
    return parts, int(threshold) if threshold else None


def beside(method: str, base: Path, dtype: str) -> dict[str, float]:
    """What accelerate and LLaMA-Factory's table say of the same model."""
    said = accelerate_says(base, dtype)
    return {"accelerate_bytes": said["bytes"], "table_bytes": TABLE_GB[method] * 1e9 * said["parameters"] / TABLE_PARAMETERS}


@functools.cache
def accelerate_says(base: Path, dtype: str) -> dict[str, float]:
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ACCELERATE, str(base), dtype],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        sys.exit(child.stderr[-2000:])
    return json.loads(child.stdout.splitlines()[-1])


# `accelerate estimate-memory` itself up to its table, of which the column "Training using Adam" is taken. It takes names of the Hub only, so
# what it would ask the Hub is answered here: that there is such a model, and that it is transformers'.
ACCELERATE = """
import argparse, contextlib, json, sys, types
from accelerate.commands import estimate
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1])
estimate.verify_on_hub = lambda repo, token=None: types.SimpleNamespace(library_name="transformers", config=config.to_dict())
asked = argparse.Namespace(model_name=sys.argv[1], library_name=None, trust_remote_code=False, dtypes=[sys.argv[2]])
with contextlib.redirect_stdout(sys.stderr):
    ((_, _, _, training),) = estimate.gather_data(asked)
from core.training.shapes import of_model
print(json.dumps({"bytes": max(training.values()), "parameters": of_model(sys.argv[1]).total}))
"""


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    errors = [pair["error"] for pair in found]
    return {
        "pairs": len(errors),
        "median_error": statistics.median(map(abs, errors)),
        "worst_error": max(map(abs, errors)),
        "worst_under": min(0.0, *errors),
        "accelerate_median_error": statistics.median(abs(pair["accelerate_error"]) for pair in found),
        "table_median_error": statistics.median(abs(pair["table_error"]) for pair in found),
    }


def line(pair: dict[str, Any]) -> str:
    phases = " ".join(
        f"{name} {pair['measured_phases'].get(name, 0) / 1e6:.0f}/{size / 1e6:.0f}" for name, size in pair["predicted_phases"].items()
    )
    return (
        f"{pair['pair']:78} {pair['measured_bytes'] / 1e6:6.0f} MB, predicted {pair['predicted_bytes'] / 1e6:6.0f} ({pair['error']:+.1%});"
        f" accelerate {pair['accelerate_error']:+.0%}, table {pair['table_error']:+.0%} | {phases}"
    )


def make(config: dict[str, Any], folder: Path) -> None:
    """A model of random weights in bf16, as published models are stored, with the starter's tokenizer; made in a child, whose memory goes with it."""
    program = (
        "import json, sys, torch\nfrom transformers import CONFIG_MAPPING, AutoModelForCausalLM\ntorch.manual_seed(0)\n"
        "values = json.loads(sys.argv[1])\nconfig = CONFIG_MAPPING[values.pop('model_type')](**values)\n"
        "with torch.device('cuda' if torch.cuda.is_available() else 'cpu'):\n"  # a CPU draws 8B numbers for minutes
        "    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)\n"
        "model.save_pretrained(sys.argv[2])\n"
    )
    more = {"max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    subprocess.run([sys.executable, "-W", "ignore", "-c", program, json.dumps(config | more), str(folder)], check=True)
    for name in TOKENIZER:
        shutil.copyfile(PROJECT / "examples" / "starter" / name, folder / name)


def conversations(path: Path, count: int = 60) -> Path:
    """Questions of a few random words with long answers, a hundred to more than a thousand tokens, so that rows are full at every length."""
    chance = random.Random(0)
    words = [line for line in (PROJECT / "README.md").read_text(encoding="utf-8").split() if line.isalpha()]
    said = lambda least, most: " ".join(chance.choices(words, k=chance.randint(least, most)))
    rows = [
        {"id": str(number), "conversations": [{"from": "human", "value": said(5, 20)}, {"from": "gpt", "value": said(60, 600)}]}
        for number in range(count)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    import torch
    import transformers
    import trl

    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "trl": trl.__version__,
        "python": platform.python_version(),
    }
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {"cpu": cpu, "cpus": len(os.sched_getaffinity(0)), **gpu, **versions}


if __name__ == "__main__":
    main()

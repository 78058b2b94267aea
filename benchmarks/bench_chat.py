"""Chat beside llama.cpp's own `llama-bench`: the same random-weight 1B Llama at q4_0, the same threads, in one run.

Also the time to the first token of 50 new tokens behind a history of 1,000, with what was computed before and without. The model (config,
float16 safetensors, converter, q4_0) is made in a temporary folder: 5 GB of disk, 3 GB of memory. ``--save`` keeps the result file.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_demo import machine
from benchmarks.llama_tools import tools
from core.chat.engine import Engine, Sampling, open_engine
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.gguf import make_gguf
from core.paths import STARTER
from core.process import child_environment

RESULT = Path(__file__).parent / "results" / "chat.json"
SIZES = {"1b": (2048, 5632, 22, 32, 4), "100m": (768, 2048, 12, 12, 4)}  # width, feed-forward width, layers, heads, key/value heads
TOKENS, HISTORY, NEW = 128, 1000, 50
LEAST_SPEED, LEAST_REUSE = 0.85, 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="1b")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", type=Path, help="a folder with llama-bench")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    bench = (arguments.tools or tools(["llama-bench"])) / "llama-bench"
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder), arguments.size)
        ours, theirs = [], []
        with open_engine(model, threads=arguments.threads) as engine:
            engine.ready()
            for _ in range(arguments.rounds):  # in turns, so that whatever else the machine does hits both
                theirs.append(llama_bench(bench, model, arguments.threads))
                ours.append(chat_speed(engine))
            first = first_tokens(engine, arguments.rounds)
    speed = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    is_busy = max(load, os.getloadavg()[0]) > 1.5 * arguments.threads  # the two of one round then meet different neighbours
    reuse = first["again_s"] / first["kept_s"]
    result = {
        "machine": machine(), "size": arguments.size, "threads": arguments.threads, "chat_tokens_per_s": ours,
        "llama_bench_tokens_per_s": theirs, "speed": speed, "first_token": first, "reuse": reuse, "load_before": load, "is_busy": is_busy,
    }  # fmt: skip
    print(f"chat {max(ours):.2f} tokens/s, llama-bench {max(theirs):.2f}; {speed:.2f} of it (median of {arguments.rounds} rounds)")
    print(f"first token: {first['again_s']:.2f} s from nothing, {first['kept_s']:.2f} s behind a kept history: {reuse:.1f} times sooner")
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    # No verdict from a busy machine: whoever is disturbed less looks faster.
    print(json.dumps(result | {"passed": None if is_busy else speed >= LEAST_SPEED and reuse >= LEAST_REUSE}))


def random_model(folder: Path, size: str) -> Artifact:
    """A Llama of this size with the starter's tokenizer and random weights, as q4_0."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    os.environ["TRANSMUTE_HOME"] = str(folder)
    width, inner, layers, heads, kv_heads = SIZES[size]
    config = AutoConfig.from_pretrained(STARTER)
    config.update(
        {
            "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "head_dim": width // heads, "max_position_embeddings": 4096, "vocab_size": config.vocab_size,
        }
    )  # fmt: skip
    model_dir = folder / "model"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    LlamaForCausalLM(config).save_pretrained(model_dir, max_shard_size="1GB")
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (STARTER / name).is_file():
            (model_dir / name).write_bytes((STARTER / name).read_bytes())
    merged = artifacts.resolve(str(model_dir)).model_copy(update={"name": "Random"})
    (made,) = make_gguf(merged, ["q4_0"], folder / "gguf")
    return made


def llama_bench(program: Path, model: Artifact, threads: int) -> float:
    """Tokens per second of generation, as llama-bench says, in the environment that the chat's own child has.

    Without it OpenMP's threads would spin while they wait, which on a shared machine costs the one and not the other.
    """
    argv = [str(program), "-m", str(model.gguf_path), "-p", "0", "-n", str(TOKENS), "-t", str(threads), "-r", "1", "-o", "json"]
    done = subprocess.run(argv, env=child_environment(), capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


def chat_speed(engine: Engine) -> float:
    """Tokens per second after the first one, through the child process and back. Random weights hardly ever end an answer by themselves."""
    stats: dict[str, Any] = {}
    for seed in range(5):
        *_, last = engine.stream("Count:", Sampling(temperature=1, seed=seed, max_tokens=TOKENS))
        stats = last.stats
        if stats["generated_tokens"] >= TOKENS // 2:
            break
    return float(stats["tokens_per_s"])


def first_tokens(engine: Engine, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a text of `HISTORY` and `NEW` tokens: computed whole, and with the history kept."""
    word, one = " the", Sampling(max_tokens=1)
    again, kept = [], []
    for number in range(rounds):
        history = f"{number}" + word * HISTORY
        again.append(first(engine, f"x{number}" + word * (HISTORY + NEW), one))
        first(engine, history, one)
        kept.append(first(engine, history + " of" * NEW, one))
    return {"again_s": statistics.median(again), "kept_s": statistics.median(kept)}


def first(engine: Engine, text: str, sampling: Sampling) -> float:
    *_, last = engine.stream(text, sampling)
    return float(last.stats["first_token_s"])


if __name__ == "__main__":
    main()

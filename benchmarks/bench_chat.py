"""Chat beside llama.cpp's own `llama-bench`: the same random-weight 1B Llama at q4_0, the same threads, in one run.

Also the time to the first token of 50 new tokens behind a history of 1,000, with what was computed before and without; and what the page
adds to an answer of 256 tokens, asked for in a real Chromium, beside the engine asked directly. The model (config, float16 safetensors,
converter, q4_0) is made in a temporary folder: 5 GB of disk, 3 GB of memory. ``--save`` keeps the result file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_demo import machine
from benchmarks.llama_tools import tools
from core import events, paths
from core.chat.engine import Engine, Sampling, open_engine
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.gguf import make_gguf
from core.paths import STARTER
from core.process import child_environment
from core.training.hardware import cpu_count
from tests.browser.conftest import ARGUMENTS, CHROMIUM
from tests.page import App, free_port

RESULT = Path(__file__).parent / "results" / "chat.json"
SIZES = {"1b": (2048, 5632, 22, 32, 4), "100m": (768, 2048, 12, 12, 4)}  # width, feed-forward width, layers, heads, key/value heads
TOKENS, HISTORY, NEW, ANSWER = 128, 1000, 50, 256
LEAST_SPEED, LEAST_REUSE, MOST_ADDED = 0.85, 5.0, 0.05


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
        page = through_the_page(model, Path(folder) / "workspace", arguments.rounds)
    speed = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    is_busy = max(load, os.getloadavg()[0]) > 1.5 * arguments.threads  # the two of one round then meet different neighbours
    reuse = first["again_s"] / first["kept_s"]
    result = {
        "machine": machine(), "size": arguments.size, "threads": arguments.threads, "chat_tokens_per_s": ours,
        "llama_bench_tokens_per_s": theirs, "speed": speed, "first_token": first, "reuse": reuse, "page": page, "load_before": load,
        "is_busy": is_busy,
    }  # fmt: skip
    print(f"chat {max(ours):.2f} tokens/s, llama-bench {max(theirs):.2f}; {speed:.2f} of it (median of {arguments.rounds} rounds)")
    print(f"first token: {first['again_s']:.2f} s from nothing, {first['kept_s']:.2f} s behind a kept history: {reuse:.1f} times sooner")
    print(f"{ANSWER} tokens: {page['page_s']:.1f} s on the page, {page['engine_s']:.1f} s by the engine alone: {page['added']:+.1%}")
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    passed = speed >= LEAST_SPEED and reuse >= LEAST_REUSE and page["added"] <= MOST_ADDED
    # No verdict from a busy machine: whoever is disturbed less looks faster.
    print(json.dumps(result | {"passed": None if is_busy else passed}))


def random_model(folder: Path, size: str) -> Artifact:
    """A Llama of this size with random weights, as q4_0."""
    os.environ["TRANSMUTE_HOME"] = str(folder)
    merged = artifacts.resolve(str(random_folder(folder, size))).model_copy(update={"name": "Random"})
    (made,) = make_gguf(merged, ["q4_0"], folder / "gguf")
    return made


def random_folder(folder: Path, size: str) -> Path:
    """A Llama of this size with the starter's tokenizer and random weights, as transformers saves it."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

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
    return model_dir


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


def through_the_page(model: Artifact, home: Path, rounds: int) -> dict[str, float]:
    """Seconds of an answer of `ANSWER` tokens in a browser, from the click to the whole answer, and by the engine with as many threads."""
    a_run_with(model, home)
    app = App(home, free_port())
    app.start()
    page_s, engine_s = [], []
    try:
        with sync_playwright() as playwright, open_engine(model, threads=max(1, cpu_count() // 2)) as engine:
            engine.ready()
            browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
            page = browser.new_page()
            page.goto(app.url)
            prepare(page)
            for number in range(-1, rounds):  # the first loads the model
                question = f"{number}: count to a thousand."
                times = asked_on(page, question), asked_of(engine, question)
                if number >= 0:
                    page_s.append(times[0])
                    engine_s.append(times[1])
            browser.close()
    finally:
        app.kill()
    added = statistics.median(shown / alone for shown, alone in zip(page_s, engine_s, strict=True)) - 1
    return {"page_s": statistics.median(page_s), "engine_s": statistics.median(engine_s), "added": added}


def a_run_with(model: Artifact, home: Path) -> None:
    """A finished run that has left this one model."""
    run_dir = home / "runs" / "r-random"
    run_dir.mkdir(parents=True)
    events.append(run_dir, "created", run_id=run_dir.name, name=model.name, method="fft", steps=["train"])
    with paths.building(run_dir / "artifacts" / model.folder.name) as folder:
        for file in model.files:
            os.link(model.folder / file.name, folder / file.name)
        made = artifacts.write(model.model_copy(update={"id": "r-random-q4-0", "run_id": run_dir.name}), folder)
    events.append(run_dir, "artifact", id=made.id, kind_of="gguf", path=f"artifacts/{folder.name.removesuffix('.partial')}")
    events.append(run_dir, "finished", state="done")


def prepare(page: Any) -> None:
    """The model chosen, and answers of `ANSWER` tokens."""
    page.set_default_timeout(600_000)
    page.get_by_role("tab", name="Chat", exact=True).click()
    page.locator("#chat-set input").click()
    page.get_by_role("option", name="Random").first.click()
    page.locator("#chat-action:not([disabled])").wait_for()
    page.get_by_role("button", name="How they answer").click()
    box = page.get_by_role("spinbutton", name="Maximum length").first
    box.fill(str(ANSWER))
    box.press("Tab")


def asked_on(page: Any, question: str) -> float:
    """Seconds per whole answer on the page; one that ends by itself before its last token counts by its tokens."""
    page.locator("#chat-clear").click()
    page.wait_for_function("!document.querySelector('#chat-talk article')")
    page.get_by_role("textbox", name=re.compile("^Prompt")).fill(question)
    start = time.perf_counter()
    page.locator("#chat-action").click()
    page.locator("#chat-talk article.reply[aria-busy=false]").wait_for()
    elapsed_s = time.perf_counter() - start
    tokens = int(re.search(r"([\d,]+) tokens(?!/)", page.locator("#chat-talk .figures").first.inner_text())[1].replace(",", ""))
    return elapsed_s * ANSWER / tokens


def asked_of(engine: Engine, question: str) -> float:
    start = time.perf_counter()
    *_, last = engine.stream([{"role": "user", "content": question}], Sampling(max_tokens=ANSWER))
    return (time.perf_counter() - start) * ANSWER / last.stats["generated_tokens"]


if __name__ == "__main__":
    main()

"""Our figures beside llama.cpp's own: perplexity and KL of the starter's levels on the same tokens, by `measure` and by llama-perplexity.

The text is the evaluation conversations as the chat template writes them, windows of it scored in both. What people see on the page is scored on
the answers alone, which llama-perplexity cannot do; those figures stand beside the others.

llama-perplexity is built with cmake from the pinned source distribution (minutes on two cores); ``--tools`` names a folder that has it.
``--save`` keeps the result file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_demo import machine
from benchmarks.llama_tools import tools
from core.data.dataset import import_dataset
from core.data.render import render
from core.export import artifacts
from core.export.gguf import make_gguf
from core.export.measure import TEXT_WINDOW, measure
from core.paths import EXAMPLES, STARTER

RESULT = Path(__file__).parent / "results" / "measure.json"
LEVELS = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "Q4_K_M", "Q2_K")
WITHIN = 0.02
BASE_SAYS = {"perplexity": r"Final estimate: PPL = ([\d.]+)"}
LEVEL_SAYS = {"perplexity": r"Mean PPL\(Q\)\s*:\s*([\d.]+)", "kl": r"Mean\s+KLD:\s*(-?[\d.]+)", "top1": r"Same top p:\s*([\d.]+)"}
TRIES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tools", type=Path, help="a folder with llama-perplexity")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    perplexity = (arguments.tools or tools(["llama-perplexity"])) / "llama-perplexity"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSMUTE_HOME"] = folder
        rows = compared(perplexity, Path(folder))
    worst = {name: max(row[f"{name}_off"] for row in rows) for name in ("perplexity", "kl")}
    print(
        f"{'level':8}{'perplexity':>12}{'llama.cpp':>12}{'off':>8}{'KL':>12}{'llama.cpp':>12}{'off':>8}{'top-1':>9}{'llama.cpp':>11}"
        f"{'in chat: perplexity':>21}{'KL':>12}{'top-1':>9}"
    )
    for row in rows:
        print(
            f"{row['level']:8}{row['perplexity']:12.4f}{row['theirs_perplexity']:12.4f}{row['perplexity_off']:8.2%}"
            f"{row['kl']:12.6f}{row['theirs_kl']:12.6f}{row['kl_off']:8.2%}{row['top1']:9.2%}{row['theirs_top1']:11.2%}"
            f"{row['chat']['perplexity']:21.4f}{row['chat']['kl_mean']:12.6f}{row['chat']['top1_agreement']:9.2%}"
        )
    result = {"machine": machine(), "window": TEXT_WINDOW, "num_tokens": rows[0]["num_tokens"], "worst": worst, "rows": rows}
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({"worst": worst, "within": WITHIN, "passed": all(value <= WITHIN for value in worst.values())}))
    sys.exit(0 if all(value <= WITHIN for value in worst.values()) else 1)


def compared(perplexity: Path, folder: Path) -> list[dict[str, Any]]:
    """One row per level; KL only for levels below f16, whose own is zero by definition."""
    conversations = list(import_dataset(EXAMPLES / "starter_eval.jsonl"))
    template = (STARTER / "chat_template.jinja").read_text(encoding="utf-8")
    text = "\n".join(render(conversation, template).text for conversation in conversations)
    source = artifacts.resolve(str(STARTER)).model_copy(update={"name": "Starter", "base_model": "starter"})
    made = make_gguf(source, LEVELS, folder / "gguf")
    ours = measure(made, made[0], [], text=text, max_tokens=10**6)
    chat = measure(made, made[0], conversations, max_tokens=10**6)
    file, base = folder / "text.txt", folder / "base.kld"
    file.write_text(text, encoding="utf-8")
    rows: list[dict[str, Any]] = []
    for artifact in made:
        is_base = artifact.id == made[0].id
        argv = [str(perplexity), "-m", str(artifact.gguf_path), "-c", str(TEXT_WINDOW), "-t", "2", "--kl-divergence-base", str(base)]
        argv += ["-f", str(file)] if is_base else ["--kl-divergence"]
        theirs = run_theirs(argv, is_base)
        figures = ours[artifact.id]
        rows.append(
            {
                "level": artifact.level,
                "num_tokens": figures["num_tokens"],
                "perplexity": figures["perplexity"],
                "theirs_perplexity": theirs["perplexity"],
                "perplexity_off": abs(figures["perplexity"] / theirs["perplexity"] - 1),
                "kl": figures["kl_mean"],
                "theirs_kl": theirs["kl"],
                "kl_off": 0.0 if is_base else abs(figures["kl_mean"] / theirs["kl"] - 1),
                "top1": figures["top1_agreement"],
                "theirs_top1": theirs["top1"],
                "size_bytes": artifact.size_bytes,
                "chat": {name: chat[artifact.id][name] for name in ("num_tokens", "perplexity", "kl_mean", "kl_p99", "top1_agreement")},
            }
        )
    return rows


def run_theirs(argv: list[str], is_base: bool) -> dict[str, float]:
    """The figures that llama-perplexity prints. It may end before the thread that writes its log: then the last lines are lost."""
    said = ""
    for _ in range(TRIES):
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        said = done.stdout + done.stderr
        if found := read(said, is_base):
            return found
    sys.exit(said[-3000:])


def read(said: str, is_base: bool) -> dict[str, float] | None:
    """The figures in llama-perplexity's log; None when they are not all there."""
    found = {name: re.search(pattern, said) for name, pattern in (BASE_SAYS if is_base else LEVEL_SAYS).items()}
    values = {name: float(match[1]) for name, match in found.items() if match}
    if len(values) < len(found):
        return None
    return {"kl": 0.0, "top1": 1.0} | values | ({} if is_base else {"top1": values["top1"] / 100})


if __name__ == "__main__":
    main()

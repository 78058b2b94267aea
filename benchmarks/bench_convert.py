"""Converting and quantising beside llama.cpp's own: this project's conversion beside the converter run by hand, and its quantisation beside
`llama-quantize` built from the same source; the same random-weight Llama, in turns, medians of the pairs.

Ours checks the weights for what float16 cannot hold, reads the header of what it wrote, and runs in a child process; both write the same
tensors. ``--tools`` names a folder with llama-quantize, ``--save`` keeps the result file.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_chat import SIZES, random_folder
from benchmarks.bench_demo import machine
from benchmarks.llama_tools import tools
from core.export.converter import SCRIPT, convert, converter_dir
from core.export.header import gguf_header
from core.export.levels import level
from core.export.quantise import quantise
from core.process import child_environment

RESULT = Path(__file__).parent / "results" / "convert.json"
LEVELS = ("q4_0", "q8_0", "Q4_K_M")
MOST_CONVERT, MOST_QUANTISE = 1.0, 1.05  # of their time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="1b")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tools", type=Path, help="a folder with llama-quantize")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    program = (arguments.tools or tools(["llama-quantize"])) / "llama-quantize"
    scripts, load = converter_dir(), os.getloadavg()[0]
    os.environ["LLAMA_CPP_DIR"] = str(scripts)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSMUTE_HOME"] = str(Path(folder) / "home")
        model = random_folder(Path(folder), arguments.size)
        rows = {"convert": compare(Path(folder), arguments.rounds, lambda out: convert(model, out), by_hand(scripts, model))}
        source = Path(folder) / "source.gguf"
        convert(model, source)
        for name in LEVELS:
            ours = quantiser(source, name, arguments.threads)
            theirs = llama_quantize(program, source, name, arguments.threads)
            rows[name] = compare(Path(folder), arguments.rounds, ours, theirs)
    for name, row in rows.items():
        print(f"{name:8} ours {row['ours_s']:7.2f} s, llama.cpp's own {row['theirs_s']:7.2f} s: {row['ratio']:.3f} of it")
    is_busy = max(load, os.getloadavg()[0]) > 1.5 * (os.cpu_count() or 1)
    is_met = all(row["ratio"] <= (MOST_CONVERT if name == "convert" else MOST_QUANTISE) for name, row in rows.items())
    result = {"machine": machine(), "size": arguments.size, "threads": arguments.threads, "rounds": arguments.rounds, "load_before": load}
    result |= {"is_busy": is_busy, "rows": rows, "passed": None if is_busy else is_met}  # a busy machine gives no verdict
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def compare(folder: Path, rounds: int, ours: Callable[[Path], Any], theirs: Callable[[Path], Any]) -> dict[str, float]:
    """Seconds of both ways and the median of the quotients, after one round that fills the caches and compares what was written."""
    pairs: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        outs = folder / "ours.gguf", folder / "theirs.gguf"
        pairs.append((timed(ours, outs[0]), timed(theirs, outs[1])))
        if not number:
            assert tensors(outs[0]) == tensors(outs[1]), "both write the same tensors"
        for out in outs:
            out.unlink()
    mine, other = zip(*pairs[1:], strict=True)
    ratio = statistics.median(one / two for one, two in zip(mine, other, strict=True))
    return {"ours_s": statistics.median(mine), "theirs_s": statistics.median(other), "ratio": ratio}


def timed(do: Callable[[Path], Any], out: Path) -> float:
    os.sync()  # what the other way left to be written is not this one's to pay for
    start = time.perf_counter()
    do(out)
    return time.perf_counter() - start


def tensors(file: Path) -> list[tuple[str, str, int]]:
    return sorted((tensor.name, tensor.type, tensor.size_bytes) for tensor in gguf_header(file).tensors)


def by_hand(scripts: Path, model: Path) -> Callable[[Path], Any]:
    """The converter as its README says to call it."""
    argv = [sys.executable, str(scripts / SCRIPT), "--outtype", "f16", str(model), "--outfile"]
    env = child_environment({"PYTHONPATH": str(scripts / "gguf-py")})
    return lambda out: subprocess.run([*argv, str(out)], env=env, check=True, capture_output=True)


def quantiser(source: Path, name: str, threads: int) -> Callable[[Path], Any]:
    return lambda out: quantise(source, {name: out}, threads=threads)


def llama_quantize(program: Path, source: Path, name: str, threads: int) -> Callable[[Path], Any]:
    argv = [str(program), str(source)]
    return lambda out: subprocess.run([*argv, str(out), level(name).encoding, str(threads)], check=True, capture_output=True)


if __name__ == "__main__":
    main()

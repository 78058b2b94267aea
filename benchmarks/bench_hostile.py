"""Hostile GGUF files: what becomes of those made by hand, of truncations, and of thousands of mutants of a real model's header.

Every file goes the way of one that a person names: the header check in this process, which stands for the page's, and, when that finds nothing,
llama.cpp in a child with limits on memory and time. Counted is how each ended; this process must live, and hold its memory, to the last.
``--save`` keeps the result file.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.bench_demo import machine
from core.errors import UserError
from core.export import artifacts
from core.export.converter import converter_dir
from core.export.gguf import make_gguf
from core.export.header import gguf_header
from core.export.llama import gguf_tokenize
from core.paths import STARTER
from tests.unit.export.gguf_files import GOOD, three_tokens
from tests.unit.export.test_header import BOMBS

RESULT = Path(__file__).parent / "results" / "hostile.json"
MOST_MEMORY_BYTES = 64 * 2**20  # that the header checks may add to this process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=2500)
    parser.add_argument("--children", type=int, default=500, help="mutants with a good header that are opened by llama.cpp at most")
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name}")
    arguments = parser.parse_args()
    os.environ["LLAMA_CPP_DIR"] = str(converter_dir())
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRANSMUTE_HOME"] = str(Path(folder) / "home")
        real = make_gguf(artifacts.resolve(str(STARTER)), ["q4_0"], Path(folder) / "gguf")[0].gguf_path
        file = Path(folder) / "hostile.gguf"
        before_bytes = peak_bytes()
        results = {"by hand": by_hand(file), "truncations": truncations(file), "mutants": mutants(file, real, arguments)}
        grown_bytes = peak_bytes() - before_bytes
    num_files = sum(sum(found["ended"].values()) for found in results.values())
    for name, found in results.items():
        ended = ", ".join(f"{count:,} {how}" for how, count in sorted(found["ended"].items()))
        print(f"{name:12} {ended}; slowest header check {found['slowest_s'] * 1000:.0f} ms")
    result = {"machine": machine(), "files": num_files, "app_alive": num_files, "grown_bytes": grown_bytes} | results
    result["passed"] = grown_bytes <= MOST_MEMORY_BYTES and not any("hung" in found["ended"] for found in results.values())
    print(f"{num_files:,} files, this process lives after {num_files:,} of them and grew by {grown_bytes / 1e6:.0f} MB")
    if arguments.save:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


class Tally:
    """How files ended."""

    def __init__(self, file: Path, max_children: int) -> None:
        self.file, self.children = file, max_children
        self.ended: collections.Counter[str] = collections.Counter()
        self.slowest_s = 0.0

    def open(self, content: bytes | bytearray) -> None:
        self.file.write_bytes(content)
        start = time.perf_counter()
        try:
            gguf_header(self.file)
        except UserError:
            self.ended["refused by the header check"] += 1
            return
        finally:
            self.slowest_s = max(self.slowest_s, time.perf_counter() - start)
        if not self.children:
            self.ended["with a good header, not opened"] += 1
            return
        self.children -= 1
        try:
            gguf_tokenize(self.file, ["Who are you?"])
            self.ended["opened"] += 1
        except UserError as error:
            words = {"CRASH": "crashed in their child", "TIMEOUT": "hung"}
            self.ended[words.get(error.code, "refused by llama.cpp in their child")] += 1

    def found(self) -> dict[str, Any]:
        return {"ended": dict(self.ended), "slowest_s": self.slowest_s}


def by_hand(file: Path) -> dict[str, Any]:
    tally = Tally(file, 1)
    for content in BOMBS.values():
        tally.open(content)
    tally.open(three_tokens(file).read_bytes())  # right in its header, and llama.cpp aborts on it
    return tally.found()


def truncations(file: Path) -> dict[str, Any]:
    tally = Tally(file, 0)
    for length in range(len(GOOD)):
        tally.open(GOOD[:length])
    return tally.found()


def mutants(file: Path, real: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One to four bytes changed among those before the weights; half of the files are changed within the first thousand, where sizes stand."""
    generator, tally = random.Random(0), Tally(file, arguments.children)
    content, end = real.read_bytes(), gguf_header(real).data_offset
    for number in range(arguments.mutants):
        changed = bytearray(content)
        for _ in range(generator.randint(1, 4)):
            changed[generator.randrange(min(end, 1000) if number % 2 else end)] = generator.randrange(256)
        tally.open(changed)
    return tally.found()


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()

"""Quantisation levels: what llama.cpp offers, how large each would be, and the making of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError
from core.export.header import gguf_header
from core.export.jobs import OnEvent, run_jobs
from core.process import call_child

Group = Literal["float", "article", "k", "iq", "other"]


@dataclass(frozen=True, slots=True)
class Level:
    """One quantisation level.

    `name` is written as ggml and the source article write it (``q4_0``), mixtures as llama.cpp does (``Q4_K_M``). `ftype` is llama.cpp's
    number for it. `bits` are per weight: of one block for float and article levels, measured on Llama-3.1-8B for mixtures.
    """

    name: str
    ftype: int
    bits: float
    group: Group
    needs_imatrix: bool = False

    @property
    def encoding(self) -> str:
        """The spelling in file names: ``Q4_0``."""
        return self.name.upper()


# Numbers: `enum llama_ftype` of llama.h. Bits: block sizes of ggml-common.h, and tools/quantize/README.md for K and IQ (llama.cpp in
# llama-cpp-python 0.3.36, read 2026-11-23). needs_imatrix: `tensor_requires_imatrix` in llama-quant.cpp.
LEVELS = (
    Level("f32", 0, 32.0, "float"),
    Level("f16", 1, 16.0, "float"),
    Level("bf16", 32, 16.0, "float"),
    Level("q8_0", 7, 8.5, "article"),
    Level("q5_1", 9, 6.0, "article"),
    Level("q5_0", 8, 5.5, "article"),
    Level("q4_1", 3, 5.0, "article"),
    Level("q4_0", 2, 4.5, "article"),
    Level("Q6_K", 18, 6.56, "k"),
    Level("Q5_K_M", 17, 5.70, "k"),
    Level("Q5_K_S", 16, 5.57, "k"),
    Level("Q4_K_M", 15, 4.89, "k"),
    Level("Q4_K_S", 14, 4.67, "k"),
    Level("Q3_K_L", 13, 4.30, "k"),
    Level("Q3_K_M", 12, 4.00, "k"),
    Level("Q3_K_S", 11, 3.64, "k"),
    Level("Q2_K", 10, 3.16, "k"),
    Level("Q2_K_S", 21, 2.97, "k", needs_imatrix=True),
    Level("IQ4_NL", 25, 4.68, "iq"),
    Level("IQ4_XS", 30, 4.46, "iq"),
    Level("IQ3_M", 27, 3.76, "iq"),
    Level("IQ3_S", 26, 3.66, "iq"),
    Level("IQ3_XS", 22, 3.50, "iq", needs_imatrix=True),
    Level("IQ3_XXS", 23, 3.25, "iq", needs_imatrix=True),
    Level("IQ2_M", 29, 2.93, "iq", needs_imatrix=True),
    Level("IQ2_S", 28, 2.74, "iq", needs_imatrix=True),
    Level("IQ2_XS", 20, 2.59, "iq", needs_imatrix=True),
    Level("IQ2_XXS", 19, 2.38, "iq", needs_imatrix=True),
    Level("IQ1_M", 31, 2.15, "iq", needs_imatrix=True),
    Level("IQ1_S", 24, 2.00, "iq", needs_imatrix=True),
    Level("TQ2_0", 37, 2.06, "other"),
    Level("TQ1_0", 36, 1.69, "other"),
    Level("Q2_0", 41, 2.25, "other"),
    Level("Q1_0", 40, 1.125, "other"),
    Level("MXFP4_MOE", 38, 4.25, "other"),
)
ALIASES = {"q3_k": "Q3_K_M", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M"}
DEMO_LEVELS = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "Q4_K_M")


def levels() -> tuple[Level, ...]:
    return LEVELS


def level(name: str) -> Level:
    """The level called `name`, in any case; ``Q4_K`` means ``Q4_K_M`` as in llama.cpp.

    Raises:
        UserError: llama.cpp has no such level.
    """
    wanted = ALIASES.get(name.strip().lower(), name.strip()).lower()
    for known in LEVELS:
        if known.name.lower() == wanted:
            return known
    choices = ", ".join(known.name for known in LEVELS)
    raise UserError(f"There is no quantisation level {name!r}.", "levels", f"Choose from: {choices}.")


def parse_levels(names: str | Iterable[str]) -> list[Level]:
    """``"f16,q4_0"`` or a list of names; each level once, in the order given."""
    separate = names.split(",") if isinstance(names, str) else names
    return list(dict.fromkeys(level(name) for name in separate if name.strip()))


def level_of_file(path: Path) -> Level | None:
    """The level that a GGUF file says it has, or None when it says none that is known."""
    number = gguf_header(path).file_type
    return next((known for known in LEVELS if known.ftype == number), None)


def quantise(
    source: Path,
    outputs: dict[str, Path],
    *,
    threads: int = 0,
    log: Path | None = None,
    on_event: OnEvent | None = None,
    on_done: Callable[[str, Path], None] | None = None,
) -> None:
    """Write `source` (an f16, bf16 or f32 GGUF) at every level of `outputs`, level name to file.

    Args:
        threads: 0 takes all cores.
        on_event: gets ``{"event": "progress", "id": level, "done", "total"}`` in tensors.
        on_done: called with level and file as each is finished.

    Raises:
        UserError: the first level that failed, after the others were made.
    """
    _require_float(source)
    jobs = [{"id": name, "ftype": level(name).ftype, "out": str(out.absolute())} for name, out in outputs.items()]
    payload = {"source": str(source.absolute()), "threads": threads, "dry_run": False}
    finish = on_done or (lambda _name, _path: None)
    failures = run_jobs(
        "core.export.quantise_child",
        payload,
        jobs,
        step="Quantising to",
        on_done=lambda name, _: finish(name, outputs[name]),
        log=log,
        on_event=on_event,
    )
    for name, error in failures.items():
        outputs[name].unlink(missing_ok=True)
        raise error


def exact_sizes(source: Path, names: Iterable[str], *, log: Path | None = None) -> dict[str, int]:
    """The bytes that each level's file would have, from a dry run of the real quantisation, by level name."""
    _require_float(source)
    jobs = [{"id": known.name, "ftype": known.ftype, "out": ""} for known in parse_levels(names)]
    payload: dict[str, Any] = {"source": str(source.absolute()), "threads": 0, "dry_run": True, "jobs": jobs}
    sizes: dict[str, int] = {}

    def keep(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            sizes[event["id"]] = event["value"]

    call_child("core.export.quantise_child", payload, step=f"Sizing the levels of {source.name}", log=log, on_event=keep)
    return sizes


def _require_float(source: Path) -> None:
    found = level_of_file(source)
    if found and found.group != "float":
        raise UserError(
            f"{source.name} is quantised already ({found.name}), and quantising twice loses quality without a word.",
            str(source),
            "Start from the f16 file, or convert the original model again.",
        )

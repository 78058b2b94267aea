"""The quantisation levels that llama.cpp offers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from core.errors import UserError
from core.export.header import gguf_header

Group = Literal["float", "article", "k", "iq", "other"]
GUIDED = "+imatrix"  # behind a level's name: ``Q4_K_M+imatrix`` stands beside ``Q4_K_M``
UNMOVED = ("q8_0",)  # its bytes are the same with a matrix and without


@dataclass(frozen=True, slots=True)
class Level:
    """One quantisation level.

    `name` is written as ggml and the source article write it (``q4_0``), mixtures as llama.cpp does (``Q4_K_M``). `ftype` is llama.cpp's
    number for it. `bits` are per weight: of one block for float and article levels, measured on Llama-3.1-8B for mixtures.

    A guided level is quantised with an importance matrix: because its name asks for one (``Q4_K_M+imatrix``), or because it needs one.
    """

    name: str
    ftype: int
    bits: float
    group: Group
    needs_imatrix: bool = False

    @property
    def plain_name(self) -> str:
        return self.name.removesuffix(GUIDED)

    @property
    def encoding(self) -> str:
        """The spelling at the end of file names: ``Q4_0``, ``imatrix-Q4_K_M``."""
        return ("" if self.plain_name == self.name else "imatrix-") + self.plain_name.upper()

    @property
    def is_guided(self) -> bool:
        return self.needs_imatrix or self.name.endswith(GUIDED)

    @property
    def gains_by_imatrix(self) -> bool:
        """Whether it can be had with a matrix and without, and the two differ."""
        return self.group in ("article", "k", "iq") and not self.needs_imatrix and self.plain_name not in UNMOVED

    @property
    def guided(self) -> Level:
        """The same level with an importance matrix, where that makes a difference."""
        return replace(self, name=self.plain_name + GUIDED) if self.gains_by_imatrix else self


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
OFFERED = (*LEVELS, *(known.guided for known in LEVELS if known.gains_by_imatrix))
ALIASES = {"q3_k": "Q3_K_M", "q4_k": "Q4_K_M", "q5_k": "Q5_K_M"}
DEMO_LEVELS = ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "Q4_K_M")


def level(name: str) -> Level:
    """The level called `name`, in any case; ``Q4_K`` means ``Q4_K_M`` as in llama.cpp. ``+imatrix`` asks for a guided one.

    Raises:
        UserError: llama.cpp has no such level.
    """
    plain, plus, rest = name.strip().lower().partition("+")
    wanted = ALIASES.get(plain, plain).lower()
    for known in LEVELS:
        if known.name.lower() == wanted and rest == (GUIDED[1:] if plus else ""):
            return known.guided if plus else known
    choices = ", ".join(known.name for known in LEVELS)
    raise UserError(f"There is no quantisation level {name!r}.", "levels", f"Choose from: {choices}; {GUIDED} behind one guides it.")


def parse_levels(names: str | Iterable[str]) -> list[Level]:
    """``"f16,q4_0"`` or a list of names; each level once, in the order given."""
    separate = names.split(",") if isinstance(names, str) else names
    return list(dict.fromkeys(level(name) for name in separate if name.strip()))


def level_numbered(ftype: int | None) -> Level | None:
    """The level with llama.cpp's number `ftype`, or None when it is not known."""
    return next((known for known in LEVELS if known.ftype == ftype), None)


def level_of_file(path: Path) -> Level | None:
    """The level that a GGUF file says it has, or None when it says none that is known."""
    return level_numbered(gguf_header(path).file_type)

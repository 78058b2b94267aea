"""Quantising: how large each level of a model would be, and the making of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.export.header import gguf_header
from core.export.jobs import OnEvent, run_jobs
from core.export.levels import level, level_of_file, parse_levels
from core.export.split import gguf_bytes
from core.process import patience_s


def quantise(
    source: Path,
    outputs: dict[str, Path],
    *,
    imatrix: Path | None = None,
    threads: int = 0,
    log: Path | None = None,
    on_event: OnEvent | None = None,
    on_done: Callable[[str, Path], None] | None = None,
) -> None:
    """Write `source` (an f16, bf16 or f32 GGUF) at every level of `outputs`, level name to file.

    Args:
        imatrix: an importance matrix as llama.cpp writes it (GGUF), which says how much each input of a weight matters, for the levels
            that are guided by one.
        threads: 0 takes all cores.
        on_event: gets ``{"event": "progress", "id": level, "done", "total"}`` in tensors.
        on_done: called with level and file as each is finished.

    Raises:
        UserError: the first level that failed, after the others were made.
    """
    _require_float(source)
    known = {name: level(name) for name in outputs}
    jobs = [
        {"id": name, "ftype": known[name].ftype, "out": str(out.absolute()), "is_guided": known[name].is_guided}
        for name, out in outputs.items()
    ]
    payload = {"source": str(source.absolute()), "threads": threads, "dry_run": False, "imatrix": checked_imatrix(imatrix)}
    finish = on_done or (lambda _name, _path: None)
    failures = run_jobs(
        "core.export.quantise_child",
        payload,
        jobs,
        step="Quantising to",
        timeout_s=patience_s(gguf_bytes(source)),
        on_done=lambda name, _: finish(name, outputs[name]),
        log=log,
        on_event=on_event,
    )
    for name, error in failures.items():
        outputs[name].unlink(missing_ok=True)
        raise error


def exact_sizes(source: Path, names: Iterable[str], *, log: Path | None = None) -> dict[str, int]:
    """The bytes that each level's file would have, from a dry run of the real quantisation, by level name.

    Some mixtures are others with an importance matrix; guided levels are sized as with one. A level that this model cannot have is left
    out.
    """
    _require_float(source)
    jobs = [{"id": known.name, "ftype": known.ftype, "out": "", "is_guided": known.is_guided} for known in parse_levels(names)]
    payload: dict[str, Any] = {"source": str(source.absolute()), "threads": 0, "dry_run": True, "imatrix": None}
    sizes: dict[str, int] = {}
    failures = run_jobs(
        "core.export.quantise_child",
        payload,
        jobs,
        step=f"Sizing {source.name} at",
        timeout_s=patience_s(gguf_bytes(source)),
        on_done=sizes.__setitem__,
        log=log,
    )
    if failures and not sizes:
        raise next(iter(failures.values()))
    return sizes


def checked_imatrix(imatrix: Path | None) -> str | None:
    """The absolute path of an importance matrix; refuses what is none."""
    if imatrix is None:
        return None
    if not imatrix.is_file():
        raise UserError(
            f"There is no importance matrix {imatrix}.", str(imatrix), "Name a file, or make one with --imatrix auto.", "IMATRIX"
        )
    if gguf_header(imatrix).metadata.get("general.type") != "imatrix":
        remedy = "Make one with `python -m core imatrix ARTIFACT --data PATH -o FILE`, or take one that ends in .gguf."
        raise UserError(f"{imatrix.name} is no importance matrix.", str(imatrix), remedy, code="IMATRIX")
    return str(imatrix.absolute())


def _require_float(source: Path) -> None:
    found = level_of_file(source)
    if found and found.group != "float":
        raise UserError(
            f"{source.name} is quantised already ({found.name}), and quantising twice loses quality without a word.",
            str(source),
            "Start from the f16 file, or convert the original model again.",
        )

"""Runs llama.cpp's converter scripts inside a child process, reads their progress, and says in words what they refuse."""

from __future__ import annotations

import importlib
import logging
import re
import runpy
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.errors import UserError
from core.export.artifacts import ADAPTER_WEIGHTS
from core.export.precision import narrowest_format
from core.export.tensors import Stored, model_tensors, stored_tensors
from core.training.failures import ELSEWHERE, disk_full, is_disk_full, too_little_memory

EVENT_S = 0.2
REFUSALS = (NotImplementedError, ValueError, KeyError, TypeError, OSError, RuntimeError, ImportError, AttributeError, AssertionError)


class _LastError(logging.Handler):
    """Keeps the last error that the script logged before it exits with a code."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def handle(payload: dict[str, Any], emit: Emit) -> dict[str, str]:
    """Convert a model, or an adapter when the payload names one; returns the number format that was taken, and why."""
    root, model_dir = Path(payload["converter"]), Path(payload["model_dir"])
    weights = stored_tensors(Path(payload["adapter"]) / ADAPTER_WEIGHTS) if payload.get("adapter") else model_tensors(model_dir)
    dtype, why = choose_format(weights.values(), payload["name"], payload["dtype"], emit)
    sys.path[:0] = [str(root), str(root / "gguf-py")]
    _refuse_foreign_code()
    _watch_writing(emit)
    _add_metadata(payload["name"], payload["metadata"])
    arguments = [f"--outtype={dtype}", f"--outfile={payload['out_file']}"]
    if payload.get("adapter"):
        _run(root / "convert_lora_to_gguf.py", [*arguments, f"--base={model_dir}", payload["adapter"]], payload)
    else:
        _run(root / "convert_hf_to_gguf.py", [*arguments, str(model_dir)], payload)
    return {"dtype": dtype, "why": why}


def choose_format(weights: Iterable[Stored], name: str, wanted: str, emit: Emit) -> tuple[str, str]:
    """The format that was asked for; for ``auto`` f16 when it holds the weights, else what does. And why.

    Raises:
        UserError: f16 was asked for and does not hold them (code F16), or some are no numbers (code NAN).
    """
    told_s = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        if done == total or time.monotonic() - told_s > EVENT_S:
            told_s = time.monotonic()
            emit({"event": "progress", "done": done, "total": total, "doing": "looking at the weights"})

    found, why = narrowest_format(weights, tell)
    if wanted == "f16" != found:
        raise UserError(
            f"Some weights of this model are too large or too small for float16: {why}.",
            f"converting {name}",
            f"Take {found}, which keeps them as they are; quantised levels are made from that by themselves.",
            code="F16",
        )
    return (found, why) if wanted in ("auto", "f16") else (wanted, "it was asked for")


def _run(script: Path, arguments: list[str], payload: dict[str, Any]) -> None:
    errors = _LastError()
    logging.basicConfig(level=logging.INFO, handlers=[logging.StreamHandler(sys.stderr), errors])
    sys.argv = [script.name, *arguments]
    what = payload["name"]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise explain(errors.text or f"it stopped with code {stop.code}", what) from None
    except MemoryError:
        raise too_little_memory(f"converting {what}") from None
    except REFUSALS as error:
        if is_disk_full(error):
            raise disk_full(f"converting {what}", ELSEWHERE) from None
        logging.getLogger(__name__).exception("the converter refused the model")
        raise explain(str(error) or type(error).__name__, what) from None
    if not Path(payload["out_file"]).is_file():
        raise explain("it wrote no file", what)


def _refuse_foreign_code() -> None:
    """The converter loads some tokenizers with ``trust_remote_code=True``; here a model never brings code of its own (reliability rule R15)."""
    from transformers import AutoConfig, AutoTokenizer

    for loader in (AutoConfig, AutoTokenizer):
        load: Callable[..., Any] = loader.from_pretrained

        def without_code(*arguments: Any, load: Callable[..., Any] = load, **options: Any) -> Any:
            return load(*arguments, **(options | {"trust_remote_code": False}))

        loader.from_pretrained = without_code  # type: ignore[method-assign]


def _watch_writing(emit: Emit) -> None:
    """Put our own counter in the place of the progress bar that gguf-py draws while it writes."""
    import tqdm

    class Counter:
        def __init__(self, *, total: int | None = None, **_options: Any) -> None:
            self.total, self.done, self.told_s = total, 0, 0.0

        def update(self, count: int) -> None:
            self.done += count
            if self.total and (self.done == self.total or time.monotonic() - self.told_s > EVENT_S):
                self.told_s = time.monotonic()
                emit({"event": "progress", "done": self.done, "total": self.total, "doing": "writing"})

    tqdm.tqdm = Counter  # type: ignore[assignment,misc]


def _add_metadata(name: str, known: dict[str, Any]) -> None:
    """Put what is known into the metadata, past the scripts: the one for adapters takes none of it, the one for models no licence."""
    metadata_class: Any = importlib.import_module("gguf.metadata").Metadata
    load: Callable[..., Any] = metadata_class.load

    def with_known(*arguments: Any, **options: Any) -> Any:
        metadata = load(*arguments, **options)
        metadata.name = name
        metadata.license = metadata.license or known.get("general.license")  # what the model's own card says is nearer
        for key in known.keys() - {"general.license"}:
            setattr(metadata, key.removeprefix("general."), known[key])
        return metadata

    metadata_class.load = with_known


def explain(said: str, name: str) -> UserError:
    """The converter's words as a problem with a remedy."""
    where = f"converting {name}"
    if "pre-tokenizer was not recognized" in said:
        return UserError(
            "llama.cpp does not know this model's BPE tokenizer, so a GGUF of it would split text wrongly.",
            where,
            "Start from a base model that llama.cpp supports, or keep the merged model, which chats here through transformers.",
            code="TOKENIZER",
        )
    if "trust_remote_code" in said or "execute the" in said:
        return UserError(
            "This model's tokenizer needs code of its own, which is never run here.",
            where,
            "Take a model whose tokenizer is in transformers.",
            code="TOKENIZER",
        )
    if found := re.search(r"[Qq]uant (?:method|format) .*?(?:is )?not yet supported(?:: (.*))?", said):
        return UserError(
            f"The model is quantised already, in a way that llama.cpp cannot read{': ' + found[1] if found[1] else ''}.",
            where,
            "Convert the unquantised model.",
            code="QUANTISED",
        )
    if "lm_head" in said:
        return UserError(
            "The adapter changes the output head, and llama.cpp has none of its own for this family.",
            where,
            "Merge the adapter and convert the merged model, or train without lm_head among target_modules.",
            code="HEAD",
        )
    if "not supported" in said:
        return UserError(
            f"llama.cpp has no converter for this model: {said}",
            where,
            "Use the merged model through transformers, or a newer llama.cpp checkout with LLAMA_CPP_DIR.",
            code="ARCHITECTURE",
        )
    if "not found" in said or "Missing or incomplete" in said or "No such file" in said:
        return UserError(
            f"A file of the model is missing: {said}", where, "Fetch or save the model again, with its tokenizer.", code="FILES"
        )
    if "Can not map tensor" in said:
        return UserError(
            f"The model holds a weight that llama.cpp does not know in this architecture: {said}",
            where,
            "A newer llama.cpp checkout with LLAMA_CPP_DIR may know it; otherwise use the model through transformers.",
            code="CONVERT",
        )
    remedy = "The run's log has the details; missing tokenizer files and interrupted downloads are the usual causes."
    return UserError(f"The converter refused the model: {said}", where, remedy, code="CONVERT")


if __name__ == "__main__":
    serve(handle)

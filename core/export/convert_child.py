"""Runs llama.cpp's converter script inside a child process and says in words what it refuses."""

from __future__ import annotations

import json
import logging
import runpy
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from core.childio import Emit, serve
from core.errors import UserError


class _LastError(logging.Handler):
    """Keeps the last error that the script logged before it exits with a code."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def handle(payload: dict[str, Any], emit: Emit) -> None:
    root, out_file = Path(payload["converter"]), Path(payload["out_file"])
    sys.path[:0] = [str(root), str(root / "gguf-py")]
    errors = _LastError()
    logging.basicConfig(level=logging.INFO, handlers=[logging.StreamHandler(sys.stderr), errors])
    finished = threading.Event()
    threading.Thread(target=_report_size, args=(out_file, payload["expected_bytes"], emit, finished), daemon=True).start()
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as metadata:
        json.dump(payload["metadata"], metadata)
        metadata.flush()
        options = [
            f"--outfile={out_file}",
            f"--outtype={payload['dtype']}",
            f"--model-name={payload['name']}",
            f"--metadata={metadata.name}",
        ]
        sys.argv = ["convert_hf_to_gguf.py", *options, payload["model_dir"]]
        try:
            runpy.run_path(str(root / "convert_hf_to_gguf.py"), run_name="__main__")
        except SystemExit as stop:
            if stop.code:
                raise explain(errors.text or f"it stopped with code {stop.code}", payload["model_dir"]) from None
        except (NotImplementedError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
            logging.getLogger(__name__).exception("the converter refused the model")
            raise explain(str(error), payload["model_dir"]) from None
        finally:
            finished.set()
    if not out_file.is_file():
        raise explain("it wrote no file", payload["model_dir"])


def _report_size(out_file: Path, expected_bytes: int, emit: Emit, finished: threading.Event) -> None:
    while not finished.wait(0.5):
        if out_file.exists():
            emit({"event": "progress", "done": min(out_file.stat().st_size, expected_bytes), "total": expected_bytes})


def explain(said: str, model_dir: str) -> UserError:
    """The converter's words as a problem with a remedy."""
    where = f"converting {model_dir}"
    if "pre-tokenizer was not recognized" in said:
        return UserError(
            "llama.cpp does not know this model's BPE tokenizer, so a GGUF of it would split text wrongly.",
            where,
            "Start from a base model that llama.cpp supports, or keep the merged model, which chats here through transformers.",
            code="TOKENIZER",
        )
    if "not supported" in said:
        return UserError(
            f"llama.cpp has no converter for this model: {said}",
            where,
            "Use the merged model through transformers, or a newer llama.cpp checkout with LLAMA_CPP_DIR.",
            code="ARCHITECTURE",
        )
    remedy = "The run's log has the details; missing tokenizer files and interrupted downloads are the usual causes."
    return UserError(f"The converter refused the model: {said}", where, remedy, code="CONVERT")


if __name__ == "__main__":
    serve(handle)

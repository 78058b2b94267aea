"""A GGUF model answering in a process of its own, through llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.chat.child import Loaded, run
from core.export.native import LlamaModel


def load(payload: dict[str, Any]) -> Loaded:
    model = LlamaModel(Path(payload["path"]))
    model.open_context(payload["context_length"], payload["threads"] or 0)
    return Loaded(
        model=model,
        template=model.header.template,
        bos_token=model.token_text(model.bos_id),
        eos_token=model.token_text(model.eos_id),
    )


if __name__ == "__main__":
    run(load)

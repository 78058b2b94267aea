"""How good each level is on the user's own conversations: perplexity, KL divergence and top-1 agreement with the model's f16, speed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core import paths
from core.conversation import Conversation
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.header import gguf_header
from core.export.jobs import OnEvent, run_jobs
from core.export.split import gguf_bytes, gguf_headers, num_parameters
from core.process import patience_s

MAX_TOKENS = 20_000  # labelled tokens; the standard error of the mean KL is then below 1 % of its spread
LONG_TOKENS = 4096  # a conversation may have so many before its first answer, and no progress comes before that
TEXT_WINDOW = 512  # tokens, llama-perplexity's default
VERSION = 2  # of the figures; raised when they mean something else or there are more of them
REFERENCE_BYTES = 2 * 10**9  # the f16's log-probabilities on disk: 20,000 tokens of a 25,000-word vocabulary, 3,300 of a 150,000-word one


def measure(
    levels: Sequence[Artifact],
    reference: Artifact,
    conversations: Sequence[Conversation],
    *,
    text: str | None = None,
    max_tokens: int = MAX_TOKENS,
    max_length: int | None = None,
    threads: int = 0,
    log: Path | None = None,
    on_event: OnEvent | None = None,
) -> dict[str, dict[str, Any]]:
    """The figures of each level by artifact id, also stored in its manifest; a file measured before on the same data is not measured again.

    ``perplexity`` is over the tokens that carry loss in training (answers and their EOS), so on the same rows it is ``exp(eval loss)``.
    ``kl_mean``, ``kl_p99`` (nats) and ``top1_agreement`` compare with `reference`, the model's own f16, on the same tokens.

    ``resident_bytes`` is what a process holds that has loaded the level and generates.

    Args:
        text: measure on this plain text instead of conversations: windows of `TEXT_WINDOW` tokens, the second half of each scored, as
            llama.cpp's own ``llama-perplexity`` does.
        max_tokens: labelled tokens at most; ``capped`` says whether that was reached.
        max_length: conversations are cut after so many tokens, as in training; by default at the model's context length.
        threads: 0 finds the fastest number by a short probe.
        on_event: gets ``{"event": "progress", "id", "done", "total"}`` in labelled tokens and ``{"event": "measured", "id", "figures"}``.

    Raises:
        UserError: nothing to measure on, an artifact that is no GGUF, or the first level that failed, after the others were measured.
    """
    _check(levels, reference, conversations, text)
    eval_sha256 = fingerprint(conversations, max_tokens, max_length, text)
    known = {"eval_sha256": eval_sha256, "reference_sha256": reference.gguf_sha256, "version": VERSION}
    figures = {level.id: measured for level in levels if (measured := _cached(level, known))}
    for level in levels:
        if level.id in figures:
            _store(level, figures[level.id])
    waiting = {level.id: level for level in levels if level.id not in figures}
    if not waiting:
        return figures

    def store(identifier: str, measured: dict[str, Any]) -> None:
        if level := waiting.get(identifier):
            measured = _file_figures(level) | measured | known | {"measured_on": "text" if text is not None else "conversations"}
            figures[identifier] = measured
            paths.write_json(_cache_file(level, known), measured)
            _store(level, measured)
            if on_event:
                on_event({"event": "measured", "id": identifier, "figures": measured})

    jobs = [{"id": level.id, "path": str(level.gguf_path)} for level in [reference, *(x for x in waiting.values() if x.id != reference.id)]]
    with _reference_folder(reference, max_tokens) as work:
        payload: dict[str, Any] = {"work": work, "reference": reference.id, "max_tokens": max_tokens, "reference_bytes": REFERENCE_BYTES}
        payload |= {
            "text": text,
            "window": TEXT_WINDOW,
            "max_length": max_length,
            "threads": threads,
            "conversations": [_as_json(conversation) for conversation in conversations],
        }
        failures = run_jobs(
            "core.export.measure_child",
            payload,
            jobs,
            step="Measuring",
            timeout_s=patience_s(gguf_bytes(reference.gguf_path), min(max_length or LONG_TOKENS, LONG_TOKENS)),
            on_done=store,
            log=log,
            on_event=on_event,
        )
    for error in failures.values():
        raise error
    return {level.id: figures[level.id] for level in levels}


def fingerprint(conversations: Sequence[Conversation], max_tokens: int, max_length: int | None, text: str | None = None) -> str:
    """The hash of what figures were measured on."""
    content: list[Any] = [[conversation.vicuna() for conversation in conversations], max_tokens, max_length]
    if text is not None:
        content = [text, TEXT_WINDOW, max_tokens]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(levels: Sequence[Artifact], reference: Artifact, conversations: Sequence[Conversation], text: str | None) -> None:
    for artifact in (*levels, reference):
        if artifact.kind != "gguf":
            raise UserError(f"{artifact.name} is no GGUF file.", artifact.id, "Make its levels first with `gguf`, then measure those.")
        gguf_headers(artifact.gguf_path)
    if text is not None:
        if not text.strip():
            raise UserError("There is no text to measure on.", "the text", "Give a text of at least a few hundred words.")
    elif not any(turn.role == "assistant" for conversation in conversations for turn in conversation.turns):
        raise UserError("There is no answer to measure on.", "the evaluation conversations", "Give conversations with assistant turns.")


def _cached(level: Artifact, known: dict[str, Any]) -> dict[str, Any] | None:
    """What was measured of the same file, on the same data, against the same reference."""
    file = _cache_file(level, known)
    try:
        return paths.read_json(file) if file.is_file() else None
    except ValueError:
        return None  # damaged: measure again


def _cache_file(level: Artifact, known: dict[str, Any]) -> Path:
    key = json.dumps([level.gguf_sha256, known], sort_keys=True)
    return paths.cache_dir() / "measured" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _store(level: Artifact, measured: dict[str, Any]) -> None:
    if (level.folder / artifacts.MANIFEST).is_file():
        artifacts.update(level, measured=measured)


def _file_figures(level: Artifact) -> dict[str, Any]:
    size_bytes = sum(file.size_bytes for file in level.files if file.name.endswith(".gguf")) or level.gguf_path.stat().st_size
    return {"size_bytes": size_bytes, "bits_per_weight": size_bytes * 8 / num_parameters(level.gguf_path)}


def _reference_folder(reference: Artifact, max_tokens: int) -> tempfile.TemporaryDirectory[str]:
    vocabulary_size = gguf_header(reference.gguf_path).vocabulary_size
    paths.require_disk(paths.cache_dir(), min(REFERENCE_BYTES, 4 * vocabulary_size * max_tokens), "Measuring")
    return tempfile.TemporaryDirectory(dir=paths.cache_dir(), prefix="measure-")


def _as_json(conversation: Conversation) -> list[Any]:
    return [conversation.id, [[turn.role, turn.content] for turn in conversation.turns]]

"""Measures GGUF files inside a child process. The first job is the reference: its log-probabilities stay on disk for the others."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.childio import TEMPLATE_BYTES, TEMPLATE_S, Emit, limited, serve
from core.conversation import Conversation, Turn
from core.errors import UserError
from core.export.labels import byte_spans, labelled, token_spans
from core.export.native import LlamaModel
from core.export.native_support import default_threads, trimmed_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REFERENCE = "reference.npy"
PROBE_S = 0.1  # time to try one number of threads, and at least 4 tokens
SPEED_TOKENS = 32
SPEED_PROMPT = 256


@dataclass(frozen=True)
class Sequence:
    """One conversation as tokens: the logits after ``positions[i]`` predict ``targets[i]``."""

    ids: list[int]
    positions: list[int]
    targets: list[int]


@dataclass
class Sums:
    """Running figures over all labelled tokens."""

    nll: float
    same_top: int
    kl: list[NDArray[np.float32]]


def handle(payload: dict[str, Any], emit: Emit) -> None:
    threads = (payload["threads"], payload["threads"])
    import llama_cpp  # noqa: F401 # pyright: ignore[reportUnusedImport] - a part of the empty process, like numpy

    empty_bytes = trimmed_bytes()
    for job in payload["jobs"]:
        before_bytes = trimmed_bytes()
        model = LlamaModel(Path(job["path"]))
        sequences = tokenise(model, payload)
        model.open_context(max(SPEED_PROMPT + SPEED_TOKENS, *(len(sequence.ids) for sequence in sequences)))
        threads = threads if all(threads) else fastest_threads(model, sequences[0].ids)
        model.set_threads(*threads)
        figures = _quality(model, sequences, Path(payload["work"]) / REFERENCE, job["id"] == payload["reference"], emit)
        figures |= _speed(model, sequences[0].ids) | {"resident_bytes": empty_bytes + trimmed_bytes() - before_bytes}
        figures |= {"threads": threads[0], "num_conversations": len(sequences)}
        figures["capped"] = figures["num_tokens"] >= _room(model, payload)
        model.close()
        emit({"event": "done", "id": job["id"], "value": figures})


def _room(model: LlamaModel, payload: dict[str, Any]) -> int:
    return max(1, min(payload["max_tokens"], payload["reference_bytes"] // (4 * model.num_vocabulary)))


def tokenise(model: LlamaModel, payload: dict[str, Any]) -> list[Sequence]:
    """The conversations as this file's own template and tokenizer write them, up to the allowed number of labelled tokens."""
    limit = min(payload["max_length"] or 2**31, model.header.context_length or 2**31)
    room = _room(model, payload)
    if payload.get("text") is not None:
        return windows(model, payload["text"], min(payload["window"], model.header.context_length or payload["window"]), room)
    sequences: list[Sequence] = []
    for identifier, turns in payload["conversations"]:
        conversation = Conversation(identifier, tuple(Turn(role, content) for role, content in turns))
        sequence = _sequence(model, conversation, limit, room)
        if sequence.positions:
            sequences.append(sequence)
            room -= len(sequence.positions)
        if room <= 0:
            break
    if not sequences:
        raise UserError(
            "No answer is left to measure on.", "the evaluation conversations", "Raise max_length: every answer lies behind it."
        )
    return sequences


def windows(model: LlamaModel, text: str, length: int, room: int) -> list[Sequence]:
    """`text` in windows of `length` tokens, the second half of each scored, as llama-perplexity cuts it (`tools/perplexity/perplexity.cpp`):
    what is left over at the end is not used, and each window's first token gives way to BOS where the model wants one.

    A text of less than one window is one window.
    """
    ids = model.encode(text, parse_special=False)
    length = min(length, len(ids))
    if length < 4:
        raise UserError("The text is too short to measure on.", "the text", "Give a text of at least a few hundred words.")
    sequences: list[Sequence] = []
    for start in range(0, len(ids) - length + 1, length):
        part = ids[start : start + length]
        if model.adds_bos:
            part[0] = model.bos_id
        positions = list(range(length // 2, length - 1))[:room]
        sequences.append(Sequence(part, positions, [part[position + 1] for position in positions]))
        room -= len(positions)
        if room <= 0:
            break
    return sequences


def _sequence(model: LlamaModel, conversation: Conversation, limit: int, room: int) -> Sequence:
    from core.data.render import render
    from core.data.tokenizer import VICUNA_TEMPLATE

    template = model.header.template or VICUNA_TEMPLATE
    with limited(TEMPLATE_S, TEMPLATE_BYTES):
        rendered = render(conversation, template, model.token_text(model.bos_id), model.token_text(model.eos_id))
    ids = model.encode(rendered.text)
    pieces = [model.piece(token_id, special=True) for token_id in ids]
    ranges = token_spans(rendered.text.encode(), pieces, [model.is_special(token_id) for token_id in ids], model.adds_space)
    ids = ids[:limit]
    carriers = [index for index in labelled(ranges[:limit], byte_spans(rendered.text, rendered.answers)) if index > 0][:room]
    return Sequence(ids, [index - 1 for index in carriers], [ids[index] for index in carriers])


def _quality(model: LlamaModel, sequences: list[Sequence], store: Path, is_reference: bool, emit: Emit) -> dict[str, Any]:
    """Perplexity over the labelled tokens; the reference writes its log-probabilities (T, V), the others compare with them."""
    import numpy as np

    total = sum(len(sequence.targets) for sequence in sequences)
    shape = (total, model.num_vocabulary)
    reference = _open_reference(store, shape, is_reference)
    sums = Sums(0.0, 0, [])
    for first, targets, logprobs in _scored(model, sequences):
        rows = slice(first, first + len(targets))
        sums.nll -= float(logprobs[np.arange(len(targets)), targets].sum(dtype=np.float64))
        if is_reference and reference is not None:
            reference[rows] = logprobs
        elif reference is not None:
            expected = np.asarray(reference[rows])
            sums.kl.append(np.einsum("tv,tv->t", np.exp(expected), expected - logprobs))
            sums.same_top += int((expected.argmax(axis=1) == logprobs.argmax(axis=1)).sum())
        emit({"event": "progress", "done": rows.stop, "total": total})
    figures: dict[str, Any] = {"num_tokens": total, "perplexity": float(np.exp(sums.nll / total))}
    if is_reference:
        return figures | {"kl_mean": 0.0, "kl_p99": 0.0, "top1_agreement": 1.0}
    if reference is None:  # another vocabulary, so another alphabet of events
        return figures | {"kl_mean": None, "kl_p99": None, "top1_agreement": None}
    kl = np.maximum(np.concatenate(sums.kl), 0.0)
    return figures | {
        "kl_mean": float(kl.mean(dtype=np.float64)),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "top1_agreement": sums.same_top / total,
    }


def _open_reference(store: Path, shape: tuple[int, int], is_reference: bool) -> NDArray[np.float32] | None:
    import numpy as np

    if is_reference:
        return np.lib.format.open_memmap(store, mode="w+", dtype=np.float32, shape=shape)
    if not store.exists():
        raise UserError("The reference could not be measured.", "measuring", "Mend what is said about the f16 file first.")
    found = np.load(store, mmap_mode="r")
    return found if found.shape == shape else None


def _scored(model: LlamaModel, sequences: list[Sequence]) -> Iterator[tuple[int, list[int], NDArray[np.float32]]]:
    """(row, targets, log-probabilities (P, V)) batch by batch; row counts the labelled tokens from the first conversation on."""
    row = 0
    for sequence in sequences:
        target_at = dict(zip(sequence.positions, sequence.targets, strict=True))
        for positions, logits in model.logits_at(sequence.ids, sequence.positions):
            yield row, [target_at[position] for position in positions], log_softmax(logits, model.header.path)
            row += len(positions)


def log_softmax(logits: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    import numpy as np

    shifted = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)).astype(np.float32)
    if not np.isfinite(shifted).all():
        raise UserError(
            f"{path.name} computes values that are no numbers.", str(path), "Convert the model again, as bf16 or f32.", code="NAN"
        )
    return shifted


def fastest_threads(model: LlamaModel, ids: list[int]) -> tuple[int, int]:
    """How many threads generate and how many read fastest now, which also depends on what else the machine does."""
    cores = default_threads()
    choices = sorted({1, cores, max(1, cores // 2), *(2**power for power in range(7) if 2**power < cores)})
    generating: dict[int, float] = {}
    reading: dict[int, float] = {}
    for threads in choices:
        model.set_threads(threads, threads)
        generating[threads] = _generate(model, ids[:16], 64, PROBE_S)
        reading[threads] = _read(model, ids, PROBE_S)
    return max(generating, key=lambda threads: generating[threads]), max(reading, key=lambda threads: reading[threads])


def _read(model: LlamaModel, ids: list[int], limit_s: float) -> float:
    """Tokens per second of reading a prompt."""
    start, elapsed_s, tokens = time.perf_counter(), 0.0, 0
    while elapsed_s < limit_s:
        model.forget()
        model.feed(ids)
        tokens += len(ids)
        elapsed_s = time.perf_counter() - start
    return tokens / elapsed_s


def _generate(model: LlamaModel, prompt: list[int], count: int, limit_s: float) -> float:
    """Tokens per second of greedy generation after `prompt`, end of sequence ignored."""
    ids = [*prompt, int(model.feed(prompt).argmax())]
    start, elapsed_s = time.perf_counter(), 0.0
    while len(ids) <= len(prompt) + count and (elapsed_s < limit_s or len(ids) < len(prompt) + 5):
        ids.append(int(model.feed(ids).argmax()))
        elapsed_s = time.perf_counter() - start
    return (len(ids) - len(prompt) - 1) / elapsed_s


def _speed(model: LlamaModel, ids: list[int]) -> dict[str, float]:
    """The best of three short tries, because whatever else the machine does can only slow a try down."""
    prompt = (ids * (SPEED_PROMPT // len(ids) + 1))[: max(1, min(SPEED_PROMPT, model.context_length - SPEED_TOKENS - 2))]
    return {
        "prompt_tokens_per_s": max(_read(model, prompt, PROBE_S) for _ in range(3)),
        "tokens_per_s": max(_generate(model, prompt[:32], SPEED_TOKENS, 3.0) for _ in range(3)),
    }


if __name__ == "__main__":
    serve(handle)

"""Every model's answer to every prompt, and how often the models agree with the first one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

from core.chat.engine import Answering, Messages
from core.chat.sampling import Sampling
from core.chat.sources import Source
from core.errors import UserError


@dataclass(frozen=True)
class Agreement:
    """How one model's answers compare with the first model's."""

    source_id: str
    answers: int
    same: int  # the same text, word for word
    shared: float  # the mean share of the first model's words that come before the first different one
    tokens_per_s: float | None
    errors: int


def read_prompts(path: Path) -> list[Messages]:
    """The prompts of a JSONL file: ``{"prompt"}``, ``{"question"}``, ``{"messages"}`` or ``{"conversations"}`` up to the last answer, a
    line each; a line may also be a JSON string.

    Raises:
        UserError: there is no such file, or a line holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"The prompts cannot be read ({error.__class__.__name__}).", str(path), "Give a UTF-8 file, one JSON value a line."
        ) from None
    prompts = [_prompt(line, f"{path.name}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()]
    if not prompts:
        raise UserError("There is no prompt in the file.", str(path), 'Write one a line: {"prompt": "Who are you?"}.')
    return prompts


def _prompt(line: str, where: str) -> Messages:
    from core.conversation import ROLE_ALIASES

    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, str):
        value = {"prompt": value}
    if isinstance(value, dict):
        said = value.get("prompt") or value.get("question")
        if isinstance(said, str) and said.strip():
            return [{"role": "user", "content": said}]
        turns = value.get("messages") or value.get("conversations")
        if isinstance(turns, list) and (messages := [_message(turn, ROLE_ALIASES) for turn in turns]) and all(messages):
            found = [message for message in messages if message]
            while found and found[-1]["role"] != "user":
                found.pop()
            if found:
                return found
    raise UserError("There is no prompt in this line.", where, 'Write {"prompt": "Who are you?"}, or {"messages": [...]}.')


def _message(turn: Any, roles: Mapping[str, str]) -> dict[str, str] | None:
    if not isinstance(turn, dict):
        return None
    role, content = roles.get(str(turn.get("role", turn.get("from")))), turn.get("content", turn.get("value"))
    return {"role": role, "content": content} if role and isinstance(content, str) else None


def answers(
    sources: Sequence[Source],
    prompts: Sequence[Messages],
    sampling: Sampling,
    *,
    key: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """One record per model and prompt: ``{"artifact", "level", "index", "prompt", "answer", "stop", ...}``, model after model.

    One model is loaded at a time, an adapter and its bare base as one. One that fails leaves records with ``"error"``, and the others go on.
    """
    total, done = len(sources) * len(prompts), 0
    for _, sharing in groupby(sources, key=lambda source: source.engine_id):
        failed, engine = _opened(first := next(sharing), key)
        try:
            for source, (index, messages) in product((first, *sharing), enumerate(prompts)):
                record = {"artifact": source.id, "level": source.level, "index": index, "prompt": messages[-1]["content"], "answer": ""}
                if engine:
                    yield record | _answer(engine.stream(messages, sampling, with_adapter=source.with_adapter))
                else:
                    yield record | failed
                done += 1
                if on_progress:
                    on_progress(done, total)
        finally:
            if engine:
                engine.close()


def _opened(source: Source, key: str) -> tuple[dict[str, Any], Answering | None]:
    try:
        return {}, source.open(key=key)
    except UserError as error:
        return {"error": error.as_dict()}, None


def _answer(pieces: Iterator[Any]) -> dict[str, Any]:
    text, ending = "", dict[str, Any]()
    try:
        for piece in pieces:
            text += piece.text
            if piece.done:
                ending = {"stop": piece.done} | piece.stats
    except UserError as error:
        return {"answer": text.strip(), "error": error.as_dict()}
    return {"answer": text.strip()} | ending


def agreement(sources: Sequence[Source], records: Sequence[dict[str, Any]]) -> list[Agreement]:
    """One line per model, the first one first; what failed counts as an error and not as a difference."""
    by_source = {source.id: [record for record in records if record["artifact"] == source.id] for source in sources}
    first = {record["index"]: record for record in by_source[sources[0].id]}
    lines: list[Agreement] = []
    for source in sources:
        good = [record for record in by_source[source.id] if "error" not in record and "error" not in first[record["index"]]]
        pairs = [(first[record["index"]]["answer"], record["answer"]) for record in good]
        speeds = sorted(record["tokens_per_s"] for record in good if record.get("tokens_per_s"))
        lines.append(
            Agreement(
                source.id,
                len(good),
                sum(ours == theirs for ours, theirs in pairs),
                sum(shared_words(ours, theirs) for ours, theirs in pairs) / len(pairs) if pairs else 0.0,
                speeds[len(speeds) // 2] if speeds else None,
                len(by_source[source.id]) - len(good),
            )
        )
    return lines


def shared_words(reference: str, other: str) -> float:
    """Which share of `reference`'s words `other` begins with; 1 for two empty answers."""
    wanted, found = reference.split(), other.split()
    if not wanted:
        return float(not found)
    same = 0
    for ours, theirs in zip(wanted, found, strict=False):
        if ours != theirs:
            break
        same += 1
    return same / len(wanted)

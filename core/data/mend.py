"""Repairs of a row's texts and of the order of its turns. Each is made from its options and gives back the row as it becomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from core.conversation import ROLE_ALIASES
from core.data.drafts import Draft, Said, read_draft
from core.errors import UserError

if TYPE_CHECKING:
    from core.data.repairs import Options, Step
    from core.data.tokenizer import ChatTokenizer

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
RAW_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# Bytes that were no text stand in a rejected row as \xff, which JSON does not know; an even number of backslashes before is text.
RAW_BYTES = re.compile(r"(?<!\\)((?:\\\\)*)((?:\\x[89a-f][0-9a-f])+)")
BETWEEN_JOINED = "\n\n"


def fix_encoding(_: Options, __: ChatTokenizer | None) -> Step:
    """Undo UTF-8 read as Latin-1 or Windows-1252, line by line; bytes that are no UTF-8 are read as Windows-1252."""
    import ftfy

    def mended(text: str) -> str:
        return text if text.isascii() else "\n".join(line if line.isascii() else ftfy.fix_encoding(line) for line in text.split("\n"))

    def from_bytes(match: re.Match[str]) -> str:
        values = bytes(int(pair, 16) for pair in match[2].split("\\x")[1:])
        return match[1] + "".join(bytes([value]).decode("cp1252", "ignore") or chr(value) for value in values)

    return _on_texts(mended, lambda raw: RAW_BYTES.sub(from_bytes, raw))


def strip_control(_: Options, __: ChatTokenizer | None) -> Step:
    return _on_texts(lambda text: CONTROL.sub("", text), lambda raw: RAW_CONTROL.sub("", raw), with_id=True)


def strip_special(options: Options, _: ChatTokenizer | None) -> Step:
    tokens = sorted(options["tokens"], key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, tokens)) or r"(?!)")
    return _on_texts(lambda text: pattern.sub("", text))


def _on_texts(mended: Callable[[str], str], mended_raw: Callable[[str], str] | None = None, with_id: bool = False) -> Step:
    """The step that mends every text of a row; a row that cannot be read is mended as a whole and read again."""

    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None:
            raw = mended_raw(draft.raw) if mended_raw else draft.raw
            read = draft if raw == draft.raw else read_draft(draft.row, raw, draft.errors())
            return (draft,) if read.turns is None else (replace(read, codes=None),)
        turns = tuple(Said(said.role, mended(said.content)) for said in draft.turns)
        identifier = mended(draft.id) if with_id else draft.id
        return (draft.with_turns(turns, **({"id": identifier} if identifier != draft.id else {})),)

    return step


def rename_roles(options: Options, _: ChatTokenizer | None) -> Step:
    """Give turns another role, by ``OLD=NEW``."""
    names: dict[str, str] = {}
    for entry in options["roles"]:
        old, is_given, new = (part.strip() for part in entry.partition("="))
        if not is_given or new not in ROLE_ALIASES:
            raise UserError(f"{entry!r} renames no role.", "rename-roles", "Write OLD=NEW with human, gpt or system for NEW.")
        names[old] = ROLE_ALIASES[new]

    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None:
            return (draft,)
        return (draft.with_turns(tuple(Said(names.get(said.role, said.role), said.content) for said in draft.turns)),)

    return step


def drop_empty(_: Options, __: ChatTokenizer | None) -> Step:
    """Drop turns of white space; with an empty question its answer, with an empty answer its question."""

    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None or all(said.content.strip() for said in draft.turns):
            return (draft,)
        kept: list[Said] = []
        skips_answer = False
        for said in draft.turns:
            is_answer = said.role == "assistant"
            if said.content.strip():
                if not (skips_answer and is_answer):
                    kept.append(said)
            elif is_answer and kept and kept[-1].role == "user":
                kept.pop()
            skips_answer = said.role == "user" and not said.content.strip()
        return _rest(draft, kept)

    return step


def merge_same_role(_: Options, __: ChatTokenizer | None) -> Step:
    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None:
            return (draft,)
        joined: list[Said] = []
        for said in draft.turns:
            if joined and joined[-1].role == said.role:
                texts = [text for text in (joined[-1].content, said.content) if text.strip()]
                joined[-1] = Said(said.role, BETWEEN_JOINED.join(texts))
            else:
                joined.append(said)
        return (draft.with_turns(tuple(joined)),)

    return step


def drop_leading_answer(_: Options, __: ChatTokenizer | None) -> Step:
    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None:
            return (draft,)
        first = next((number for number, said in enumerate(draft.turns) if said.role not in ("system", "assistant")), len(draft.turns))
        return _rest(draft, [said for number, said in enumerate(draft.turns) if number >= first or said.role == "system"])

    return step


def drop_trailing_question(_: Options, __: ChatTokenizer | None) -> Step:
    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None:
            return (draft,)
        kept = list(draft.turns)
        while kept and kept[-1].role == "user":
            kept.pop()
        return _rest(draft, kept)

    return step


def _rest(draft: Draft, kept: list[Said]) -> tuple[Draft, ...]:
    """The row with the turns kept; no row at all when none of them says anything any more."""
    if len(kept) < len(draft.turns or ()) and all(said.role == "system" for said in kept):
        return ()
    return (draft.with_turns(tuple(kept)),)

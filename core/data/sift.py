"""Repairs that split a row or drop it for what it is. Each is made from its options and gives back what the row becomes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from core.conversation import Conversation, Turn
from core.data.drafts import Draft, Said
from core.data.language import NONE, main_script
from core.data.render import tokenize
from core.errors import UserError

if TYPE_CHECKING:
    from core.data.repairs import Options, Step
    from core.data.tokenizer import ChatTokenizer


def drop_rejected(options: Options, _: ChatTokenizer | None) -> Step:
    codes = frozenset(options["codes"])

    def is_wanted(draft: Draft) -> bool:
        errors = draft.errors()
        return not errors or bool(codes and codes.isdisjoint(errors))

    return _where(is_wanted)


def drop_language(options: Options, _: ChatTokenizer | None) -> Step:
    keep, drop = frozenset(options["keep"]), frozenset(options["drop"])

    def is_wanted(draft: Draft) -> bool:
        script = main_script(said.content for said in draft.turns or ())
        return script == NONE or (script not in drop and (not keep or script in keep))

    return _where(is_wanted)


def drop_length(options: Options, tokenizer: ChatTokenizer | None) -> Step:
    limits = [(options[f"min_{unit}"], options[f"max_{unit}"], unit) for unit in ("turns", "characters", "tokens")]
    limits = [limit for limit in limits if limit[0] or limit[1]]
    if not limits:
        raise UserError("drop-length has no limit.", "clean", "Set min_turns, max_turns, min_characters, max_characters or one in tokens.")
    count_tokens = _token_counter(tokenizer) if any(unit == "tokens" for _, _, unit in limits) else None

    def is_wanted(draft: Draft) -> bool:
        for least, most, unit in limits:
            if draft.turns is None or (unit == "tokens" and draft.errors()):
                continue
            if unit == "turns":
                size = sum(said.role != "system" for said in draft.turns)
            elif unit == "characters":
                size = characters(draft.turns)
            else:
                assert count_tokens
                size = count_tokens(draft.turns)
            if size is not None and (size < least or (most and size > most)):
                return False
        return True

    return _where(is_wanted)


def drop_phrase(options: Options, _: ChatTokenizer | None) -> Step:
    if not options["phrases"]:
        raise UserError("drop-phrase has no phrase.", "clean", "Give phrases, separated by semicolons.")
    pattern = re.compile("|".join(re.escape(phrase) for phrase in options["phrases"]), re.IGNORECASE)
    roles = {"answers": ("assistant",), "questions": ("user",), "anywhere": ("assistant", "user", "system")}[options["where"]]
    return _where(lambda draft: not any(said.role in roles and pattern.search(said.content) for said in draft.turns or ()))


def _where(is_wanted: Callable[[Draft], bool]) -> Step:
    return lambda draft: (draft,) if is_wanted(draft) else ()


def characters(turns: Sequence[Said]) -> int:
    return sum(len(said.content) for said in turns)


def _token_counter(tokenizer: ChatTokenizer | None) -> Callable[[Sequence[Said]], int | None]:
    """How many tokens the rendered turns have; None when the template refuses them."""
    if tokenizer is None:
        raise UserError(
            "A length in tokens needs a base model.", "clean", "Choose a base model (--model), or give the length in characters."
        )

    def count(turns: Sequence[Said]) -> int | None:
        try:
            return tokenize(conversation_of(turns), tokenizer).full_length
        except UserError:
            return None

    return count


def conversation_of(turns: Sequence[Said]) -> Conversation:
    """The turns as a conversation. Their roles must be known."""
    return Conversation("", tuple(Turn(said.role, said.content) for said in turns if said.role in ("system", "user", "assistant")))


def split_long(options: Options, tokenizer: ChatTokenizer | None) -> Step:
    """Split conversations between pairs so that each part has at most ``max_tokens`` and ``max_characters``."""
    sizes: list[tuple[int, Callable[[Sequence[Said]], int | None]]] = []
    if options["max_characters"]:
        sizes.append((options["max_characters"], characters))
    if options["max_tokens"]:
        sizes.append((options["max_tokens"], _token_counter(tokenizer)))
    if not sizes:
        raise UserError("split-long has no limit.", "clean", "Set max_tokens or max_characters.")

    def fits(turns: Sequence[Said]) -> bool:
        return all((size(turns) or 0) <= limit for limit, size in sizes)

    def step(draft: Draft) -> tuple[Draft, ...]:
        if draft.turns is None or draft.errors() or fits(draft.turns):
            return (draft,)
        system, pairs = _pairs(draft.turns)
        if len(pairs) == 1:
            return (replace(draft, is_too_long=True),)
        parts: list[Draft] = []
        while pairs:
            count = _how_many(system, pairs, fits)
            turns = (*system, *(said for pair in pairs[:count] for said in pair))
            number = len(parts) + 1
            is_too_long = count == 1 and not fits(turns)
            parts.append(replace(draft.with_turns(turns), id=f"{draft.id}_part{number}", part=number, is_too_long=is_too_long))
            pairs = pairs[count:]
        return tuple(parts)

    return step


def _pairs(turns: tuple[Said, ...]) -> tuple[tuple[Said, ...], list[tuple[Said, Said]]]:
    """The system message, if any, and the pairs of question and answer."""
    system = turns[:1] if turns[0].role == "system" else ()
    rest = turns[len(system) :]
    return system, list(zip(rest[::2], rest[1::2], strict=True))


def _how_many(system: tuple[Said, ...], pairs: list[tuple[Said, Said]], fits: Callable[[Sequence[Said]], bool]) -> int:
    """The most pairs from the first on that fit together, by doubling and halving; one at least, whether it fits or not."""

    def together(count: int) -> bool:
        return fits((*system, *(said for pair in pairs[:count] for said in pair)))

    good, bad = 1, 2
    while bad <= len(pairs) and together(bad):
        good, bad = bad, bad * 2
    bad = min(bad, len(pairs) + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if together(middle) else (good, middle)
    return good

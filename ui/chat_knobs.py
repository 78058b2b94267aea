"""How the models answer: the controls of sampling, context and template, and what becomes of their values."""

from __future__ import annotations

from typing import Any

import gradio as gr

from core.chat.sampling import Sampling
from core.errors import UserError
from ui.access import Caller

VISITORS_TOKENS = 256  # per answer, for those who may not do more than look
SHORTEST, LONGEST = 128, 131_072  # tokens of context


def build() -> dict[str, Any]:
    """The controls by name: the fields of `Sampling`, and ``system``, ``context_length`` and ``raw``."""
    return {
        "system": gr.Textbox("", label="System prompt", lines=2, max_lines=6, info="Empty: the model's template has its own."),
        "temperature": gr.Slider(0, 2, value=0, step=0.05, label="Temperature", info="0 always takes the likeliest token."),
        "max_tokens": gr.Slider(1, 2048, value=VISITORS_TOKENS, step=1, label="Maximum length (tokens)"),
        "seed": gr.Number(0, precision=0, minimum=0, label="Seed", info="The same seed gives the same answer."),
        "top_p": gr.Slider(0.05, 1, value=1, step=0.05, label="Top-p", info="Keep the likeliest tokens that make up this share."),
        "top_k": gr.Slider(0, 200, value=0, step=1, label="Top-k (tokens)", info="Keep this many of the likeliest; 0 keeps all."),
        "min_p": gr.Slider(0, 1, value=0, step=0.01, label="Min-p", info="Drop tokens below this share of the likeliest one's probability."),
        "repeat_penalty": gr.Slider(0.5, 2, value=1, step=0.05, label="Repetition penalty", info="Above 1 recent tokens are less likely."),
        "stop": gr.Textbox("", label="Stop strings", lines=1, max_lines=6, max_length=2000, info="One a line; the answer ends before them."),
        "context_length": gr.Number(0, precision=0, minimum=0, maximum=LONGEST, label="Context length (tokens)",
                                    info="0: what the model was trained for, up to 4,096."),
        "raw": gr.Checkbox(False, label="Raw completion", info="Go on with the prompt as it is: no template, no conversation."),
    }  # fmt: skip


def sampling_of(caller: Caller, values: dict[str, Any]) -> Sampling:
    """The knobs, checked; a visitor's answers are kept short."""
    from pydantic import ValidationError

    known = {name: value for name, value in values.items() if name in Sampling.model_fields}
    if isinstance(known.get("stop"), str):
        known["stop"] = tuple(line for line in known["stop"].splitlines() if line)
    try:
        sampling = Sampling(**known)
    except ValidationError as error:
        wrong = ", ".join(str(problem["loc"][0]) for problem in error.errors())
        raise UserError(f"These values cannot be used: {wrong}.", "how they answer", "Put them back into their usual range.") from None
    limit = sampling.max_tokens if caller.may("owner") else min(sampling.max_tokens, VISITORS_TOKENS)
    return sampling.model_copy(update={"max_tokens": limit})


def context_of(value: float | None, caller: Caller) -> int | None:
    """The context length asked for in tokens; None for the model's own. What makes no sense is brought into range.

    Visitors share the model as it is: one of another length would be loaded beside it.
    """
    if not caller.may("owner"):
        return None
    return min(max(int(value), SHORTEST), LONGEST) if value and value > 0 else None

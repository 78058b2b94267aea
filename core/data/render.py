"""The exact text a model sees for a conversation, which part of it carries loss, and the token ids and labels of both."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.conversation import Conversation
from core.data.rows import conversation_at
from core.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    from core.data.tokenizer import ChatTokenizer

IGNORED = -100
MAX_TEMPLATE_BYTES = 1 << 17
LossOn = Literal["answers", "all", "last"]
Message = dict[str, str]


@dataclass(frozen=True)
class Rendered:
    """The text of a conversation, and for each assistant answer where its loss begins and ends in it (characters)."""

    text: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Sample:
    """One training example: ids, labels and each id's character offsets in `text`, all of one length, after truncation."""

    input_ids: list[int]  # (T,)
    labels: list[int]  # (T,), -100 where no loss
    offsets: list[tuple[int, int]]  # (T,)
    text: str
    truncated_answer_tokens: int  # tokens with loss that were cut off
    full_length: int  # tokens before truncation

    @property
    def num_loss_tokens(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def render(conversation: Conversation, template: str, bos_token: str | None = None, eos_token: str | None = None) -> Rendered:
    """The conversation as `template` writes it.

    The template itself says where an answer begins and ends: from the end of the prompt that would ask for it to the end of the
    text that includes it. For vicuna_v1.1 that is from the end of the colon to the end of ``</s>``.

    Raises:
        UserError: the template fails, or writes a turn otherwise once later turns follow, so that no such place exists.
    """
    messages = conversation.messages()
    text = _render(messages, template, bos_token, eos_token, False)
    answers: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        is_last = number == len(messages) - 1
        prompt = _render(messages[:number], template, bos_token, eos_token, True)
        answered = text if is_last else _render(messages[: number + 1], template, bos_token, eos_token, False)
        if not (text.startswith(prompt) and text.startswith(answered) and len(prompt) <= len(answered)):
            raise UserError(
                f"The chat template writes turn {number} differently once other turns follow it, so its loss cannot be placed.",
                f"conversation {conversation.id!r}, turn {number}",
                "Train on conversations of one question and answer, or choose a base model whose template keeps earlier turns as they are.",
                code="TEMPLATE",
            )
        answers.append((len(prompt), len(answered)))
    return Rendered(text, tuple(answers))


def generation_prompt(messages: list[Message], template: str, bos_token: str | None = None, eos_token: str | None = None) -> str:
    """The text that asks the model for the next answer to `messages`; for vicuna_v1.1 it ends ``ASSISTANT:``."""
    return _render(messages, template, bos_token, eos_token, True)


def tokenize(conversation: Conversation, tokenizer: ChatTokenizer, max_length: int | None = None, loss_on: LossOn = "answers") -> Sample:
    """The conversation's ids and labels, cut to the first `max_length` tokens.

    Args:
        loss_on: ``answers`` (every assistant answer), ``last`` (the last one only) or ``all`` (the whole text except BOS).
    """
    rendered = render(conversation, tokenizer.template, tokenizer.bos_token, tokenizer.eos_token)
    spans = rendered.answers if loss_on == "answers" else rendered.answers[-1:] if loss_on == "last" else ((0, len(rendered.text)),)
    ids, offsets = encode_text(rendered.text, tokenizer)
    labels = label_tokens(ids, offsets, spans)
    cut = len(ids) if max_length is None else max_length
    lost = sum(label != IGNORED for label in labels[cut:])
    return Sample(ids[:cut], labels[:cut], offsets[:cut], rendered.text, lost, len(ids))


def encode_text(text: str, tokenizer: ChatTokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and offsets of a rendered text. A template that writes BOS itself (Llama 3) gets no second one from the tokenizer."""
    ids, offsets = tokenizer.encode(text)
    bos = tokenizer.bos_token
    if bos and text.startswith(bos) and len(ids) > 1 and ids[0] == ids[1] and offsets[0] == (0, 0):
        return ids[1:], offsets[1:]
    return ids, offsets


def label_tokens(ids: list[int], offsets: list[tuple[int, int]], spans: tuple[tuple[int, int], ...]) -> list[int]:
    """The labels of `ids`: a token carries loss if and only if its characters overlap one of `spans`, which are in order.

    Special tokens that the tokenizer adds lie at (0, 0) and overlap nothing. Byte tokens that make up one character all have
    that character's offsets, so they carry loss together.
    """
    labels = [IGNORED] * len(ids)  # (T,)
    number = 0
    for index, (start, end) in enumerate(offsets):
        while number < len(spans) and spans[number][1] <= start:
            number += 1
        if number == len(spans):
            break
        if end > spans[number][0] and end > start:
            labels[index] = ids[index]
    return labels


def mask_row(path: Path, row: int, tokenizer: ChatTokenizer, max_length: int | None = None, loss_on: LossOn = "answers") -> dict[str, Any]:
    """What training sees of row `row` of a file, ready for JSON: ``input_ids``, ``labels``, ``tokens`` (the vocabulary's pieces), ``text``.

    Raises:
        UserError: there is no such row, or it cannot be trained.
    """
    sample = tokenize(conversation_at(path, row), tokenizer, max_length, loss_on)
    tokens = [tokenizer.tokenizer.id_to_token(token_id) for token_id in sample.input_ids]
    return {"input_ids": sample.input_ids, "labels": sample.labels, "tokens": tokens, "text": sample.text}


def _render(messages: list[Message], template: str, bos_token: str | None, eos_token: str | None, asks: bool) -> str:
    from jinja2 import TemplateError

    compiled = _compile(template)
    try:
        return compiled.render(messages=messages, add_generation_prompt=asks, bos_token=bos_token or "", eos_token=eos_token or "")
    except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(
            f"The chat template refuses these turns: {error}",
            "the model's chat template",
            "Correct the order of the turns, or choose a base model whose template takes them.",
            code="TEMPLATE",
        ) from error


@lru_cache(maxsize=16)
def _compile(template: str) -> Template:
    """The template in a sandbox set up as transformers does it."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    if not template.strip():
        raise UserError(
            "The model has no chat template.",
            "the model's tokenizer",
            "Choose a chat model, or give its tokenizer a template.",
            code="TEMPLATE",
        )
    if len(template.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        limit = f"{MAX_TEMPLATE_BYTES >> 10} KB"
        raise UserError(
            f"The chat template is longer than {limit}.", "the model's tokenizer", "Choose another base model.", code="TEMPLATE"
        )
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=_extensions())
    environment.filters["tojson"] = _to_json
    names: Any = environment.globals
    names.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
    try:
        return environment.from_string(template)
    except (TemplateError, RecursionError) as error:
        raise UserError(
            f"The chat template is no valid Jinja: {error}",
            "the model's tokenizer",
            "Correct the template, or choose another base model.",
            code="TEMPLATE",
        ) from error


def _extensions() -> list[type[Extension]]:
    """``break`` and ``continue``, and ``{% generation %}``, which only marks what stands in it: the marks are not needed here."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return [loopcontrols, Generation]


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)

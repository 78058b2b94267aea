"""The exact text a model sees for a conversation, which part of it carries loss, and the token ids and labels of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from core.conversation import Conversation
from core.data.mapping import ColumnMapping
from core.data.rows import conversation_at
from core.data.template import ChatTemplate, Message, compile_template
from core.errors import UserError

if TYPE_CHECKING:
    from core.data.tokenizer import ChatTokenizer

IGNORED = -100
LossOn = Literal["answers", "all", "last"]


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
    messages, compiled = conversation.messages(), compile_template(template)
    return in_one_pass(messages, compiled, bos_token, eos_token) or turn_by_turn(conversation.id, messages, compiled, bos_token, eos_token)


def in_one_pass(messages: list[Message], template: ChatTemplate, bos_token: str | None, eos_token: str | None) -> Rendered | None:
    """The conversation by one rendering; None where that cannot say where an answer begins."""
    if (pieces := template.pieces(messages, bos_token, eos_token)) is None:
        return None
    answers: list[tuple[int, int]] = []
    at = len(pieces[0])
    for message, piece in zip(messages, pieces[1:], strict=True):
        if message["role"] == "assistant":
            if not piece.startswith(template.prompt):
                return None
            answers.append((at + len(template.prompt), at + len(piece)))
        at += len(piece)
    return Rendered("".join(pieces), tuple(answers))


def turn_by_turn(name: str, messages: list[Message], template: ChatTemplate, bos_token: str | None, eos_token: str | None) -> Rendered:
    """The conversation by two renderings for each answer, which are compared with the whole text."""
    text = template.render(messages, bos_token, eos_token, asks=False)
    answers: list[tuple[int, int]] = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        is_last = number == len(messages) - 1
        prompt = template.render(messages[:number], bos_token, eos_token, asks=True)
        answered = text if is_last else template.render(messages[: number + 1], bos_token, eos_token, asks=False)
        if not (text.startswith(prompt) and text.startswith(answered) and len(prompt) <= len(answered)):
            raise UserError(
                f"The chat template writes turn {number} differently once other turns follow it, so its loss cannot be placed.",
                f"conversation {name!r}, turn {number}",
                "Train on conversations of one question and answer, or choose a base model whose template keeps earlier turns as they are.",
                code="TEMPLATE",
            )
        answers.append((len(prompt), len(answered)))
    return Rendered(text, tuple(answers))


def generation_prompt(messages: list[Message], template: str, bos_token: str | None = None, eos_token: str | None = None) -> str:
    """The text that asks the model for the next answer to `messages`; for vicuna_v1.1 it ends ``ASSISTANT:``."""
    return compile_template(template).render(messages, bos_token, eos_token, asks=True)


def tokenize(conversation: Conversation, tokenizer: ChatTokenizer, max_length: int | None = None, loss_on: LossOn = "answers") -> Sample:
    """The conversation's ids and labels, cut to the first `max_length` tokens.

    Args:
        loss_on: ``answers`` (every assistant answer), ``last`` (the last one only) or ``all`` (the whole text except BOS).
    """
    rendered = render(conversation, tokenizer.template, tokenizer.bos_token, tokenizer.eos_token)
    ids, offsets = encode_text(rendered.text, tokenizer)
    labels = label_tokens(ids, offsets, loss_spans(rendered, loss_on))
    cut = len(ids) if max_length is None else max_length
    lost = sum(label != IGNORED for label in labels[cut:])
    return Sample(ids[:cut], labels[:cut], offsets[:cut], rendered.text, lost, len(ids))


def loss_spans(rendered: Rendered, loss_on: LossOn) -> tuple[tuple[int, int], ...]:
    """The characters that carry loss."""
    if loss_on == "all":
        return ((0, len(rendered.text)),)
    return rendered.answers if loss_on == "answers" else rendered.answers[-1:]


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


def mask_row(
    path: Path,
    row: int,
    tokenizer: ChatTokenizer,
    max_length: int | None = None,
    loss_on: LossOn = "answers",
    mapping: ColumnMapping | None = None,
) -> dict[str, Any]:
    """What training sees of row `row` of a file, ready for JSON: ``input_ids``, ``labels``, ``tokens`` (the vocabulary's pieces), ``text``.

    Raises:
        UserError: there is no such row, or it cannot be trained.
    """
    sample = tokenize(conversation_at(path, row, mapping), tokenizer, max_length, loss_on)
    tokens = [tokenizer.tokenizer.id_to_token(token_id) for token_id in sample.input_ids]
    return {"input_ids": sample.input_ids, "labels": sample.labels, "tokens": tokens, "text": sample.text}

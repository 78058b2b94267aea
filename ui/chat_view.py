"""How a conversation with several models looks: the prompt, and under it the answers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.chat.engine import Rendered
from core.chat.sources import Source
from core.chat.votes import Result
from core.errors import UserError
from ui import feedback
from ui.chat_ask import Column
from ui.view import chip, count, empty, meter, sentence, size, table, text

NOTHING_YET = empty(
    "Nothing asked yet.", "Choose up to six models, write a prompt and ask: they answer at the same time, from the same seed."
)
STOPS = {
    "eos": "ended by itself",
    "stop": "ended at a stop word",
    "length": "cut at the maximum of tokens",
    "context": "the context is full",
    "stopped": "stopped",
    "edited": "edited by hand",
}
STATES = {"waiting": "waits for its turn", "loading": "loads the model", "writing": "writes", "done": ""}
Answer = dict[str, Any]
Turn = dict[str, Any]  # {"prompt", "answers": [Answer, ...]}, newest last; what the browser keeps


def overview(names: Sequence[str]) -> str:
    """``4 models answer side by side.``"""
    if not names:
        return NOTHING_YET
    if len(names) == 1:
        return sentence(f"{names[0]} answers.", "Choose more models to see their answers to the same prompt side by side.")
    return sentence(
        f"{count(len(names), 'model')} answer side by side.",
        "Same prompt, same seed. The first token that is not the first model's is marked and counted.",
    )


def answers_of(columns: Sequence[Column]) -> list[Answer]:
    """What is kept of the columns: text, where it first differs from the first one's, how it ended, and how fast it was."""
    first = columns[0]
    answers: list[Answer] = []
    for column in columns:
        mark = None if column is first or column.error else first_difference(first, column)
        error = feedback.as_user_error(column.error).as_dict() if column.error else None
        answers.append(
            {"id": column.source.id, "label": column_label(column.source), "name": column.source.name, "text": column.text, "mark": mark,
             "same": column is not first and _is_same(first, column), "state": column.state, "ahead": column.ahead, "stop": column.stop,
             "stats": column.stats, "notices": column.notices, "error": error}
        )  # fmt: skip
    return answers


def column_label(source: Source) -> str:
    """``q4_0 · 2.7 MB``; an endpoint has no size."""
    return f"{source.level} · {size(source.size_bytes)}" if source.size_bytes else source.level


def first_difference(first: Column, other: Column) -> list[int] | None:
    """[token, begin, end] of the first token of `other` that is not `first`'s; None while they agree.

    Compared by text, so that models with different vocabularies can be compared too. An answer that goes on where the first has ended
    differs there, and so does one that ends early: its mark is empty and lies at its end.
    """
    reference, begin = first.text, 0
    for token, piece in enumerate(other.pieces):
        end = begin + len(piece)
        known = reference[begin:end]
        if piece != known and (len(known) == len(piece) or first.state == "done" or not piece.startswith(known)):
            return [token + 1, begin, end]
        begin = end
    if other.state == "done" and other.stop != "stopped" and len(reference) > begin:
        return [len(other.pieces) + 1, begin, begin]
    return None


def _is_same(first: Column, other: Column) -> bool:
    return first.state == other.state == "done" and not first.error and not other.error and first.text == other.text


def transcript(turns: Sequence[Turn]) -> str:
    """The whole conversation, the newest question on top."""
    return f'<div class="talk">{"".join(_turn(turn) for turn in reversed(turns))}</div>' if turns else ""


def _turn(turn: Turn) -> str:
    answers = "".join(_answer(answer) for answer in turn["answers"])
    return f'<section class="exchange" aria-label="Question"><p class="question">{text(turn["prompt"])}</p><div class="replies">{answers}</div></section>'


def _answer(answer: Answer) -> str:
    state = STATES[answer["state"]]
    if answer["state"] == "waiting" and answer.get("ahead"):
        state = f"waits behind {answer['ahead']}"
    busy = "true" if answer["state"] != "done" else "false"
    notices = "".join(f'<p class="quiet">{text(notice)}</p>' for notice in answer["notices"])
    error = feedback.said(answer["error"]["problem"], "", answer["error"]["remedy"]) if answer["error"] else ""
    level, _, rest = answer["label"].partition(" · ")
    return (
        f'<article class="reply" aria-busy="{busy}" aria-label="{text(answer["name"])} {text(level)}">'
        f"<header><b>{text(level)}</b>{chip(state, 'accent') if state else _verdict(answer)}</header>"
        f'<p class="name">{text(answer["name"])}{text(f" · {rest}") if rest else ""}</p>{notices}'
        f'<div class="words">{_marked(answer)}</div>{error}{_context(answer["stats"])}<p class="figures">{text(_figures(answer))}</p></article>'
    )


def _verdict(answer: Answer) -> str:
    if answer["same"]:
        return chip("same answer", "good")
    return chip(f"differs at {answer['mark'][0]:,}", "warning") if answer["mark"] else ""


def _marked(answer: Answer) -> str:
    said: str = answer["text"]
    if not answer["mark"]:
        return text(said)
    _, begin, end = answer["mark"]
    title = "first difference" if end > begin else "ends here, the first answer goes on"
    shown = text(said[begin:end]) if said[begin:end].strip() else "&nbsp;"
    return f'{text(said[:begin])}<mark title="{title}">{shown}</mark>{text(said[end:])}'


def _context(stats: Answer) -> str:
    """How full the model's context is, as a bar."""
    if not stats.get("context_length"):
        return ""
    used = stats["prompt_tokens"] + stats["generated_tokens"]
    share = used / stats["context_length"]
    tone = "error" if share > 0.95 else "warning" if share > 0.8 else "accent"
    words = f"{used:,} of {stats['context_length']:,} tokens of context"
    return f'<div class="context" title="{words}">{meter(share, words, tone)}<span>{words}</span></div>'


def _figures(answer: Answer) -> str:
    stats, parts = answer["stats"], []
    if stats.get("first_token_s") is not None:
        parts.append(f"first token after {stats['first_token_s']:.2f} s")
    if stats.get("tokens_per_s"):
        parts.append(f"{stats['tokens_per_s']:,.0f} tokens/s")
    if stats.get("generated_tokens"):
        parts.append(count(stats["generated_tokens"], "token"))
    if stats.get("resident_bytes"):
        parts.append(f"{size(stats['resident_bytes'])} of memory")
    if answer["stop"]:
        parts.append(STOPS.get(answer["stop"], answer["stop"]))
    return " · ".join(parts)


def rendered(read: Sequence[tuple[str, Rendered | UserError]]) -> str:
    """What each model, by name, reads, with line ends and signs as they are; those that read the same are named together."""
    together: dict[Rendered | UserError, list[str]] = {}
    for name, found in read:
        together.setdefault(found, []).append(name)
    return f'<section class="rendered" aria-label="As rendered">{"".join(map(_as_read, together.values(), together))}</section>'


def _as_read(names: list[str], read: Rendered | UserError) -> str:
    if isinstance(read, UserError):
        return f'<p class="quiet">{text(", ".join(names))}:</p>{feedback.card(read)}'
    verb = "reads" if len(names) == 1 else "read the same"
    length = f" of {read.context_length:,}" if read.context_length else ""
    notice = f'<p class="quiet">{text(read.notice)}</p>' if read.notice else ""
    head = f'<p class="quiet">{text(", ".join(names))} {verb} {read.tokens:,}{length} tokens:</p>'
    return f'{head}{notice}<pre tabindex="0">{text(read.text)}</pre>'


def arena(prompt: str, columns: Sequence[Column], names: Sequence[str] = ()) -> str:
    """Two answers called A and B; with `names` also who they are."""
    boxes: list[str] = []
    for index, column in enumerate(columns):
        state = STATES[column.state] if not names else names[index]
        error = feedback.said("A model did not answer.", "", "Ask again.") if column.error else ""
        busy = "true" if column.state != "done" else "false"
        boxes.append(
            f'<article class="reply" aria-busy="{busy}" aria-label="Answer {"AB"[index]}"><header><b>{"AB"[index]}</b>'
            f'{chip(state, "accent") if state else ""}</header><div class="words">{text(column.text)}</div>{error}</article>'
        )
    return f'<section class="exchange"><p class="question">{text(prompt)}</p><div class="replies">{"".join(boxes)}</div></section>'


def standings(results: Sequence[Result], names: dict[str, str]) -> str:
    """One line per pair: how often which was better, and what that says."""
    if not results:
        return ""
    rows = [
        [
            text(names.get(line.one, line.one)), text(names.get(line.other, line.other)), str(line.wins), str(line.losses), str(line.ties),
            str(line.bad), f"{line.share:.0%} ({line.low:.0%} to {line.high:.0%})".replace("%", " %"),
            chip("decided", "good") if line.is_decided else chip("open"),
        ]
        for line in results
    ]  # fmt: skip
    heads = ("Model", "Against", "Better", "Worse", "Both good", "Both bad", "Share of decided votes", "")
    note = '<p class="quiet">In brackets the 95 % Wilson interval. Decided: the interval leaves out an even match.</p>'
    return table(heads, rows, "Results of the blind votes", numeric=range(2, 7)) + note

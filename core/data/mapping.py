"""Which column of a table, or key of a record, holds what; and a row of any such layout as a record with turns."""

from __future__ import annotations

import json
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field

from core.data.records import KINDS, ROLE_KEYS, VALUE_KEYS
from core.data.rules import Finding, shorten
from core.data.scan import TURNS_KEYS
from core.errors import UserError

EXAMPLE = "question=COLUMN,answer=COLUMN or turns=COLUMN"


class ColumnMapping(BaseModel):
    """What the columns of a file mean: either a question and an answer each row, or a list of turns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    question: str | None = Field(default=None, description="What the person says; text, or a list of messages.")
    answer: str | None = Field(default=None, description="What the model shall say; text, or a list of messages.")
    input: str | None = Field(default=None, description="Put under the question on a line of its own, where it is not empty.")
    history: str | None = Field(default=None, description="Earlier turns: a list of [question, answer] pairs or of messages.")
    turns: str | None = Field(
        default=None, description="The whole conversation: a list of messages, or of texts that alternate from the person on."
    )
    role_key: str | None = Field(default=None, description="In a message, who speaks. Empty: from or role.")
    content_key: str | None = Field(default=None, description="In a message, what is said. Empty: value, content or text.")
    system: str | None = Field(default=None, description="The system message.")
    id: str | None = Field(default=None, description="The conversation's name. Empty: the row's number.")
    has_header: bool = Field(
        default=True, description="For CSV: the first row names the columns; otherwise they are called 1, 2, 3 and so on."
    )

    @property
    def is_complete(self) -> bool:
        """Whether a row can be made into a conversation by it."""
        return (self.turns is not None) != (self.question is not None and self.answer is not None)

    def columns(self) -> dict[str, str]:
        """The columns used, by what they hold."""
        named = self.model_dump(exclude={"role_key", "content_key", "has_header"})
        return {use: column for use, column in named.items() if column is not None}


def parse_mapping(text: str) -> ColumnMapping:
    """The mapping written as ``question=Q,answer=A`` on a command line.

    Raises:
        UserError: an unknown word before a ``=``, or a mapping from which no conversation can be made.
    """
    fields: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        use, is_given, column = part.partition("=")
        if use not in ColumnMapping.model_fields or not is_given:
            uses = ", ".join(ColumnMapping.model_fields)
            raise UserError(f"{part!r} maps nothing.", "--map", f"Write {EXAMPLE}; what can be mapped: {uses}.")
        fields[use] = column.strip().lower() not in ("false", "no", "0") if use == "has_header" else column.strip()
    return require_complete(ColumnMapping(**fields), "--map")


def require_complete(mapping: ColumnMapping, where: str) -> ColumnMapping:
    """`mapping`, when conversations can be made by it; else UserError."""
    if mapping.is_complete:
        return mapping
    problem = "Both turns and question or answer are mapped." if mapping.turns else "It is not said where question and answer are."
    raise UserError(problem, where, f"Map {EXAMPLE}.", code="MAPPING")


def convert(value: Any, mapping: ColumnMapping, row: int) -> tuple[Any, list[Finding]]:
    """The record ``{"id", "conversations", "system"?}`` that `value` (one row, by column) means, and what stands in the way.

    What is not as it should be is carried over as it is, for the checks of every record to name; only a missing column and a history
    that cannot be read are named here, and then there is no record (None).
    """
    if type(value) is not dict:
        return value, []
    wanted = (mapping.turns,) if mapping.turns else (mapping.question, mapping.answer)
    if missing := [name for name in wanted if name and name not in value]:
        names = ", ".join(shorten(name) for name in list(value)[:8]) or "none"
        return None, [Finding("missing-column", {"column": shorten(name), "text": names}) for name in missing]
    if mapping.turns:
        turns = _turns(_structure(value[mapping.turns]), mapping)
    else:
        before = _history(value.get(mapping.history) if mapping.history else None, mapping)
        if isinstance(before, Finding):
            return None, [before]
        turns = [*before, *_spoken(_question(value, mapping), "human", mapping), *_spoken(value[mapping.answer], "gpt", mapping)]
    record: dict[str, Any] = {"id": _identifier(value.get(mapping.id) if mapping.id else None, row), "conversations": turns}
    system = value.get(mapping.system) if mapping.system else None
    return (record if system is None or system == "" else record | {"system": system}), []


def _identifier(given: Any, row: int) -> Any:
    if given is None or given == "":
        return f"row-{row}"
    return str(given) if type(given) is int or type(given) is float else given


def _question(value: dict[str, Any], mapping: ColumnMapping) -> Any:
    """The question with its input below. Anything that is no text stays as it is, to be named by the checks."""
    question, more = value[mapping.question or ""], value.get(mapping.input) if mapping.input else None
    if more is None or (type(more) is str and not more.strip()):
        return question
    if type(more) is not str or type(question) is not str:
        return more if type(question) is str else question
    return f"{question}\n{more}" if question else more


def _spoken(said: Any, role: str, mapping: ColumnMapping) -> list[Any]:
    """The turns of a question or an answer: one, unless it is a list of messages."""
    if _is_messages(said):
        return _renamed(said, mapping)
    return [{"from": role, "value": said}]


def _turns(turns: Any, mapping: ColumnMapping) -> Any:
    if type(turns) is not list:
        return turns
    if turns and all(type(turn) is str for turn in turns):
        return [{"from": "gpt" if number % 2 else "human", "value": text} for number, text in enumerate(turns)]
    return _renamed(turns, mapping)


def _renamed(turns: list[Any], mapping: ColumnMapping) -> list[Any]:
    """The messages with "from" and "value" for their keys."""
    return [_with_usual_keys(turn, mapping) if type(turn) is dict else turn for turn in turns]


def _with_usual_keys(turn: dict[str, Any], mapping: ColumnMapping) -> dict[str, Any]:
    role = mapping.role_key or next((key for key in ROLE_KEYS if key in turn), None)
    content = mapping.content_key or next((key for key in VALUE_KEYS if key in turn), None)
    names = {role: "from", content: "value"}
    return {names.get(key, key): item for key, item in turn.items()}


def _history(history: Any, mapping: ColumnMapping) -> list[Any] | Finding:
    """The turns before the question, or what is wrong with them."""
    history = _structure(history)
    if history is None or history in ("", []):
        return []
    if _is_messages(history):
        return _renamed(history, mapping)
    if type(history) is list and all(type(pair) is list and len(pair) == 2 for pair in history):
        return [{"from": role, "value": text} for pair in history for role, text in zip(("human", "gpt"), pair, strict=True)]
    return Finding("history-not-pairs", {"kind": KINDS.get(type(history), "a value"), "text": shorten(_plain(history))})


def _is_messages(value: Any) -> bool:
    return type(value) is list and bool(value) and all(type(item) is dict for item in value)


def _structure(cell: Any) -> Any:
    """A list that a table's cell holds as JSON text; everything else as it is."""
    if type(cell) is str and cell.lstrip().startswith("["):
        try:
            return orjson.loads(cell)
        except orjson.JSONDecodeError:
            return cell
    return cell


def _plain(value: Any) -> Any:
    """`value` in a form that JSON can hold."""
    return json.loads(json.dumps(value, default=str))


def first_turns_key(value: Any) -> str | None:
    """The key under which a record keeps its turns in a layout that needs no mapping."""
    return next((key for key in TURNS_KEYS if key in value), None) if type(value) is dict else None

"""Rows on their way through the repairs of `clean`: rejected ones too, with whatever turns can be made out in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from core.conversation import ROLE_ALIASES, VICUNA_ROLES, Conversation
from core.data.datafile import DataFile
from core.data.dataset import Dataset
from core.data.parse import parse
from core.data.records import ROLE_KEYS, VALUE_KEYS, read_record
from core.data.rules import RULES, is_error
from core.data.scan import TURNS_KEYS

LINE_ENDS = re.compile(r"\s*[\r\n]\s*")


class Said(NamedTuple):
    """A turn as found: the role is user, assistant or system, or whatever stands there."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Draft:
    """One row. `turns` is None when none can be made out; then `raw` is all there is."""

    row: int  # 0-based, in the dataset it comes from
    id: str
    turns: tuple[Said, ...] | None
    codes: tuple[str, ...] | None = None  # of its errors; None when it was changed since they were looked for
    raw: str = ""  # the text of a row that was rejected
    part: int = 0  # 1, 2, ... when the row was split
    is_too_long: bool = False  # a single pair, longer than a part may be

    def with_turns(self, turns: tuple[Said, ...], **changes: Any) -> Draft:
        """This row with other turns; the same object when they are the same."""
        return self if turns == self.turns and not changes else replace(self, turns=turns, codes=None, **changes)

    def errors(self) -> tuple[str, ...]:
        """The codes of what keeps it from being trained; empty when it is a conversation."""
        if self.codes is not None:
            return self.codes
        _, findings, _ = read_record(self.record(), self.row)
        return tuple(finding.code for finding in findings if is_error(finding))

    def record(self) -> Any:
        """The row as a Vicuna record; roles that are unknown stay as they are."""
        roles: dict[str, str] = {**VICUNA_ROLES}
        return {
            "id": self.id,
            "conversations": [{"from": roles.get(said.role, said.role), "value": said.content} for said in self.turns or ()],
        }

    def line(self) -> bytes:
        """The row as one line of JSONL, a conversation without an empty system message.

        A text that is no JSON stands there as it is if a reader takes it for one row, else as a JSON string.
        """
        if self.turns is not None:
            if self.codes == () or self.errors():
                return _json_line(self.record())
            return _json_line(
                replace(self, turns=tuple(said for said in self.turns if said.role != "system" or said.content.strip())).record()
            )
        if (parsed := parse(self.raw.encode())).is_readable:
            return _json_line(parsed.value)
        text = LINE_ENDS.sub(" ", self.raw.strip())
        is_one_row = text.startswith("{") and text.endswith("}") and not _begins_with_value(text)
        return text.encode() + b"\n" if is_one_row and not parse(text.encode()).is_readable else _json_line(self.raw)


def drafts(dataset: Dataset) -> Iterator[Draft]:
    """Every row of the dataset in the order of its source, the rejected ones in their places."""
    rejected = _rejected(dataset)
    waiting = next(rejected, None)
    for conversation, row in dataset.numbered():
        while waiting is not None and waiting.row < row:
            yield waiting
            waiting = next(rejected, None)
        yield Draft(row, conversation.id, said_in(conversation), ())
    if waiting is not None:
        yield waiting
    yield from rejected


def _rejected(dataset: Dataset) -> Iterator[Draft]:
    """The rejected rows. Those of a layout with columns of its own are read from the source again, as its mapping says."""
    file = DataFile(dataset.source, dataset.manifest.mapping)
    is_plain = file.layout.is_plain or not dataset.manifest.num_rejected
    records = iter(()) if is_plain else file.records()
    for fields in dataset.rejected():
        codes = tuple(code for code in fields["codes"] if RULES[code].severity == "error")
        draft = read_draft(fields["row"], fields["raw"], codes)
        record = None if is_plain or draft.turns else next(record for record in records if record.row == draft.row)
        yield draft if record is None else replace(draft, turns=turns_in(record.value), id=_id_in(record.value, draft.row))


def said_in(conversation: Conversation) -> tuple[Said, ...]:
    return tuple(Said(turn.role, turn.content) for turn in conversation.turns)


def read_draft(row: int, raw: str, codes: tuple[str, ...]) -> Draft:
    """A rejected row, with its turns when every one of them has a role and a text."""
    parsed = parse(raw.encode("utf-8", "surrogatepass"))
    value = parsed.value
    if isinstance(value, str):  # kept as text by an earlier cleaning
        raw, value = value, parse(value.encode("utf-8", "surrogatepass")).value
    return Draft(row, _id_in(value, row), turns_in(value), codes, raw)


def _id_in(record: Any, row: int) -> str:
    identifier = record.get("id") if isinstance(record, dict) else None
    return str(identifier) if isinstance(identifier, (str, int)) else f"row-{row}"


def turns_in(record: Any) -> tuple[Said, ...] | None:
    """The turns of a record when every one of them has a role and a text; else None."""
    items = next((record[key] for key in TURNS_KEYS if key in record), None) if isinstance(record, dict) else None
    return _turns(items, record.get("system")) if isinstance(items, list) and items else None


def _turns(items: list[Any], system: Any) -> tuple[Said, ...] | None:
    turns: list[Said] = []
    for item in items:
        if not isinstance(item, dict):
            return None
        role = next((item[key] for key in ROLE_KEYS if key in item), None)
        content = next((item[key] for key in VALUE_KEYS if key in item), None)
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        turns.append(Said(ROLE_ALIASES.get(role, role), content))
    if system is None or system == "" or turns[0].role == "system":
        return tuple(turns)
    return (Said("system", system), *turns) if isinstance(system, str) else None


def _json_line(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half characters can only be written as escapes
        return json.dumps(value).encode() + b"\n"


def _begins_with_value(text: str) -> bool:
    """Whether `text` begins with a whole object and goes on behind it, so that a reader of lines might see several rows."""
    try:
        json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return True

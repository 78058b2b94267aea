"""Which layout a data file has, by the shape of rows from all over it, and why; a layout nobody knows comes with its columns to be mapped."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from core.conversation import ROLE_ALIASES
from core.data.csvrows import dialect_of
from core.data.mapping import ColumnMapping, first_turns_key
from core.data.parquetrows import is_parquet
from core.data.records import KINDS, ROLE_KEYS, VALUE_KEYS
from core.data.rules import shorten
from core.data.sampling import Container, sample
from core.data.source import detect_encoding, refused_kind

Kind = Literal["vicuna", "messages", "alpaca", "prompt-completion", "question-answer", "mapped", "unknown"]
TITLES: dict[Kind, str] = {
    "vicuna": "Vicuna (ShareGPT)",
    "messages": "OpenAI messages",
    "alpaca": "Alpaca",
    "prompt-completion": "prompt and completion",
    "question-answer": "question and answer",
    "mapped": "a layout of your own",
    "unknown": "unknown",
}
SAMPLES = 3  # values shown of each column


class Known(NamedTuple):
    """A layout with a question and an answer a row: the columns that must be there, then those that may be."""

    kind: Kind
    question: str
    answer: str
    input: tuple[str, ...] = ()
    history: tuple[str, ...] = ()


SYSTEM_COLUMNS = ("system", "system_prompt")
# In the order in which they are preferred. Alpaca: stanford_alpaca and LLaMA-Factory's additions; instruction/context/response is Dolly's.
KNOWN: tuple[Known, ...] = (
    Known("alpaca", "instruction", "output", ("input",), ("history",)),
    Known("alpaca", "instruction", "response", ("input", "context"), ("history",)),
    Known("prompt-completion", "prompt", "completion"),
    Known("prompt-completion", "prompt", "response"),
    Known("question-answer", "question", "answer", (), ("history",)),
    Known("question-answer", "question", "response", (), ("history",)),
    Known("question-answer", "query", "response", (), ("history",)),
    Known("question-answer", "query", "answer", (), ("history",)),
    Known("question-answer", "input", "output"),
    Known("question-answer", "user", "assistant"),
    Known("question-answer", "human", "assistant"),
    Known("question-answer", "human", "gpt"),
    Known("question-answer", "human", "bot"),
    Known("question-answer", "问题", "回答"),
    Known("question-answer", "问题", "答案"),
)


class Column(BaseModel):
    """A column of a file, or a key of its records, as the rows looked at have it."""

    model_config = ConfigDict(frozen=True)

    name: str
    kinds: tuple[str, ...]  # text, a list, a number, ...; the most frequent first
    share: float  # of the rows that have it
    samples: tuple[str, ...]  # short quotations


class Layout(BaseModel):
    """How a file keeps its conversations. `mapping` is how its rows are converted; for an unknown layout, a first proposal for a person."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    container: Container
    why: str
    mapping: ColumnMapping
    columns: tuple[Column, ...]
    num_sampled: int
    is_plain: bool  # the records are read as they stand: JSON with turns that need no conversion

    @property
    def title(self) -> str:
        return TITLES[self.kind]

    @property
    def has_own_records(self) -> bool:
        """Whether it is JSON with turns, where every key is judged row by row."""
        return self.container == "json" and self.kind in ("vicuna", "messages")

    def ignored(self) -> list[str]:
        """The columns of which nothing comes into the conversations."""
        used = set(self.mapping.columns().values())
        return [column.name for column in self.columns if column.name not in used]


def container_of(path: Path) -> Container:
    """Parquet by name and first bytes, CSV by name or, without a name that says so, by its first lines; everything else is read as JSON."""
    if is_parquet(path):
        return "parquet"
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl", ".ndjson") or refused_kind(path):
        return "json"
    head = _head(path)
    if head[:1] in ("{", "") or re.match(r'\[\s*[\[{"\]]', head):
        return "json"
    if suffix in (".csv", ".tsv"):
        return "csv"
    return "csv" if _mapping_of(dialect_of(path).header) else "json"


def detect(path: Path) -> Layout:
    """The layout of the file at `path`. Nothing is refused here: what cannot be read is left to the report."""
    container = container_of(path)
    rows = list(sample(path, container, has_header=True))
    columns = _columns(rows)
    votes = [_layout_of(row) for row in rows]
    counts = {vote: votes.count(vote) for vote in dict.fromkeys(votes) if vote is not None}
    if not counts:
        return _unknown(container, rows, columns) if rows or container != "json" else _nothing_seen()
    best = max(counts, key=lambda vote: counts[vote])
    others = [row for row, vote in zip(rows, votes, strict=True) if vote is None and type(row) is dict]
    if len(others) > sum(counts.values()) and _proposal(others, _columns(others)).is_complete:  # and not merely broken
        return _unknown(container, rows, columns, best, counts[best])
    is_plain = container == "json" and best[0] in ("vicuna", "messages") and all(kind in ("vicuna", "messages") for kind, *_ in counts)
    why = _why(best, counts, len(rows))
    return Layout(
        kind=best[0],
        container=container,
        why=why,
        mapping=_mapping(best, columns),
        columns=columns,
        num_sampled=len(rows),
        is_plain=is_plain,
    )


def mapped(path: Path, mapping: ColumnMapping) -> Layout:
    """The layout that a person's `mapping` makes of the file."""
    container = container_of(path)
    rows = list(sample(path, container, mapping.has_header))
    used = ", ".join(f"{use} from {shorten(column)}" for use, column in mapping.columns().items())
    return Layout(
        kind="mapped",
        container=container,
        why=f"You chose {used}.",
        mapping=mapping,
        columns=_columns(rows),
        num_sampled=len(rows),
        is_plain=False,
    )


Vote = tuple[Kind, str, str]  # the layout, and the columns of question and answer; for turns their key, twice


def _layout_of(row: Any) -> Vote | None:
    """The layout of one row by itself."""
    if type(row) is not dict:
        return None
    if key := first_turns_key(row):
        return ("messages" if key == "messages" else "vicuna", key, key)
    names = {name.strip().casefold(): name for name in row}
    for known in KNOWN:
        if known.question in names and known.answer in names:
            question, answer = names[known.question], names[known.answer]
            if _may_be_said(row[question]) and _may_be_said(row[answer]):
                return known.kind, question, answer
    return None


def _may_be_said(value: Any) -> bool:
    """Text, nothing, or a list of messages; a number, a list of texts or an object mean something else."""
    return value is None or type(value) is str or (type(value) is list and bool(value) and all(type(item) is dict for item in value))


def mapping_of_row(row: Any) -> ColumnMapping | None:
    """How one row of a known layout is converted, by its own columns."""
    vote = _layout_of(row)
    return _mapping(vote, _columns([row])) if vote else None


def _mapping_of(header: Iterable[str]) -> ColumnMapping | None:
    return mapping_of_row(dict.fromkeys(header, ""))


def _mapping(vote: Vote, columns: tuple[Column, ...]) -> ColumnMapping:
    """The columns by what they hold. Optional ones count if any row has them."""
    kind, question, answer = vote
    names = {column.name.strip().casefold(): column.name for column in columns}

    def first(candidates: Iterable[str]) -> str | None:
        return next((names[name] for name in candidates if name in names and names[name] not in (question, answer)), None)

    common: dict[str, Any] = {"id": first(("id",)), "system": first(SYSTEM_COLUMNS)}
    if question == answer:
        return ColumnMapping(turns=question, **common)
    known = next(each for each in KNOWN if (each.kind, each.question, each.answer) == (kind, _plain(question), _plain(answer)))
    return ColumnMapping(question=question, answer=answer, input=first(known.input), history=first(known.history), **common)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _why(best: Vote, counts: dict[Vote, int], num_rows: int) -> str:
    kind, question, answer = best
    has = f"a list under {shorten(question)}" if question == answer else f"the columns {shorten(question)} and {shorten(answer)}"
    others = sum(counts.values()) - counts[best]
    rest = f"; in another known layout, and read too: {others:,}" if others else ""
    if num_rows == 1:
        return f"The row looked at has {has}: {TITLES[kind]}."
    share = f"All {num_rows:,}" if counts[best] == num_rows else f"{counts[best]:,} of the {num_rows:,}"
    return f"{share} rows looked at have {has}: {TITLES[kind]}{rest}."


def _unknown(container: Container, rows: list[Any], columns: tuple[Column, ...], best: Vote | None = None, num_best: int = 0) -> Layout:
    """The layout of a file of which fewer than half of the rows have a known one; the most frequent of these is proposed."""
    objects = [row for row in rows if type(row) is dict]
    if not objects and rows and container == "json":
        return _nothing_seen(len(rows))
    found = ", ".join(shorten(column.name) for column in columns[:12]) or "none"
    few = f"Only {num_best:,}" if num_best else "None"
    why = f"{few} of the {len(rows):,} rows looked at {'have' if num_best > 1 else 'has'} columns of a known layout; there are: {found}."
    return Layout(
        kind="unknown",
        container=container,
        why=why,
        mapping=_mapping(best, columns) if best else _proposal(objects, columns),
        columns=columns,
        num_sampled=len(rows),
        is_plain=container == "json",
    )


def _nothing_seen(num_rows: int = 0) -> Layout:
    why = (
        f"None of the {num_rows:,} rows looked at is an object, so they are judged as Vicuna records."
        if num_rows
        else "There is no row to look at."
    )
    return Layout(
        kind="vicuna",
        container="json",
        why=why,
        mapping=ColumnMapping(turns="conversations"),
        columns=(),
        num_sampled=num_rows,
        is_plain=True,
    )


def _proposal(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> ColumnMapping:
    """What a person will most likely choose: a list of messages, or the first two columns of text."""
    for column in columns:
        lists = (row[column.name] for row in rows if type(row.get(column.name)) is list and row[column.name])
        first = next((item[0] for item in lists), None)
        if type(first) is dict and (keys := _message_keys(first)):
            return ColumnMapping(turns=column.name, role_key=keys[0], content_key=keys[1])
    texts = [column.name for column in columns if column.kinds[0] == "text" and _plain(column.name) not in ("id", *SYSTEM_COLUMNS)]
    return ColumnMapping(question=texts[0], answer=texts[1]) if len(texts) > 1 else ColumnMapping()


def _message_keys(message: dict[str, Any]) -> tuple[str, str] | None:
    """The keys of the role and of the text in something that looks like a message."""
    texts = {key: item for key, item in message.items() if type(item) is str}
    role = next((key for key, item in texts.items() if item in ROLE_ALIASES or key in ROLE_KEYS), None)
    content = next((key for key in texts if key in VALUE_KEYS), None) or next((key for key in texts if key != role), None)
    return (role, content) if role and content and role != content else None


def _columns(rows: list[Any]) -> tuple[Column, ...]:
    objects: list[dict[str, Any]] = [row for row in rows if type(row) is dict]
    names = dict.fromkeys(name for row in objects for name in row)
    return tuple(_column(name, [row[name] for row in objects if name in row], len(objects)) for name in islice(names, 100))


def _column(name: str, values: list[Any], num_rows: int) -> Column:
    kinds = Counter(KINDS[type(value)] for value in values)
    samples: list[str] = []
    for value in values:
        if len(samples) == SAMPLES:
            break
        if value not in (None, "") and (shown := shorten(value)) not in samples:
            samples.append(shown)
    ordered = tuple(kind for kind, _ in kinds.most_common())
    return Column(name=name, kinds=ordered, share=len(values) / num_rows, samples=tuple(samples))


def _head(path: Path) -> str:
    encoding = detect_encoding(path)
    with path.open("rb") as file:
        file.seek(encoding.bom_bytes)
        return file.read(1 << 12).decode(encoding.name, "ignore").lstrip()

"""Conversations as a file that training tools read: Vicuna or OpenAI messages, in JSON, JSONL or Parquet."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import orjson

from core import paths
from core.conversation import Conversation
from core.errors import UserError

Form = Literal["vicuna", "messages"]
SUFFIXES = (".json", ".jsonl", ".parquet")
CHECKED_BYTES = 64 << 20  # after so much the free disk is looked at again
BATCH_ROWS, BATCH_CHARACTERS = 1024, 16 << 20  # of one row group, whichever is full first


def write(conversations: Iterable[Conversation], path: Path, to: Form = "vicuna") -> int:
    """Write the conversations as a `.json` list, `.jsonl` or `.parquet` file, by the suffix of `path`; returns their number.

    One conversation at a time is held in memory. `path` is replaced when everything is written, and stays as it was on any error.

    Raises:
        UserError: another suffix, no such folder, or a full disk.
    """
    require_writable(path)
    suffix = path.suffix.lower()
    records = (_record(conversation, to) for conversation in conversations)
    with full_disk_said(path), paths.replacing(path) as temporary:
        if suffix == ".parquet":
            return _write_parquet(records, temporary, to)
        if suffix == ".jsonl":
            return write_lines(map(line, records), temporary)
        texts = (b",\n" * (number > 0) + orjson.dumps(record) for number, record in enumerate(records))
        return write_lines(texts, temporary, b"[\n", b"\n]\n")


def require_writable(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> None:
    """Raise UserError when `path` has none of the suffixes, or lies in no folder."""
    if path.suffix.lower() not in suffixes:
        known = ", ".join(suffixes)
        raise UserError(f"{path.name} has none of the endings {known}.", str(path), f"End the file's name in one of {known}.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent}.", str(path), "Make the folder first, or choose another one.")


@contextmanager
def full_disk_said(path: Path) -> Generator[None]:
    """Say in our words that the disk is full; whoever writes in the block looks at it now and then."""
    paths.require_disk(path.parent, CHECKED_BYTES, "Writing the data")
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError("The disk is full.", str(path), "Free some space, then write the file again.", code="DISK") from error


def line(value: Any) -> bytes:
    """A JSON value on one line, unicode as it is, with its line end."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _record(conversation: Conversation, to: Form) -> dict[str, Any]:
    return conversation.vicuna() if to == "vicuna" else {"id": conversation.id, "messages": conversation.messages()}


def write_lines(lines: Iterable[bytes], file: Path, before: bytes = b"", after: bytes = b"") -> int:
    """Write the texts one behind the other, looking at the free disk on the way; returns how many there were."""
    count, next_check = 0, CHECKED_BYTES
    with file.open("wb") as out:
        out.write(before)
        for text in lines:
            count += 1
            out.write(text)
            if out.tell() > next_check:
                paths.require_disk(file.parent, CHECKED_BYTES, "Writing the data")
                next_check = out.tell() + CHECKED_BYTES
        out.write(after)
    return count


def _write_parquet(records: Iterable[dict[str, Any]], file: Path, to: Form) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.string()
    key, role, content = ("conversations", "from", "value") if to == "vicuna" else ("messages", "role", "content")
    schema = pa.schema([("id", text), (key, pa.list_(pa.struct([(role, text), (content, text)])))])
    count, pending, pending_characters = 0, list[dict[str, Any]](), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as out:
        for record in records:
            count += 1
            pending.append(record)
            pending_characters += sum(len(turn[content]) for turn in record[key])
            if len(pending) == BATCH_ROWS or pending_characters >= BATCH_CHARACTERS:
                out.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))
                pending.clear()
                pending_characters = 0
                paths.require_disk(file.parent, CHECKED_BYTES, "Writing the data")
        out.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))
    return count

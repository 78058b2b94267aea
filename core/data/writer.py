"""Conversations as a file that training tools read: Vicuna or OpenAI messages, in JSON, JSONL or Parquet."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import orjson

from core import paths
from core.conversation import Conversation
from core.errors import UserError

Form = Literal["vicuna", "messages"]
SUFFIXES = (".json", ".jsonl", ".parquet")
CHECKED_BYTES = 64 << 20  # after so much the free disk is looked at again
BATCH_ROWS = 1024


def write(conversations: Iterable[Conversation], path: Path, to: Form = "vicuna") -> int:
    """Write the conversations as a `.json` list, `.jsonl` or `.parquet` file, by the suffix of `path`; returns their number.

    One conversation at a time is held in memory. `path` is replaced when everything is written, and stays as it was on any error.

    Raises:
        UserError: another suffix, no such folder, or a full disk.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise UserError(f"{path.name} has none of the endings {known}.", str(path), f"End the file's name in one of {known}.")
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {path.parent}.", str(path), "Make the folder first, or choose another one.")
    records = (_record(conversation, to) for conversation in conversations)
    paths.require_disk(path.parent, CHECKED_BYTES, "Writing the data")
    try:
        with paths.replacing(path) as temporary:
            if suffix == ".parquet":
                return _write_parquet(records, temporary, to)
            return _write_text(records, temporary, is_list=suffix == ".json")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise UserError("The disk is full.", str(path), "Free some space, then write the file again.", code="DISK") from error


def line(value: Any) -> bytes:
    """A JSON value on one line, unicode as it is, with its line end."""
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)


def _record(conversation: Conversation, to: Form) -> dict[str, Any]:
    return conversation.vicuna() if to == "vicuna" else {"id": conversation.id, "messages": conversation.messages()}


def _write_text(records: Iterable[dict[str, Any]], file: Path, is_list: bool) -> int:
    count = 0
    next_check = CHECKED_BYTES
    with file.open("wb") as out:
        out.write(b"[\n" if is_list else b"")
        for count, record in enumerate(records, start=1):
            out.write(b",\n" if is_list and count > 1 else b"")
            out.write(orjson.dumps(record) if is_list else line(record))
            if out.tell() > next_check:
                paths.require_disk(file.parent, CHECKED_BYTES, "Writing the data")
                next_check = out.tell() + CHECKED_BYTES
        out.write(b"\n]\n" if is_list else b"")
    return count


def _write_parquet(records: Iterable[dict[str, Any]], file: Path, to: Form) -> int:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.string()
    key, role, content = ("conversations", "from", "value") if to == "vicuna" else ("messages", "role", "content")
    schema = pa.schema([("id", text), (key, pa.list_(pa.struct([(role, text), (content, text)])))])
    count, pending = 0, list[dict[str, Any]]()
    with parquet.ParquetWriter(file, schema, compression="zstd") as out:
        for record in records:
            count += 1
            pending.append(record)
            if len(pending) == BATCH_ROWS:
                out.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))
                pending.clear()
                paths.require_disk(file.parent, CHECKED_BYTES, "Writing the data")
        out.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))
    return count

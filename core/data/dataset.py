"""Datasets: an imported file kept byte for byte, its conversations as Arrow rows that open in constant time, and the report on it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from pydantic import BaseModel, ConfigDict

from core import paths
from core.conversation import Conversation, Turn
from core.data import intake
from core.data.datafile import DataFile
from core.data.findings import INDEX, Findings, keep, writing
from core.data.layouts import Kind, detect
from core.data.mapping import ColumnMapping, require_complete
from core.data.origin import Origin
from core.data.places import Places
from core.data.rows import Checked
from core.data.shards import Joined
from core.data.validate import Listeners, Report, examine
from core.errors import UserError
from core.locks import FileLock

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST, ROWS, REPORT, REJECTED = "dataset.json", "rows.arrow", "report.json", "rejected.jsonl"
PARTS, PLACES = "parts", "places.bin"  # of a source that was several files: these, byte for byte, and where each row begins in its own
BATCH_ROWS, BATCH_BYTES = 1024, 16 << 20  # of one Arrow batch, whichever is full first; bytes of the records' text
LISTED = 1000  # findings that the report itself lists; `Dataset.findings` has them all


class DatasetManifest(BaseModel):
    """What a dataset is: ``dataset.json`` in its folder."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    source: str  # the source file's name in the folder
    sha256: str  # of the source
    size_bytes: int
    num_rows: int
    num_valid: int
    num_rejected: int
    created: float  # seconds since the epoch
    format: Kind = "vicuna"  # the layout of the source
    why: str = ""  # it was taken for that
    mapping: ColumnMapping | None = None  # what a person said about the columns; None: nothing had to be said
    origin: Origin = Origin()
    parent: str | None = None  # the dataset this one was made from
    made_by: dict[str, Any] | None = None  # the verb and what was chosen: {"verb": "clean", "repairs": {...}}


class Dataset(Sequence[Conversation]):
    """The valid conversations of an imported file, in its order. Rows are read from the disk when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = DatasetManifest.model_validate(paths.read_json(folder / MANIFEST))

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def source(self) -> Path:
        """The imported file, byte for byte; the rows of all, where it was several."""
        return self.folder / self.manifest.source

    @property
    def parts(self) -> tuple[Path, ...]:
        """The files that the source was made of, byte for byte, in the order of their rows; none where it was one file."""
        return tuple(sorted((self.folder / PARTS).iterdir())) if (self.folder / PARTS).is_dir() else ()

    def places(self) -> Places | None:
        """Where each row begins in its part; None where the source was one file, or Parquet, whose rows have no line."""
        return _places_in(self.folder)

    def __len__(self) -> int:
        return self.manifest.num_valid

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> list[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | list[Conversation]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return _conversation(self.between(number, number + 1).to_pylist()[0])

    def __iter__(self) -> Iterator[Conversation]:
        for number in range(self._rows.num_record_batches):
            for fields in self._rows.get_batch(number).to_pylist():
                yield _conversation(fields)

    @cached_property
    def batch_ends(self) -> list[int]:
        """For each batch that the conversations lie in on the disk, how many there are up to its end."""
        return list(accumulate(self._rows.get_batch(number).num_rows for number in range(self._rows.num_record_batches)))

    def between(self, start: int, stop: int) -> Any:
        """The conversations `start` to `stop` of one batch, as Arrow columns: ``id``, ``turns`` (lists of role and content), ``row``, ``line``."""
        number = bisect_right(self.batch_ends, start)
        before = self.batch_ends[number - 1] if number else 0
        return self._rows.get_batch(number).slice(start - before, stop - start)  # memory-mapped: only the pages touched are read

    def numbered(self) -> Iterator[tuple[Conversation, int]]:
        """Every conversation with its row (0-based) in the source file."""
        for number in range(self._rows.num_record_batches):
            batch = self._rows.get_batch(number)
            for fields in batch.to_pylist():
                yield _conversation(fields), fields["row"]

    def source_position(self, index: int) -> tuple[int, int]:
        """The row (0-based) of conversation `index` in the source, and its line (1-based) in the file it came from."""
        row = self.between(index, index + 1)
        return row.column("row")[0].as_py(), row.column("line")[0].as_py()

    def report(self) -> Report:
        """The counts, and the first findings."""
        return Report.model_validate_json((self.folder / REPORT).read_bytes())

    def findings(self, code: str = "", severity: str = "") -> Findings:
        """Every finding, or those of one code or severity; any page of them opens in constant time."""
        if not (self.folder / INDEX).is_file():
            keep(self.folder, self.report().issues)
        return Findings(self.folder, code, severity)

    def rejected(self) -> Iterator[dict[str, Any]]:
        """The rows that were left out: ``row``, ``line``, ``byte``, ``codes`` and the ``raw`` text."""
        with (self.folder / REJECTED).open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    @cached_property
    def _rows(self) -> pa.ipc.RecordBatchFileReader:
        import pyarrow as pa

        return pa.ipc.open_file(pa.memory_map(str(self.folder / ROWS)))


def import_dataset(
    path: Path,
    name: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    mapping: ColumnMapping | None = None,
    origin: Origin | None = None,
    on_rows: Callable[[int], None] | None = None,
    joined: Joined | None = None,
) -> Dataset:
    """Take `path` into the workspace, validated. The same bytes read in the same way are there only once and keep their first name.

    Args:
        on_progress: called with the bytes read so far and the bytes in all.
        mapping: what the columns mean; None finds it out.
        origin: where the file came from; None: it was named by its path.
        on_rows: called with the rows read so far, each time before `on_progress`.
        joined: the several files that `path` was made of, which are kept as well.

    Raises:
        UserError: there is no such file, the disk is full, the file cannot be read as text (the report's first issue), or its layout is
            unknown (code LAYOUT) and no mapping is given.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name!r}.", str(path), "Check the path.")
    layout = DataFile(path, mapping and require_complete(mapping, path.name)).layout
    if mapping and (found := detect(path)).kind != "unknown" and found.mapping == mapping:
        layout, mapping = found, None  # nothing had to be said
    sha256, size_bytes = paths.sha256_file(path), path.stat().st_size
    # JSON adds nothing, which keeps the ids of data that was imported when the container did not count.
    read_as = ("" if layout.container == "json" else layout.container) + (mapping.model_dump_json() if mapping else "")
    digest = hashlib.sha256((sha256 + read_as).encode()).hexdigest() if read_as else sha256
    folder = paths.datasets_dir() / f"ds-{digest[:12]}"
    lock = _lock_of(folder)
    while not lock.acquire():
        time.sleep(0.1)  # another import of the same bytes; what it makes is ours too
    try:
        if _whole(folder) is None:
            intake.require_known(layout, path)
            paths.require_disk(paths.datasets_dir(), 3 * size_bytes, "Importing the data")
            with paths.building(folder) as partial:
                source = partial / intake.source_name(layout, path)
                shutil.copyfile(path, source)
                if joined:
                    _keep_parts(joined, partial)
                intake.require_text(_write_rows(source, partial, _teller(size_bytes, on_progress, on_rows), mapping), path)
                facts = {"format": layout.kind, "why": layout.why, "mapping": mapping, "origin": origin or Origin(file=path.name)}
                write_manifest(partial, source, id=folder.name, name=name or path.stem, **facts)
    finally:
        lock.release()
    return Dataset(folder)


def _keep_parts(joined: Joined, folder: Path) -> None:
    """Put the files of which the source was made into `folder`, numbered in their order, and where its rows begin in them."""
    (folder / PARTS).mkdir()
    for number, part in enumerate(joined.parts):
        name = re.sub(r"^\d{5}--", "", part.name)  # it may be kept already, where the columns were mapped anew
        paths.link_or_copy(part, folder / PARTS / f"{number:05d}--{name}")
    if joined.places:
        shutil.copyfile(joined.places, folder / PLACES)


def _places_in(folder: Path) -> Places | None:
    return Places(folder / PLACES) if (folder / PLACES).is_file() else None


def _teller(
    size_bytes: int, on_progress: Callable[[int, int], None] | None, on_rows: Callable[[int], None] | None
) -> Callable[[int, int], None]:
    """What hears the bytes and rows read so far."""

    def tell(done: int, rows: int) -> None:
        if on_rows:
            on_rows(rows)
        if on_progress:
            on_progress(done, size_bytes)

    return tell


def sweep() -> None:
    """Remove what imports left behind that were killed."""
    for partial in paths.datasets_dir().glob("ds-*.partial"):
        lock = _lock_of(partial.with_suffix(""))
        if lock.acquire():
            shutil.rmtree(partial, ignore_errors=True)
            lock.release()


def _lock_of(folder: Path) -> FileLock:
    """Held by whoever makes the dataset `folder`."""
    return FileLock(paths.cache_dir() / "locks" / f"{folder.name}.lock")


def make_dataset(identity: object, name: str, write: Callable[[Path, Path], None], parent: str, made_by: dict[str, Any]) -> Dataset:
    """A dataset made from another one: the same identity (JSON values) is made only once.

    Args:
        write: gets the path of the JSONL file to write, one record a line, and the folder, for what else belongs to the dataset.

    Raises:
        UserError: the same dataset is being made at this moment.
    """
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = paths.datasets_dir() / f"ds-{digest[:12]}"
    lock = _lock_of(folder)
    if not lock.acquire():
        raise UserError(f"{name} is being made already.", name, "Wait until it is there; the list of datasets shows it then.")
    try:
        if not (folder / MANIFEST).is_file():
            with paths.building(folder) as partial:
                source = partial / "source.jsonl"
                write(source, partial)
                _write_rows(source, partial)
                write_manifest(partial, source, id=folder.name, name=name, parent=parent, made_by=made_by)
    finally:
        lock.release()
    return Dataset(folder)


def write_manifest(folder: Path, source: Path, **fields: Any) -> None:
    """The manifest of a folder that holds everything else: `fields` are id, name and lineage."""
    report = Report.model_validate_json((folder / REPORT).read_bytes())
    numbers = report.model_dump(include={"num_rows", "num_valid", "num_rejected"})
    file = {"source": source.name, "sha256": paths.sha256_file(source), "size_bytes": source.stat().st_size}
    manifest = DatasetManifest.model_validate({**fields, **numbers, **file, "created": time.time()})
    paths.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def open_dataset(identifier: str) -> Dataset:
    """The dataset of this id; UserError when there is none."""
    return Dataset(paths.by_id(paths.datasets_dir(), identifier, "dataset"))


def take_data(reference: str) -> Dataset:
    """The dataset behind an id, or made of the file at a path."""
    if reference.startswith("ds-") and (paths.datasets_dir() / reference).is_dir():
        return open_dataset(reference)
    path = Path(reference).expanduser()
    if not path.is_file():
        raise UserError(f"There is no dataset {reference!r}.", "dataset", "Give a dataset id, or the path of a data file.")
    return import_dataset(path)


def list_datasets() -> list[Dataset]:
    """Every dataset of the workspace, newest first."""
    folders = (manifest.parent for manifest in paths.datasets_dir().glob(f"ds-*/{MANIFEST}"))
    found = [dataset for folder in folders if not folder.name.endswith(".partial") and (dataset := _whole(folder))]
    return sorted(found, key=lambda dataset: dataset.manifest.created, reverse=True)


def _whole(folder: Path) -> Dataset | None:
    """The dataset in `folder`, unless its manifest is missing or damaged: then it is as good as not there, and its file is taken in anew."""
    try:
        return Dataset(folder)
    except (FileNotFoundError, ValueError):
        return None


def _write_rows(
    source: Path, folder: Path, on_progress: Callable[[int, int], None] | None = None, mapping: ColumnMapping | None = None
) -> Report:
    """Validate `source`, writing its conversations, its rejected rows, its findings and the report into `folder`.

    Lines and bytes are those of the files that the source was made of, where `folder` says what they are.
    `on_progress` is called with the bytes and the rows read so far.
    """
    import pyarrow as pa

    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema([("id", pa.string()), ("turns", pa.list_(turn)), ("row", pa.int64()), ("line", pa.int64())])
    pending: list[dict[str, Any]] = []
    places = _places_in(folder)
    num_rows = pending_bytes = 0
    with (
        pa.OSFile(str(folder / ROWS), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
        (folder / REJECTED).open("w", encoding="utf-8") as rejected,
        writing(folder) as note,
    ):

        def flush() -> None:
            nonlocal pending_bytes
            pending_bytes = 0
            if pending:
                writer.write_batch(pa.RecordBatch.from_pylist(pending, schema=schema))
                pending.clear()

        def keep(checked: Checked) -> None:
            nonlocal num_rows, pending_bytes
            num_rows += 1
            record, conversation = checked.record, checked.conversation
            line, byte = places.of(record.row) if places else (record.line, record.byte)
            if conversation is None:
                codes = [finding.code for finding in checked.findings]
                fields = {
                    "row": record.row,
                    "line": line,
                    "byte": byte,
                    "codes": codes,
                    "raw": record.raw.decode("utf-8", "backslashreplace"),
                }
                rejected.write(json.dumps(fields, ensure_ascii=False) + "\n")
                return
            pending.append({"id": conversation.id, "turns": conversation.messages(), "row": record.row, "line": line})
            pending_bytes += len(record.raw)
            if len(pending) == BATCH_ROWS or pending_bytes >= BATCH_BYTES:
                flush()

        def tell(done: int) -> None:
            if on_progress:
                on_progress(done, num_rows)

        report = examine(source, Listeners(on_issue=note, on_row=keep, on_bytes=tell), mapping=mapping, places=places)
        flush()
    report = report.model_copy(update={"issues": report.issues[:LISTED]})
    paths.write_text(folder / REPORT, report.model_dump_json(indent=1) + "\n")
    return report


def _conversation(fields: dict[str, Any]) -> Conversation:
    return Conversation(fields["id"], tuple(Turn(turn["role"], turn["content"]) for turn in fields["turns"]))

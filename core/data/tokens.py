"""The token rows of a dataset: made once for a tokenizer, template, length and loss rule, kept in its folder, opened as a memory map."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core import paths
from core.data.dataset import Dataset
from core.data.encode import Row, RowEncoder
from core.data.render import IGNORED, LossOn
from core.data.tokenizer import ChatTokenizer
from core.data.writer import full_disk_said
from core.errors import UserError
from core.locks import FileLock

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROWS, MANIFEST = "rows.arrow", "tokens.json"
VERSION = 1  # raised when the same conversation comes to give other ids or labels
BATCH_TOKENS, BATCH_ROWS = 1 << 22, 1 << 16  # of one Arrow batch, whichever is full first; opening takes 0.1 ms a batch
KEPT = 8  # sets of rows a dataset keeps, the last used ones


class Pair(NamedTuple):
    input_ids: NDArray[np.int32]  # (T,)
    labels: NDArray[np.int32]  # (T,), -100 where no loss


class TokenRows:
    """One row for each conversation of a dataset, in its order. Nothing is read until asked for.

    A conversation that the template refuses has a row without tokens, and its reason in `refusals`.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa

        self.folder = folder
        self.refusals: dict[int, dict[str, str]] = {}
        for row, reason in paths.read_json(folder / MANIFEST)["refusals"].items():
            self.refusals[int(row)] = reason
        self._table: Any = pa.ipc.open_stream(pa.memory_map(str(self.file))).read_all()

    @property
    def file(self) -> Path:
        """The Arrow stream: ``input_ids``, ``labels``, ``num_loss_tokens``, ``full_length``, ``lost``."""
        return self.folder / ROWS

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, row: int) -> Pair:
        """The ids and labels of a row, where they lie on the disk."""
        import numpy as np

        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        chunk = int(np.searchsorted(self._ends, row, side="right"))
        at = row - (int(self._ends[chunk - 1]) if chunk else 0)
        columns = (self._table.column(name).chunk(chunk)[at].values for name in Pair._fields)
        return Pair(*(column.to_numpy() for column in columns))

    @cached_property
    def num_tokens(self) -> NDArray[np.int32]:
        """(N,) the tokens of each row, after truncation."""
        import pyarrow.compute

        compute: Any = pyarrow.compute  # its functions are made when it is imported
        return compute.list_value_length(self._table.column("input_ids")).to_numpy()

    @property
    def num_loss_tokens(self) -> NDArray[np.int32]:
        """(N,) the tokens that carry loss. The first of a row never does: nothing predicts it."""
        return self._table.column("num_loss_tokens").to_numpy()

    @property
    def full_length(self) -> NDArray[np.int32]:
        """(N,) the tokens before truncation."""
        return self._table.column("full_length").to_numpy()

    @property
    def lost(self) -> NDArray[np.int32]:
        """(N,) the tokens with loss that were cut off."""
        return self._table.column("lost").to_numpy()

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        import numpy as np

        return np.cumsum([len(chunk) for chunk in self._table.column("lost").chunks])

    def require_accepted(self, rows: Iterable[int] | None = None) -> None:
        """Raise the UserError (code TEMPLATE) of the first conversation, of all or of `rows`, that the template refused."""
        refused = set(self.refusals) if rows is None else set(self.refusals).intersection(rows)
        for row in sorted(refused):
            reason = self.refusals[row]
            raise UserError(reason["problem"], f"conversation {row}: {reason['where']}", reason["remedy"], code="TEMPLATE")


def token_rows(
    dataset: Dataset,
    tokenizer: ChatTokenizer,
    max_length: int | None = None,
    loss_on: LossOn = "answers",
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenRows:
    """The rows of `dataset` for this tokenizer, made now if they are not there. Whoever else is making them is waited for.

    Args:
        on_progress: called with the conversations done and all.

    Raises:
        UserError: the disk is full, or the model has no usable template.
    """
    folder = _folder(dataset, tokenizer, max_length, loss_on)
    if found := _open(folder):
        return found
    with _alone(folder.name):
        if found := _open(folder):
            return found
        with full_disk_said(dataset.folder / MANIFEST):
            paths.require_disk(folder.parent, 3 * dataset.manifest.size_bytes, "Making the token rows")
            with paths.building(folder) as partial:
                _build(dataset, tokenizer, max_length, loss_on, partial, on_progress)
            _forget_others(folder)
    return TokenRows(folder)


def built_rows(dataset: Dataset, tokenizer: ChatTokenizer, max_length: int | None = None, loss_on: LossOn = "answers") -> TokenRows | None:
    """As `token_rows`, if they are there already; never builds and never waits."""
    return _open(_folder(dataset, tokenizer, max_length, loss_on))


def _folder(dataset: Dataset, tokenizer: ChatTokenizer, max_length: int | None, loss_on: LossOn) -> Path:
    names = [tokenizer.bos_token, tokenizer.eos_token]
    day = time.strftime("%Y-%m-%d") if "strftime_now" in tokenizer.template else None  # the text holds the date
    key = json.dumps([VERSION, dataset.manifest.sha256, tokenizer.sha256, names, max_length, loss_on, day])
    return dataset.folder / "tokens" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _open(folder: Path) -> TokenRows | None:
    if not (folder / MANIFEST).is_file():
        return None
    try:
        os.utime(folder)  # used now
        return TokenRows(folder)
    except FileNotFoundError:  # removed by another process at this moment
        return None


@contextmanager
def _alone(name: str) -> Generator[None]:
    lock = FileLock(paths.cache_dir() / "locks" / f"tokens-{name}.lock")
    while not lock.acquire():
        time.sleep(0.05)
    try:
        yield
    finally:
        lock.release()


def _forget_others(folder: Path) -> None:
    others = [other for other in folder.parent.iterdir() if other != folder and (other / MANIFEST).is_file()]
    for other in sorted(others, key=lambda other: other.stat().st_mtime, reverse=True)[KEPT - 1 :]:
        shutil.rmtree(other, ignore_errors=True)


# --- building --------------------------------------------------------------------------------------------------------------------------


def _build(
    dataset: Dataset,
    tokenizer: ChatTokenizer,
    max_length: int | None,
    loss_on: LossOn,
    folder: Path,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Write the rows and the manifest into `folder`; one batch at a time is held in memory."""
    import pyarrow as pa

    encoder = RowEncoder(tokenizer, max_length, loss_on)
    refusals: dict[int, dict[str, str]] = {}
    while True:
        with pa.OSFile(str(folder / ROWS), "wb") as sink, pa.ipc.new_stream(sink, _schema()) as writer:
            done = 0
            for batch in _batches(dataset, encoder, refusals):
                writer.write_batch(_arrow(batch))
                done += len(batch)
                if on_progress:
                    on_progress(done, len(dataset))
                if encoder.disagreed:
                    break
        if not encoder.disagreed:
            break
        encoder = RowEncoder(tokenizer, max_length, loss_on, fast=False)
        refusals.clear()
    paths.write_json(folder / MANIFEST, {"dataset": dataset.id, "max_length": max_length, "loss_on": loss_on, "refusals": refusals})


def _batches(dataset: Dataset, encoder: RowEncoder, refusals: dict[int, dict[str, str]]) -> Iterator[list[Row]]:
    import numpy as np

    none = np.zeros(0, dtype=np.int32)
    batch, num_tokens = list[Row](), 0
    for number, conversation in enumerate(dataset):
        try:
            row = encoder.row(conversation)
        except UserError as error:
            if error.where == "the model's tokenizer":  # no template at all: no row could be made
                raise
            refusals[number] = {"problem": error.problem, "where": error.where, "remedy": error.remedy}
            row = Row(none, none, 0, 0)
        batch.append(row)
        num_tokens += len(row.input_ids)
        if num_tokens >= BATCH_TOKENS or len(batch) == BATCH_ROWS:
            yield batch
            batch, num_tokens = [], 0
    if batch:
        yield batch


def _schema() -> Any:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    counts: list[Any] = [(name, pa.int32()) for name in ("num_loss_tokens", "full_length", "lost")]
    return pa.schema([("input_ids", ids), ("labels", ids), *counts])


def _arrow(batch: list[Row]) -> Any:
    import numpy as np
    import pyarrow as pa

    offsets = np.cumsum([0, *(len(row.input_ids) for row in batch)], dtype=np.int32)
    lists = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
        for values in ([row.input_ids for row in batch], [row.labels for row in batch])
    ]
    counts = [
        [int(np.count_nonzero(row.labels[1:] != IGNORED)) for row in batch],
        [row.full_length for row in batch],
        [row.lost for row in batch],
    ]
    return pa.RecordBatch.from_arrays([*lists, *(pa.array(count, pa.int32()) for count in counts)], schema=_schema())

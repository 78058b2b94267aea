"""What visitors of a Space may take up of its disk: each a share, all together a part, and what is the owner's does not count (rule R12).

Beside what was made for a visitor lies a file that says for whom, sealed: nobody's name or address is written down.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from core import paths
from core.data import imports
from core.data.dataset import Dataset, open_dataset
from core.errors import UserError
from ui import handles
from ui.access import Caller
from ui.limits import VISITOR_BYTES
from ui.view import size

VISITOR_SHARE_BYTES = 50 * 10**6  # of all datasets of one visitor
VISITORS_BYTES = 500 * 10**6  # of all datasets of all visitors
MARK = "visitor"
COPY = "Duplicate this Space and use your own."
Made = TypeVar("Made", Dataset, tuple[Dataset, Dataset])


def require_size(size_bytes: int, caller: Caller) -> None:
    """Refuse data that is larger than a visitor may have looked through.

    Raises:
        UserError: it is.
    """
    if not caller.may("owner") and size_bytes > VISITOR_BYTES:
        problem = f"Visitors may have files of up to {size(VISITOR_BYTES)} checked; this one has {size(size_bytes)}."
        raise UserError(problem, "the upload", "Take a part of it, or duplicate this Space and use your own.")


def require_room(size_bytes: int, caller: Caller) -> None:
    """Refuse to make a dataset of this size for a visitor who has no room for it.

    Raises:
        UserError: it is too large, an import of theirs goes on, or their share or everybody's is used up.
    """
    if caller.may("owner"):
        return
    require_size(size_bytes, caller)
    who, taken = _seal(caller), _taken()
    if any(mark.read_text(encoding="ascii") == who for mark in _going()):
        raise UserError("An import of yours is going on still.", "the import", "Wait for its end, or stop it.", code="BUSY")
    if taken[who] + size_bytes > VISITOR_SHARE_BYTES:
        raise UserError(f"Your files take up {size(taken[who])} here; a visitor has {size(VISITOR_SHARE_BYTES)}.", "this Space", COPY)
    if taken.total() + size_bytes > VISITORS_BYTES:
        raise UserError("The room for visitors' files is used up.", "this Space", COPY)


def imported(import_id: str, caller: Caller) -> str:
    """`import_id`, noted as the caller's."""
    _mark(imports.imports_dir() / import_id, caller)
    return import_id


def made(make: Callable[[], Made], caller: Caller) -> Made:
    """What `make` makes, noted as the caller's unless it was there before."""
    began = time.time()
    found = make()
    for dataset in found if isinstance(found, tuple) else (found,):
        if dataset.manifest.created >= began:
            _mark(dataset.folder, caller)
    return found


def _seal(caller: Caller) -> str:
    return handles.seal(caller.key)


def _mark(folder: Path, caller: Caller) -> None:
    if not caller.may("owner"):
        paths.write_text(folder / MARK, _seal(caller))


def _going() -> list[Path]:
    """The marks of imports that go on."""
    return [mark for mark in imports.imports_dir().glob(f"*/{MARK}") if not imports.load(mark.parent.name).is_terminal]


def _taken() -> Counter[str]:
    """Bytes of the datasets of each visitor."""
    for mark in imports.imports_dir().glob(f"*/{MARK}"):  # jobs are forgotten in time, datasets stay
        job = imports.load(mark.parent.name)
        folder = paths.datasets_dir() / (job.dataset_id or "")
        if job.dataset_id and folder.is_dir() and not (folder / MARK).is_file() and Dataset(folder).manifest.created >= job.created_s:
            paths.write_text(folder / MARK, mark.read_text(encoding="ascii"))
    found: Counter[str] = Counter()
    for mark in paths.datasets_dir().glob(f"ds-*/{MARK}"):
        found[mark.read_text(encoding="ascii")] += open_dataset(mark.parent.name).manifest.size_bytes
    return found

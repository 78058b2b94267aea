"""Whose data a dataset is: its owner opens it by its id, a visitor of a Space by the handle that the page gave to whoever brought the data.

An id is cut from the data's hash and stands in what is published, so knowing one proves nothing. A handle is the id and a proof that only this
workspace can make: nobody guesses it, and it outlives a reload and a restart.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from functools import lru_cache

from core import paths
from core.data.dataset import Dataset, open_dataset
from core.errors import UserError
from ui.access import Caller

KEY = "handles.key"
HANDLE = re.compile(r"(ds-[0-9a-f]{12})-([0-9a-f]{24})")


def open_for(given: str | None, caller: Caller) -> Dataset:
    """The dataset that `given`, an id or a handle, opens for `caller`. Every handler opens datasets by this and nothing else.

    Raises:
        UserError: there is none, or it is somebody else's, which a visitor is told in the same words.
    """
    given = given if isinstance(given, str) else ""
    match = HANDLE.fullmatch(given)
    identifier = match[1] if match else given
    if caller.may("owner"):
        return open_dataset(identifier)
    if identifier in _examples() or (match and hmac.compare_digest(match[2], seal(identifier))):
        return open_dataset(identifier)
    raise UserError("There is no such dataset of yours here.", "the dataset", "Import its file again.", code="ACCESS")


def of(dataset: Dataset, caller: Caller) -> str:
    """What the page keeps of a dataset that `caller` may read: the id where that is enough, else the handle."""
    return dataset.id if caller.may("owner") or dataset.id in _examples() else f"{dataset.id}-{seal(dataset.id)}"


def seal(words: str) -> str:
    """24 hex digits that only this workspace can make of `words`, and from which nobody finds the words."""
    return hmac.new(_key(), words.encode(), hashlib.sha256).hexdigest()[:24]


def _key() -> bytes:
    """This workspace's own, made when it is first needed."""
    path = paths.home() / KEY
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{KEY}.{secrets.token_hex(4)}")
        fresh.touch(0o600)
        fresh.write_text(secrets.token_hex(32), encoding="ascii")
        try:
            os.link(fresh, path)  # whole, and never in the place of another's
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_bytes()


@lru_cache(maxsize=1)
def _examples() -> frozenset[str]:
    """The ids under which the files that ship with Transmute are imported; they are everybody's."""
    return frozenset(f"ds-{paths.sha256_file(file)[:12]}" for file in paths.EXAMPLES.glob("*.json*"))

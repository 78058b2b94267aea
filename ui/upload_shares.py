"""What visitors' uploads may take of the disk before they are swept away: each visitor a share, all together a part (rule R12).

What is made of an upload is counted elsewhere, in shares.py. This is kept in memory: a restart begins with an empty upload folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ui.access import Caller
from ui.view import size

SHARE_BYTES = 50 * 10**6  # of all uploads of one visitor
ALL_BYTES = 500 * 10**6  # of all uploads of all visitors
OWNER = "owner"

_coming: Counter[str] = Counter()  # by visitor: how much the uploads that go on may send
_whose: dict[Path, set[str]] = {}  # by file: who has sent it; the same content under the same name is one file


def reason_against(size_bytes: int, caller: Caller) -> str:
    """Why this caller may not send so much now, or nothing."""
    if caller.may("owner"):
        return ""
    taken = _taken()
    if taken[caller.key] + size_bytes > SHARE_BYTES:
        return f"Your uploads take up {size(taken[caller.key])} here; a visitor has {size(SHARE_BYTES)} a day."
    return "The room for visitors' uploads is used up for today." if taken.total() + size_bytes > ALL_BYTES else ""


def begin(size_bytes: int, caller: Caller) -> None:
    _coming[_name(caller)] += size_bytes


def end(size_bytes: int, caller: Caller, files: Iterable[Path] = ()) -> None:
    """An upload that was counted as so much has come to its end, and has left these files."""
    _coming[_name(caller)] -= size_bytes
    for file in files:
        _whose.setdefault(file.resolve(), set()).add(_name(caller))


def is_from(file: Path, caller: Caller) -> bool:
    """Whether this caller has sent `file`; the owner may have any opened. What was sent before a restart is nobody's any more.

    A program may send its login with the call and not with the file, which is then known by its address.
    """
    own = {caller.key, f"address {caller.address}"}
    return caller.may("owner") or not own.isdisjoint(_whose.get(file.resolve(), set()))


def drop(file: Path, caller: Caller) -> None:
    """Delete what this caller has uploaded and nobody else."""
    if _whose.get(file) == {_name(caller)}:
        file.unlink(missing_ok=True)
        with suppress(OSError):
            file.parent.rmdir()
        _whose.pop(file, None)


def _name(caller: Caller) -> str:
    return OWNER if caller.may("owner") else caller.key


def _taken() -> Counter[str]:
    """Bytes by visitor: of the files that are still there, and of what is being sent."""
    found = Counter({name: number for name, number in _coming.items() if name != OWNER and number})
    for file, senders in list(_whose.items()):
        try:
            size_bytes = file.stat().st_size
        except OSError:
            _whose.pop(file, None)
            continue
        found.update(dict.fromkeys(senders - {OWNER}, size_bytes))
    return found

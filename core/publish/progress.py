"""How many bytes of a publication have been sent: heard from the client while it reads a file to send it, or from Xet storage as it reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from huggingface_hub import CommitOperationAdd
from huggingface_hub.utils import _xet_progress_reporting as reporting  # pyright: ignore[reportPrivateUsage]

from core.hubclient import Stopped
from core.publish.preflight import PlannedFile

OnBytes = Callable[[int, int], None]


class Count:
    """Adds up the bytes of several files, of which one after the other is sent."""

    def __init__(self, total: int, on_progress: OnBytes) -> None:
        self._total, self._on_progress = total, on_progress
        self._before = self._of_file = 0

    def hear(self, of_file: int) -> None:
        """So much of the file is through."""
        self._of_file = of_file
        self._on_progress(min(self._before + of_file, self._total), self._total)

    def hear_more(self, num_bytes: int) -> None:
        self.hear(self._of_file + num_bytes)

    def begin(self) -> None:
        self._of_file = 0

    def finish(self, file: PlannedFile) -> None:
        self._before, self._of_file = self._before + file.size_bytes, 0
        self._on_progress(self._before, self._total)


_heard_by: ContextVar[Count | None] = ContextVar("heard_by", default=None)


@contextmanager
def heard_by(count: Count) -> Generator[None]:
    """Within the block `count` is told what this thread sends through Xet storage."""
    before = _heard_by.set(count)
    try:
        yield
    finally:
        _heard_by.reset(before)


class Reporter(reporting.XetUploadProgressReporter):
    """Tells a `Count` where one listens, and draws the client's bars elsewhere.

    Put in the place of the client's own, which hands on to nobody what Xet storage reports (huggingface_hub 2.4).
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        self._count = _heard_by.get()
        if self._count is None:
            super().__init__(*values, **named)

    def update_progress(self, group_report: Any, item_reports: dict[Any, Any]) -> None:
        if self._count is None:
            super().update_progress(group_report, item_reports)
            return
        with contextlib.suppress(Stopped):  # a thread of the storage cannot be stopped from here
            self._count.hear(group_report.total_bytes_completed)

    def close(self, *values: Any) -> None:
        if self._count is None:
            super().close(*values)


reporting.XetUploadProgressReporter = Reporter


def operation(file: PlannedFile, count: Count) -> CommitOperationAdd:
    """The client's operation for one file, which tells `count` what is read of it while it is sent."""
    source = str(file.local) if file.local else (file.text or "").encode()

    class Counted(CommitOperationAdd):
        @contextmanager
        def as_file(self, with_tqdm: bool = False) -> Generator[Any]:
            with super().as_file() as opened:
                if with_tqdm:  # the client asks so when it sends, and not when it hashes
                    read: Any = opened.read
                    count.begin()

                    def counted(size: int | None = -1) -> bytes:
                        content = read(size)
                        count.hear_more(len(content))
                        return content

                    opened.read = counted
                yield opened

    return Counted(path_in_repo=file.path, path_or_fileobj=source)

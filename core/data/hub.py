"""Datasets of the Hub: which data files belong to a config and a split, and those files fetched with the caller's token.

Only files whose endings say that they are data are ever fetched, and no code of a repository is run: for one that is made by a script the
Parquet files are taken that the Hub itself keeps of it in ``refs/convert/parquet``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from core import paths
from core.data.hubfiles import SUFFIXES, Files, HubFile, arranged, choose, declared, is_data, of_conversion
from core.data.origin import HubRef, Origin
from core.errors import UserError
from core.hubclient import Stopped, api, patiently, status

CONVERTED = "refs/convert/parquet"
NAME = r"[A-Za-z0-9_][\w.-]*"
REPO_ID = re.compile(rf"(?:{NAME}/)?{NAME}", re.ASCII)
TIMEOUT_S = 20.0


class Shelf(NamedTuple):
    """What a repository holds at a commit."""

    commit: str
    revision: str
    files: Files


class Fetched(NamedTuple):
    files: tuple[Path, ...]
    origin: Origin


def is_hub_id(text: str) -> bool:
    """Whether `text` may name a dataset of the Hub, as ``owner/name``."""
    return "/" in text and REPO_ID.fullmatch(text) is not None and ".." not in text and "--" not in text


def require_id(ref: HubRef | None) -> HubRef:
    """`ref`, when the Hub could have such a dataset; else UserError."""
    if ref is None or not REPO_ID.fullmatch(ref.repo_id) or ".." in ref.repo_id or "--" in ref.repo_id or len(ref.repo_id) > 96:
        raise UserError(f"{ref.repo_id if ref else ''!r} is no dataset id.", "the Hub", "Write it as on the Hub, for example owner/name.")
    return ref


def look_up(repo_id: str, revision: str | None, token: str | None, should_stop: Callable[[], bool] = lambda: False) -> Shelf:
    """The configs and splits of a dataset.

    Raises:
        UserError: no such dataset or revision, no access, no network, or no data file in it.
        Stopped: `should_stop` became true.
    """
    info = _info(repo_id, revision, token, should_stop)
    files, card = _data_files(info), info.card_data.to_dict() if info.card_data else {}
    shelf = declared(card.get("configs"), files) or arranged(files)
    if not shelf and revision is None:
        return _converted(repo_id, token, should_stop)
    if not shelf:
        raise _nothing_readable(repo_id)
    return Shelf(str(info.sha), revision or "main", shelf)


def fetch(
    ref: HubRef, folder: Path, token: str | None, on_progress: Callable[[int, int], None], should_stop: Callable[[], bool]
) -> Fetched:
    """The files of one split in `folder`, in the order of their rows.

    Args:
        on_progress: called with the bytes fetched so far and the bytes in all.

    Raises:
        UserError: as of `look_up`, and when there is no such config or split, the disk is full, or the download fails.
        Stopped: `should_stop` became true.
    """
    require_id(ref)
    shelf = look_up(ref.repo_id, ref.revision, token, should_stop)
    if ref.config not in (None, *shelf.files) and ref.revision is None:
        shelf = _with_converted(ref, shelf, token, should_stop)
    config, split = choose(ref, shelf.files)
    files = shelf.files[config][split]
    total = sum(file.size_bytes for file in files)
    paths.require_disk(folder.parent, total, f"Fetching {ref.repo_id}")
    done = _Count(total, on_progress, should_stop)
    fetched = tuple(_download(ref.repo_id, file, shelf.commit, folder, token, done) for file in files)
    chosen = HubRef(repo_id=ref.repo_id, config=config, split=split, revision=shelf.revision)
    return Fetched(
        fetched, Origin(kind="hub", file=files[0].path, hub=chosen, commit=shelf.commit, files=tuple(file.path for file in files))
    )


def _converted(repo_id: str, token: str | None, should_stop: Callable[[], bool]) -> Shelf:
    """What the Hub's own conversion to Parquet holds."""
    try:
        info = _info(repo_id, CONVERTED, token, should_stop)
    except UserError as error:
        raise _nothing_readable(repo_id) if error.code == "REVISION" else error from None
    files = of_conversion(_data_files(info))
    if not files:
        raise _nothing_readable(repo_id)
    return Shelf(str(info.sha), CONVERTED, files)


def _data_files(info: Any) -> list[HubFile]:
    return [HubFile(each.rfilename, each.size or 0) for each in info.siblings or [] if is_data(each.rfilename)]


def _with_converted(ref: HubRef, shelf: Shelf, token: str | None, should_stop: Callable[[], bool]) -> Shelf:
    """The Hub's own conversion when it knows the config asked for, else `shelf`."""
    try:
        converted = _converted(ref.repo_id, token, should_stop)
    except UserError:
        return shelf
    return converted if ref.config in converted.files else shelf


def _nothing_readable(repo_id: str) -> UserError:
    remedy = f"Its page, https://huggingface.co/datasets/{repo_id}, says how it is made; download it yourself and import the file."
    return UserError(f"{repo_id} has no file that can be read here ({', '.join(SUFFIXES)}).", f"dataset {repo_id}", remedy)


def _info(repo_id: str, revision: str | None, token: str | None, should_stop: Callable[[], bool]) -> Any:
    return patiently(
        lambda: api(token).dataset_info(repo_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S),
        lambda error: _explain(error, repo_id, revision),
        should_stop,
    )


def _download(repo_id: str, file: HubFile, commit: str, folder: Path, token: str | None, count: _Count) -> Path:
    def get() -> str:
        return api(token).hf_hub_download(
            repo_id, file.path, repo_type="dataset", revision=commit, local_dir=folder, tqdm_class=count.bar_class()
        )

    path = Path(patiently(get, lambda error: _explain(error, repo_id, commit), count.should_stop))
    count.finish(file)
    return path


class _Count:
    """Adds up what is downloaded of several files."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None], should_stop: Callable[[], bool]) -> None:
        self.should_stop = should_stop
        self._total, self._on_progress = total, on_progress
        self._before = self._of_file = 0  # bytes of the files that are there, and of the one that is coming

    def bar_class(self) -> Any:
        """A silent progress bar that reports here, for the client to call."""
        from huggingface_hub.utils import tqdm

        count = self

        class Bar(tqdm):  # type: ignore[misc] # untyped
            monitor_interval = 0  # no thread of its own

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "disable": True})
                count.hear(int(kwargs.get("initial") or 0), is_new=True)

            def update(self, n: float | None = 1) -> None:
                count.hear(int(n or 0))

        return Bar

    def hear(self, num_bytes: int, is_new: bool = False) -> None:
        if self.should_stop():
            raise Stopped
        self._of_file = num_bytes if is_new else self._of_file + num_bytes
        self._on_progress(min(self._before + self._of_file, self._total), self._total)

    def finish(self, file: HubFile) -> None:
        self._before, self._of_file = self._before + file.size_bytes, 0
        self._on_progress(self._before, self._total)


def _explain(error: BaseException, repo_id: str, revision: str | None) -> UserError:
    """What went wrong, for a person, with what helps."""
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    where, page = f"dataset {repo_id}", f"https://huggingface.co/datasets/{repo_id}"
    code = status(error)
    match error:
        case OfflineModeIsEnabled():
            return UserError("The Hub is switched off here (HF_HUB_OFFLINE).", where, "Unset HF_HUB_OFFLINE, or import a file.", "NET")
        case GatedRepoError():
            return UserError(
                f"{repo_id} is gated and this login may not read it.",
                where,
                f"Accept its terms on {page}, then try again logged in.",
                "GATED",
            )
        case RevisionNotFoundError():
            return UserError(
                f"{repo_id} has no revision {revision!r}.", where, "Leave the revision empty, or give a branch, tag or commit.", "REVISION"
            )
        case RepositoryNotFoundError():
            remedy = "Check the spelling; a private dataset needs a login that may read it."
            return UserError(f"There is no dataset {repo_id!r} on the Hub, or it is private.", where, remedy, "MISSING")
        case DisabledRepoError():
            return UserError(f"The Hub has disabled {repo_id}.", where, "Take another dataset.", "MISSING")
        case _ if code == 401:
            return UserError("The Hub does not accept this login.", where, "Log in again: its token has expired or was withdrawn.", "LOGIN")
        case _ if code == 403:
            return UserError(
                f"This login may not read {repo_id}.", where, "Give the token read rights, or ask the dataset's owner.", "GATED"
            )
        case _ if code == 404:
            return UserError(f"A file of {repo_id} is gone.", where, "Try again; if it stays gone, choose another revision.", "MISSING")
        case _ if code == 429:
            return UserError(
                "The Hub says that it is asked too often.", where, "Wait a few minutes, then try again; logged in, more is allowed.", "NET"
            )
        case _ if code >= 500:
            return UserError(
                f"The Hub has a fault of its own (HTTP {code}).", where, "Try again later; https://status.huggingface.co knows.", "NET"
            )
        case _:
            return UserError(
                f"{repo_id} could not be fetched from the Hub.", where, "Check the network, then try again; or import a file.", "NET"
            )

"""How the data files of a Hub repository make up configs and splits: by what its card says, else by the names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from core.data.origin import HubRef
from core.errors import UserError

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")  # where a split is there in several, the first counts
NOT_DATA = frozenset(("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json", "package.json"))
SPLIT_WORDS = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
NEUTRAL_FOLDERS = frozenset(("data", "dataset", "datasets"))
SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]{8,})?$|(?:^|[-_.])\d+$")


class HubFile(NamedTuple):
    path: str  # in the repository
    size_bytes: int


Files = dict[str, dict[str, tuple[HubFile, ...]]]  # for each config and split its files, all of one kind and in order


def is_data(path: str) -> bool:
    parts = PurePosixPath(path)
    hidden = any(part.startswith(".") for part in parts.parts) or ".." in parts.parts
    return parts.suffix.lower() in SUFFIXES and parts.name not in NOT_DATA and not hidden


def declared(configs: Any, files: list[HubFile]) -> Files:
    """What a dataset card says under ``configs``; empty when it says nothing, or nothing that is there."""
    shelf: Files = {}
    for config in configs if isinstance(configs, list) else []:
        if not isinstance(config, dict):
            continue
        for split, patterns in _patterns(config.get("data_files"), str(config.get("data_dir") or "")):
            found = [file for file in files if any(pattern.fullmatch(file.path) for pattern in patterns)]
            if found:
                shelf.setdefault(str(config.get("config_name", "default")), {})[split] = _one_kind(found)
    return shelf


def _patterns(data_files: Any, folder: str) -> Iterable[tuple[str, list[re.Pattern[str]]]]:
    """(split, patterns) of a config's ``data_files``: a path, a list of paths, or a list of splits with theirs."""
    if data_files is None:
        return [("train", [_glob(f"{folder}/**")])] if folder else []
    entries = data_files if isinstance(data_files, list) else [data_files]
    splits: dict[str, list[re.Pattern[str]]] = {}
    for entry in entries:
        split, given = (entry.get("split", "train"), entry.get("path", [])) if isinstance(entry, dict) else ("train", entry)
        for path in given if isinstance(given, list) else [given]:
            splits.setdefault(str(split), []).append(_glob(f"{folder}/{path}" if folder else str(path)))
    return splits.items()


def _glob(path: str) -> re.Pattern[str]:
    """The paths that a pattern of a dataset card means."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", path.removeprefix("./"))
    meant = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(meant.get(part) or re.escape(part) for part in parts))


def arranged(files: list[HubFile]) -> Files:
    """Configs and splits by the names of files and folders: ``en/train-00000-of-00002.parquet`` is config en, split train."""
    return _grouped((*_place(file.path), file) for file in sorted(files))


def of_conversion(files: list[HubFile]) -> Files:
    """Configs and splits of the Hub's own conversion: ``CONFIG/SPLIT/0000.parquet``."""
    parts = [(PurePosixPath(file.path).parts, file) for file in files]
    return _grouped((where[0], where[1].removeprefix("partial-"), file) for where, file in parts if len(where) == 3)


def _grouped(placed: Iterable[tuple[str, str, HubFile]]) -> Files:
    groups: dict[str, dict[str, list[HubFile]]] = {}
    for config, split, file in placed:
        groups.setdefault(config, {}).setdefault(split, []).append(file)
    return {config: {split: _one_kind(found) for split, found in splits.items()} for config, splits in groups.items()}


def _place(path: str) -> tuple[str, str]:
    """The config and the split that a file belongs to, by its path."""
    *folders, name = PurePosixPath(path).with_suffix("").parts
    name = SHARD.sub("", name)
    split, kept = "", list[str]()
    for folder in folders:
        word = SPLIT_WORDS.get(folder.removeprefix("partial-").lower())
        if word:
            split = word
        elif folder.lower() not in NEUTRAL_FOLDERS:
            kept.append(folder)
    words = re.split(r"([-_. ])", name)
    if found := next((word for word in words if word.lower() in SPLIT_WORDS), None):
        split = SPLIT_WORDS[found.lower()]
        words.remove(found)
    rest = re.sub(r"([-_. ])[-_. ]+", r"\1", "".join(words)).strip("-_. ")
    return "/".join([*kept, rest] if rest and rest.lower() not in NEUTRAL_FOLDERS else kept) or "default", split or "train"


def _one_kind(files: list[HubFile]) -> tuple[HubFile, ...]:
    """The files of the kind that is preferred, in order; the same rows often lie there in several."""
    suffixes = {PurePosixPath(file.path).suffix.lower() for file in files}
    chosen = next(suffix for suffix in SUFFIXES if suffix in suffixes)
    return tuple(sorted(file for file in files if PurePosixPath(file.path).suffix.lower() == chosen))


def choose(ref: HubRef, files: Files) -> tuple[str, str]:
    """The config and the split that `ref` means; UserError with those there are when it means none."""
    where = f"dataset {ref.repo_id}"
    config = ref.config or ("default" if "default" in files else next(iter(files)) if len(files) == 1 else None)
    names = ", ".join(sorted(files))
    if config is None:
        raise UserError(f"{ref.repo_id} has {len(files)} configs.", where, f"Choose one of: {names}.", code="CONFIG")
    if config not in files:
        raise UserError(f"{ref.repo_id} has no config {config!r}.", where, f"Choose one of: {names}.", code="CONFIG")
    splits = files[config]
    split = ref.split or ("train" if "train" in splits else next(iter(splits)) if len(splits) == 1 else None)
    names = ", ".join(sorted(splits))
    if split is None:
        raise UserError(f"{ref.repo_id} has {len(splits)} splits.", where, f"Choose one of: {names}.", code="SPLIT")
    if split not in splits:
        raise UserError(f"{ref.repo_id} has no split {split!r}.", where, f"Choose one of: {names}.", code="SPLIT")
    return config, split

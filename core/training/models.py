"""Base models: from a name a person gives to a local folder that is safe to load."""

from __future__ import annotations

import ast
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.hubclient import api, patiently
from core.training.architecture import read_config
from core.training.failures import is_disk_full

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What is fetched of a Hub model: never pickles, never code (reliability rules R15, R16).
FETCHED = [
    "*.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "tokenizer.model",
    "*.jinja",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "Notice*",
    "USE_POLICY*",
    "*.md",
    "merges.txt",
    "vocab.txt",
]
MOST_FOUND = 10  # models of one search
CAUSAL = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"
TOKENIZER_FILES = ["tokenizer*", "special_tokens_map.json", "added_tokens.json", "*.jinja", "config.json"]


@dataclass(frozen=True)
class ModelRef:
    """A base model on this disk. `revision` is the commit of a Hub model, else None."""

    name: str
    path: Path
    revision: str | None = None


def resolve(name: str, revision: str | None = None, token: str | None = None) -> ModelRef:
    """The base model `name`: ``starter``, a local folder, an artifact id, or a Hub id (fetched with the caller's token).

    Raises:
        UserError: no such model, no access, no network, or a folder that needs its own code or pickles to load.
    """
    if name == "starter":
        return ModelRef("starter", check_folder(paths.STARTER))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelRef(name, check_folder(folder.absolute()))
    if HUB_ID.fullmatch(name):
        return fetch(name, revision, token)
    from core.export import artifacts

    artifact = artifacts.resolve(name)
    if artifact.kind != "merged":
        raise UserError(f"{name} is a {artifact.kind} artifact.", "base_model", "Training starts from a merged model or a base model.")
    return ModelRef(name, check_folder(artifact.folder))


def search(words: str, token: str | None = None) -> list[str]:
    """Ids of text-generation models on the Hub whose names hold `words`, the most downloaded first.

    Raises:
        UserError: the Hub does not answer (code NET).
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        found = api(token).list_models(search=words, pipeline_tag="text-generation", sort="downloads", limit=MOST_FOUND)
        return [str(model.id) for model in found]
    except (OfflineModeIsEnabled, HfHubHTTPError, HTTPError, OSError, RuntimeError):
        remedy = "A model's id can be typed all the same; starter and local models need no network."
        raise UserError("The Hub cannot be searched now.", "Base model", remedy, code="NET") from None


def outline(name: str, revision: str | None = None, token: str | None = None) -> ModelRef:
    """The base model as for `resolve`, but of a Hub model only configuration and tokenizer, pinned to its commit: the weights stay there."""
    if not HUB_ID.fullmatch(name) or Path(name).expanduser().is_dir():
        return resolve(name, revision, token)
    folder = snapshot(name, revision, token, TOKENIZER_FILES)
    return ModelRef(name, _check_config(folder), revision=folder.name)


def tokenizer_folder(name: str, token: str | None = None) -> Path:
    """The folder with the tokenizer and the template of a base model, named as for `resolve`; of a Hub model no weights are fetched."""
    if HUB_ID.fullmatch(name) and not Path(name).expanduser().is_dir():
        return snapshot(name, None, token, TOKENIZER_FILES)
    return resolve(name, token=token).path


def tokenizer_here(name: str) -> Path | None:
    """As `tokenizer_folder`, without asking the Hub; None where nobody has fetched it yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if not HUB_ID.fullmatch(name) or Path(name).expanduser().is_dir():
        return tokenizer_folder(name)
    try:
        return Path(snapshot_download(name, allow_patterns=TOKENIZER_FILES, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def here(name: str, revision: str | None = None) -> Path | None:
    """The folder of the Hub model `name`, without asking the Hub; None where it has not been fetched, or not as a whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=FETCHED, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if is_whole(folder) else None


def fetch(name: str, revision: str | None, token: str | None) -> ModelRef:
    """The model of the Hub with this id, whatever lies on this disk; raises as `resolve`."""
    folder = snapshot(name, revision, token, FETCHED)
    return ModelRef(name, check_folder(folder), revision=folder.name)


def snapshot(name: str, revision: str | None, token: str | None, patterns: list[str]) -> Path:
    """The folder with the files of a Hub repository that fit `patterns`, unchecked; raises UserError as `resolve`."""
    from huggingface_hub import constants, snapshot_download

    def fetch() -> Path:
        try:
            return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
        except (OSError, RuntimeError) as error:
            if not is_disk_full(error):
                raise
            remedy = "Free some space there, or set HF_HOME to a folder on a larger disk, and try again: what has arrived is kept."
            problem = f"{name} could not be fetched: the disk of {constants.HF_HUB_CACHE} is full."
            raise UserError(problem, f"base_model {name}", remedy, code="DISK") from None

    return patiently(fetch, lambda error: _not_fetched(error, name, revision))


def _not_fetched(error: BaseException, name: str, revision: str | None) -> UserError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"base_model {name}"
    match error:
        case GatedRepoError():
            remedy = f"Accept its terms on https://huggingface.co/{name}, then log in with `hf auth login` and try again."
            return UserError(f"{name} is gated and this login may not read it.", where, remedy)
        case RevisionNotFoundError():
            return UserError(f"{name} has no revision {revision!r}.", where, "Leave the revision empty, or give a branch, tag or commit.")
        case RepositoryNotFoundError():
            remedy = "Check the spelling; a private model needs `hf auth login`."
            return UserError(f"There is no model {name!r} on the Hub.", where, remedy)
        case ValueError():  # a file named out of its folder
            return UserError(f"{name} is refused: {error}", where, "Take another model.")
        case _:
            remedy = "Check the network; without one, take base_model=starter or a local folder."
            return UserError(f"{name} could not be fetched from the Hub.", where, remedy, code="NET")


def is_whole(folder: Path) -> bool:
    """Whether a model's configuration and weights are all there; what the Hub's cache had may be gone, and links to it lead nowhere."""
    weights = list(folder.glob("*.safetensors"))
    return (folder / "config.json").is_file() and bool(weights) and all(file.is_file() for file in weights)


def check_folder(folder: Path) -> Path:
    """`folder`, when it can be loaded without running anybody's code.

    Raises:
        UserError: no config, its own code (auto_map), an attention kernel from elsewhere, or no safetensors weights.
    """
    where = paths.model_name(_check_config(folder))
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"{where} has no safetensors weights.",
            where,
            "Save it again with transformers, which writes safetensors; pickles are not loaded.",
        )
    return folder


def _check_config(folder: Path) -> Path:
    where = paths.model_name(folder)
    config = read_config(folder)
    if "auto_map" in config:
        raise UserError(
            f"{where} needs code of its own to load, which is never run here.", where, "Take a model whose architecture is in transformers."
        )
    _check_class(config, where)
    if any("/" in str(value) for key, value in config.items() if key.startswith(("_attn_implementation", "attn_implementation"))):
        raise UserError(f"{where} asks for an attention kernel from elsewhere.", where, "Remove attn_implementation from its config.json.")
    return folder


def _check_class(config: dict[str, Any], where: str) -> None:
    """Refuse a model that transformers does not know as a language model: it would have to bring its own code."""
    known, classes = transformers_knows()
    kind, named = config.get("model_type"), config.get("architectures") or []
    if kind not in known:
        raise UserError(
            f"{where} is of the type {str(kind)[:80]!r}, which transformers does not know as a language model.",
            where,
            "Take a model with one of its own architectures, for example llama, mistral or qwen3.",
        )
    foreign = [name for name in named if name not in classes] if isinstance(named, list) else [named]
    if foreign:
        raise UserError(
            f"{where} names the class {str(foreign[0])[:80]!r}, which is not in transformers.", where, "Take a model whose class is in it."
        )


@cache
def transformers_knows() -> tuple[frozenset[str], frozenset[str]]:
    """The types of its language models, and all words of its table of model classes; read from the table's file, because importing takes seconds."""
    spec = importlib.util.find_spec("transformers")
    assert spec and spec.origin
    tree = ast.parse((Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py").read_text(encoding="utf-8"))
    words = frozenset(node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == CAUSAL and isinstance(node.value, ast.Call):
            return frozenset(dict(ast.literal_eval(node.value.args[0]))), words
    raise AssertionError(f"transformers has no {CAUSAL} any more")

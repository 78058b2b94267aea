"""What a GGUF file says about itself besides its weights, and what it is called, by the GGUF naming convention.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (read 2026-11-23): ``<BaseName>[-<SizeLabel>][-<FineTune>][-<Version>]-<Encoding>``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from core import paths
from core.data.dataset import open_dataset
from core.errors import UserError
from core.export.artifacts import Artifact
from core.export.levels import Level

SIZE = re.compile(r"(?:^|[-_ .])(?:\d+x)?\d+(?:[._]\d+)?[KMBT](?=$|[-_ .])", re.IGNORECASE)


def file_name(name: str, known: Level, num_parameters: int = 0) -> str:
    """``Vicuna-7B-v1.5-Q4_K_M.gguf``; a name without a size gets the label of `num_parameters`: ``Starter-5.1M-Q4_0.gguf``."""
    safe = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "Model"
    if num_parameters and not SIZE.search(safe):
        safe += f"-{size_label(num_parameters)}"
    return f"{safe}-{known.encoding}.gguf"


def size_label(num_parameters: int) -> str:
    """``5.1M``, ``7.2B``, ``13B``: at least two digits, as gguf-py's `model_weight_count_rounded_notation` writes it."""
    for factor, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if num_parameters > factor or suffix == "K":
            scaled = num_parameters / factor
            return f"{scaled:.{max(0, 2 - len(str(round(scaled)).lstrip('0')))}f}{suffix}"
    raise AssertionError


def gguf_metadata(model: Artifact) -> dict[str, Any]:
    """The metadata that the converter cannot find by itself: who quantised it, what it was made from, and under which licence."""
    known: dict[str, Any] = {"general.quantized_by": "Transmute"}
    if model.base_model:
        known["general.base_models"] = [_named(model.base_model)]
    if dataset := dataset_name(model):
        known["general.datasets"] = [_named(dataset, "https://huggingface.co/datasets")]
    if licence := license_of(model):
        known["general.license"] = licence
    return known


def _named(reference: str, hub: str = "https://huggingface.co") -> dict[str, str]:
    """A Hub id with its address; of a local path only the last part, because the rest is nobody's business."""
    organisation, _, name = reference.rpartition("/")
    entry = {"name": name.replace("-", " ").replace("_", " ")}
    if organisation and not reference.startswith(("/", ".", "~")) and reference.count("/") == 1:
        entry |= {"organization": organisation, "repo_url": f"{hub}/{reference}"}
    return entry


def dataset_name(model: Artifact) -> str:
    """The training data's id on the Hub, or else what it is called here, which is no address; empty when this machine does not know it."""
    try:
        known = open_dataset(model.dataset_id or "").manifest
    except (UserError, OSError):
        return ""
    return known.origin.hub.repo_id if known.origin.hub else known.name.replace("/", " ")


def license_of(artifact: Artifact) -> str:
    """The licence of the base model, from the list of known models or from the base's own card; empty when neither says."""
    table = tomllib.loads((paths.SPACES / "models.toml").read_text(encoding="utf-8"))
    for model in table["models"]:
        if model["id"] == artifact.base_model:
            return model["license"]
    return said_by_base(artifact, "license")


def said_by_base(artifact: Artifact, key: str) -> str:
    """What the front matter of the base's own card says under `key`; empty when there is none, or no text."""
    folders = [Path(artifact.base_path)] if artifact.base_path else []
    folders += [artifact.folder] if artifact.folder != Path() else []
    card = next((folder / "README.md" for folder in folders if (folder / "README.md").is_file()), None)
    if not card:
        return ""
    front = re.match(r"---\n(.*?)\n---\n", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        found = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return ""
    named = found.get(key) if isinstance(found, dict) else None
    return named if isinstance(named, str) else ""

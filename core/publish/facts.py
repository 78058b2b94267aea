"""What a model card and the published provenance are made of: figures of the run, without a single path of this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import core
from core import events, paths
from core.export.about import license_of
from core.export.artifacts import Artifact

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
STARTER_LANGUAGES = ("en", "zh")


@dataclass(frozen=True)
class CardFacts:
    """Everything that the artifacts' own manifests do not say. Whatever is unknown stays empty and is left out of the card."""

    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    data: dict[str, Any] = field(default_factory=dict[str, Any])  # name, num_rows, num_valid
    training: dict[str, Any] = field(default_factory=dict[str, Any])  # the run's facts: eval losses, tokens, parameters
    license: str = ""
    languages: tuple[str, ...] = ()
    template: str = ""  # the chat template, word for word
    merged_repo_id: str = ""  # where the unquantised model lies on the Hub, for GGUF files


def facts_of(artifacts: Sequence[Artifact]) -> CardFacts:
    """The facts about the run and the base model of these artifacts, as far as this machine knows them."""
    first = artifacts[0]
    run_dir = paths.runs_dir() / (first.run_id or "no-run")
    recipe_file, data_file = run_dir / "recipe.yaml", run_dir / "dataset.json"
    recipe: dict[str, Any] = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) if recipe_file.is_file() else {}
    data: dict[str, Any] = paths.read_json(data_file).get("train", {}) if data_file.is_file() else {}
    return CardFacts(
        recipe=cleaned(recipe),
        data=cleaned(data),
        training=cleaned(events.fold(events.read(run_dir)).facts),
        license=license_of(first),
        languages=STARTER_LANGUAGES if first.base_model == "starter" else (),
        template=template_of(first),
    )


def provenance(artifacts: Sequence[Artifact], facts: CardFacts) -> dict[str, Any]:
    """The published form of the manifests: hashes, figures and proofs; names instead of folders."""
    kept = {"kind", "level", "name", "base_model", "base_revision", "dataset_sha256", "recipe_sha256", "files", "measured", "proofs"}
    return {
        "transmute": core.__version__,
        "artifacts": [cleaned(artifact.model_dump(mode="json", include=kept)) for artifact in artifacts],
        "recipe": facts.recipe,
        "training": facts.training,
    }


def cleaned(value: Any) -> Any:
    """`value` with every absolute path shortened to its last name."""
    if isinstance(value, dict):
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(item) for item in value]
    if isinstance(value, str) and is_local_path(value):
        return Path(value).name
    return value


def is_local_path(text: str) -> bool:
    return text.startswith(("/", "~", "./", "../")) or re.match(r"[A-Za-z]:[\\/]", text) is not None or "\\" in text


def hub_id(name: str | None) -> str:
    """`name` when it is the id of a Hub repository, else empty."""
    return name if name and HUB_ID.fullmatch(name) and not is_local_path(name) and not Path(name).exists() else ""


def template_of(artifact: Artifact) -> str:
    """The chat template that travels with the artifact, word for word; empty when there is none."""
    if artifact.kind == "gguf":
        from core.export.header import gguf_template

        return gguf_template(artifact.gguf_path) or ""
    file = artifact.folder / "chat_template.jinja"
    return file.read_text(encoding="utf-8") if file.is_file() else ""

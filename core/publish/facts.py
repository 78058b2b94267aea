"""What a model card and the published provenance are made of: figures of the run, without a single path of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import core
from core import events, paths
from core.data.dataset import open_dataset
from core.data.statistics import VERSION, text_statistics
from core.export.about import license_of, said_by_base
from core.export.artifacts import Artifact, of_run
from core.publish.curve import curve
from core.publish.ledger import home_of

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
STARTER_LANGUAGES = ("en", "zh")
RARE = 0.05  # a script of fewer conversations says nothing about the whole
LANGUAGE_OF = {
    "Kana": "ja", "Hangul": "ko", "Han": "zh", "Greek": "el", "Hebrew": "he", "Armenian": "hy", "Georgian": "ka", "Thai": "th", "Tamil": "ta",
    "Telugu": "te", "Kannada": "kn", "Malayalam": "ml", "Gujarati": "gu", "Gurmukhi": "pa",
}  # fmt: skip


@dataclass(frozen=True)
class CardFacts:
    """Everything that the artifacts' own manifests do not say. Whatever is unknown stays empty and is left out of the card."""

    recipe: dict[str, Any] = field(default_factory=dict[str, Any])
    data: dict[str, Any] = field(default_factory=dict[str, Any])  # name, num_rows, num_valid
    training: dict[str, Any] = field(default_factory=dict[str, Any])  # the run's facts: eval losses, tokens, parameters
    license: str = ""
    license_name: str = ""  # of one that the Hub has no identifier for
    license_link: str = ""
    languages: tuple[str, ...] = ()
    template: str = ""  # the chat template, word for word
    merged_repo_id: str = ""  # where the unquantised model lies on the Hub, when it was published from here
    dataset_repo_id: str = ""  # and the data
    curve: str = ""  # the loss by step, as SVG
    is_trained: bool = True  # not so for a model that was taken in as it is


def facts_of(artifacts: Sequence[Artifact]) -> CardFacts:
    """The facts about the run and the base model of these artifacts, as far as this machine knows them."""
    first = artifacts[0]
    run_dir = paths.runs_dir() / (first.run_id or "no-run")
    recipe_file, data_file = run_dir / "recipe.yaml", run_dir / "dataset.json"
    recipe: dict[str, Any] = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) if recipe_file.is_file() else {}
    data: dict[str, Any] = paths.read_json(data_file).get("train", {}) if data_file.is_file() else {}
    run = events.fold(events.read(run_dir))
    if run.is_taken:
        return CardFacts(**_license(first), template=template_of(first), is_trained=False)
    return CardFacts(
        **_license(first),
        recipe=cleaned(recipe),
        data=cleaned(data),
        training=cleaned(run.facts),
        languages=STARTER_LANGUAGES if first.base_model == "starter" else _languages(first.dataset_id),
        template=template_of(first),
        merged_repo_id=_home_of_merged(first, run_dir),
        dataset_repo_id=home_of(first.dataset_id).removeprefix("datasets/"),
        curve=curve(run.losses, run.evals),
    )


def _license(artifact: Artifact) -> dict[str, Any]:
    """The base's licence; one without an identifier of the Hub has the name and the link that the base's card gives it."""
    license = license_of(artifact)
    if license != "other":
        return {"license": license}
    link, base = said_by_base(artifact, "license_link"), hub_id(artifact.base_model)
    if link and base and "://" not in link:  # a file of the base's repository
        link = f"https://huggingface.co/{base}/blob/main/{link}"
    return {"license": license, "license_name": said_by_base(artifact, "license_name"), "license_link": link}


def _home_of_merged(artifact: Artifact, run_dir: Path) -> str:
    """Where the model that a GGUF file was made from was published; empty for other artifacts."""
    if artifact.kind != "gguf":
        return ""
    merged = [each.id for each in of_run(run_dir) if each.kind == "merged"]
    return next((home for home in map(home_of, [artifact.parent_id, *merged]) if home), "")


def languages_of(conversations_by_script: Mapping[str, int]) -> tuple[str, ...]:
    """The languages of conversations, where the script says which: Latin letters do not. Empty as soon as part of them is unknown."""
    total = sum(conversations_by_script.values())
    common = [script for script, count in conversations_by_script.items() if count >= RARE * total]
    return tuple(LANGUAGE_OF[script] for script in common) if all(script in LANGUAGE_OF for script in common) else ()


def _languages(dataset_id: str | None) -> tuple[str, ...]:
    """The languages of the data, when its statistics were made already."""
    if not dataset_id or not (paths.datasets_dir() / dataset_id / f"statistics-{VERSION}.json").is_file():
        return ()
    return languages_of(text_statistics(open_dataset(dataset_id)).conversations_by_script)


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

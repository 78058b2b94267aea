"""The model card: front matter for the Hub, and a body made of measured facts only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core import units
from core.export.artifacts import Artifact
from core.export.levels import GUIDED
from core.paths import SPACES
from core.publish.facts import CardFacts, hub_id

LIBRARIES = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
RELATIONS = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
METHODS = {
    "qlora": "QLoRA: a low-rank adapter trained on a base held in 4 bit (nf4)",
    "lora": "LoRA: a low-rank adapter on an unquantised base",
    "sft": "supervised fine-tuning of the last decoder layers only",
    "fft": "full fine-tuning of every weight",
}
# Knobs shown in the card, in this order, with the words for people; the others are in transmute.json.
SHOWN_KNOBS = (
    "lora_r lora_alpha lora_dropout target_modules trainable_layers learning_rate lr_scheduler_type warmup_steps weight_decay optim "
    "num_train_epochs max_steps micro_batch_size gradient_accumulation_steps max_length packing loss_on seed dtype"
).split()
ADAPTER_KNOBS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")


def model_card(artifacts: Sequence[Artifact], repo_id: str, facts: CardFacts) -> str:
    """README.md of the repository `repo_id` that holds `artifacts`."""
    template = environment().from_string((SPACES / "model_card.md.j2").read_text(encoding="utf-8"))
    first = artifacts[0]
    body = template.render(
        repo_id=repo_id,
        name=first.name,
        kind=first.kind,
        base_model=base_name(first),
        base_revision=first.base_revision,
        method=METHODS.get(facts.recipe.get("method", ""), ""),
        knobs=shown_knobs(facts.recipe),
        data=facts.data,
        training=facts.training,
        levels=level_rows(artifacts),
        run_level=level_to_run(artifacts),
        proofs=proof_sentences(first.proofs),
        template=facts.template,
        base_hub_id=hub_id(first.base_model),
        merged_repo_id=facts.merged_repo_id,
        has_curve=bool(facts.curve),
        is_trained=facts.is_trained,
    )
    return f"---\n{front_matter(artifacts, facts)}\n---\n\n{body}"


def environment() -> Any:
    """Jinja as the cards are written in it: what is not known to a template is an error."""
    from jinja2 import Environment, StrictUndefined

    made = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701 (Markdown)
    made.filters |= {"cell": cell, "size": units.size, "fenced": fenced}
    return made


def front_matter(artifacts: Sequence[Artifact], facts: CardFacts) -> str:
    """The YAML block, through huggingface_hub's own class; what is unknown is left out."""
    from huggingface_hub import ModelCardData

    first = artifacts[0]
    base = (facts.merged_repo_id if first.kind == "gguf" else "") or hub_id(first.base_model)
    dataset = facts.dataset_repo_id or hub_id(str(facts.data.get("name") or ""))
    method = facts.recipe.get("method")
    data = ModelCardData(
        base_model=base or None,
        datasets=[dataset] if dataset else None,
        language=list(facts.languages) or None,
        library_name=LIBRARIES[first.kind],
        license=facts.license or None,
        license_name=facts.license_name or None,
        license_link=facts.license_link or None,
        pipeline_tag="text-generation",
        tags=["transmute", "conversational", *([method] if method else [])],
        base_model_relation=RELATIONS[first.kind] if base else None,
    )
    return data.to_yaml()


def base_name(artifact: Artifact) -> str:
    """The base model as a reader knows it: its Hub id, or what it is called; never a folder."""
    if artifact.base_model == "starter":
        return "Transmute's embedded starter model"
    return hub_id(artifact.base_model) or (artifact.base_model or "").rstrip("/").rpartition("/")[2]


def shown_knobs(recipe: dict[str, Any]) -> list[tuple[str, Any]]:
    """The recipe's rows for the card: only what its method uses."""
    method = recipe.get("method")
    hidden: set[str] = set() if method in ("qlora", "lora", None) else set(ADAPTER_KNOBS)
    if method != "sft":
        hidden.add("trainable_layers")
    if not recipe.get("max_steps"):
        hidden.add("max_steps")
    return [(name, recipe[name]) for name in SHOWN_KNOBS if name in recipe and name not in hidden]


def level_rows(artifacts: Sequence[Artifact]) -> list[dict[str, str]]:
    """One row per GGUF file, none for other artifacts; a cell is empty where nothing was measured."""
    formats = {"bits_per_weight": ".2f", "perplexity": ".3f", "kl_mean": ".5f", "top1_agreement": ".1%"}
    rows: list[dict[str, str]] = []
    for artifact in (artifact for artifact in artifacts if artifact.kind == "gguf"):
        known = {name: artifact.measured.get(name) for name in formats}
        cells = {name: "" if known[name] is None else format(known[name], form) for name, form in formats.items()}
        rows.append({"file": artifact.gguf_path.name, "level": artifact.level or "", "size": units.size(artifact.size_bytes)} | cells)
    return rows


def level_to_run(artifacts: Sequence[Artifact]) -> str:
    """The level that the commands of the card name: Q4_K_M where there is one, else the smallest file."""
    levels = {artifact.level.removesuffix(GUIDED): artifact.size_bytes for artifact in artifacts if artifact.level}
    return "Q4_K_M" if "Q4_K_M" in levels else min(levels, key=lambda level: levels[level], default="")


VERDICTS = {True: "Every proof holds.", False: "A proof does not hold.", None: "Not proved: there was nothing to compare."}


def proof_sentences(proofs: dict[str, Any]) -> list[str]:
    """The proofs as plain sentences; empty when nothing was proved."""
    said: list[str] = []
    if "base_identical" in proofs:
        said.append(f"The base is {'' if proofs['base_identical'] else 'NOT '}the one that the adapter was trained on.")
    if "template_identical" in proofs:
        said.append(f"The chat template in the GGUF file is {'' if proofs['template_identical'] else 'NOT '}the one it was trained with.")
    if "tokens_identical" in proofs:
        said.append(f"llama.cpp's token ids are {'' if proofs['tokens_identical'] else 'NOT '}those it was trained on.")
    if "merge_kl" in proofs:
        said.append(f"Merged model against adapter on the unquantised base: {_distance(proofs, 'merge')}.")
    if "gguf_kl" in proofs:
        said.append(f"f16 GGUF file against the merged model: {_distance(proofs, 'gguf')}.")
    if levels := proofs.get("levels"):
        said.append(_levels(levels))
    if "trained_to_merged_kl" in proofs:
        said.append(
            f"Trained on a 4-bit base and merged into an unquantised one, which changed the model by: {_distance(proofs, 'trained_to_merged')}."
        )
    if "error" in proofs:
        said.append(f"The proofs could not be made ({proofs['error']}).")
    if "passed" in proofs:
        said.append(VERDICTS[proofs["passed"]])
    return said


def _levels(levels: dict[str, dict[str, Any]]) -> str:
    """What the files of the levels say of template and tokens: ``{"q4_0": {"template_identical", "tokens_identical"}}``."""
    if wrong := [name for name, own in levels.items() if not (own.get("template_identical") and own.get("tokens_identical"))]:
        return f"Chat template or token ids are NOT those of training at {', '.join(wrong)}."
    count = f"the other level, {next(iter(levels))}" if len(levels) == 1 else f"each of the {len(levels)} other levels"
    return f"Chat template and token ids are those of training at {count}."


def _distance(proofs: dict[str, Any], name: str) -> str:
    words = f"KL divergence {proofs[f'{name}_kl']:.1e} nats"
    top1 = proofs.get(f"{name}_top1")
    return words if top1 is None else f"{words}, the same most likely token {top1:.1%} of the time"


def cell(value: Any) -> str:
    """A value inside a Markdown table: one line, no column breaks, no HTML."""
    text = ", ".join(str(item) for item in value) if isinstance(value, list | tuple) else str(value)
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def fenced(text: str, language: str = "") -> str:
    """`text` as a code block that no content can close early."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"

"""The card says what was measured and nothing else. Golden files: UPDATE_GOLDEN=1 writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from core.export.artifacts import Artifact, FileEntry, Kind
from core.publish.card import cell, fenced, model_card, shown_knobs
from core.publish.facts import CardFacts, hub_id, license_of

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE = "{%- for message in messages %}{{- message['content'] }}{%- endfor %}\n```\n"
FACTS = CardFacts(
    recipe={
        "method": "qlora",
        "lora_r": 16,
        "lora_alpha": 32,
        "target_modules": "all-linear",
        "learning_rate": 2e-4,
        "seed": 42,
        "max_steps": 0,
    },
    data={"name": "identity.json", "num_rows": 300, "num_valid": 298},
    training={
        "row_tokens": 40_000,
        "row_loss_tokens": 12_345,
        "trainable_params": 98_304,
        "total_params": 4_700_000,
        "eval_loss_before": 3.21,
        "eval_loss_after": 0.1234,
        "device": "cpu",
    },
    license="llama2",
    languages=("en",),
    template=TEMPLATE,
)
PROOFS = {
    "template_identical": True,
    "tokens_identical": True,
    "merge_kl": 2.1e-7,
    "merge_top1": 0.9991,
    "gguf_kl": 3e-6,
    "gguf_top1": 1.0,
    "passed": True,
}


def artifact(kind: Kind, level: str | None = None, **measured: float | None) -> Artifact:
    name = f"Vicuna-7B-Mine-{level}.gguf" if kind == "gguf" else "model.safetensors"
    return Artifact(
        id=f"run-{kind}-{level}",
        kind=kind,
        level=level,
        name="Vicuna-7B-Mine",
        base_model="lmsys/vicuna-7b-v1.5",
        base_revision="3321f76e3f527bd14065daf69dad9344000a201d",
        files=(FileEntry(name=name, size_bytes=4_081_004_224, sha256=""),),
        measured=measured,
        proofs=PROOFS,
    )


CARDS = {
    "adapter": [artifact("adapter")],
    "merged": [artifact("merged")],
    "gguf": [
        artifact("gguf", "f16", bits_per_weight=16.0, perplexity=6.41, kl_mean=0.0, top1_agreement=1.0),
        artifact("gguf", "q4_0", bits_per_weight=4.5, perplexity=6.6123, kl_mean=0.0717, top1_agreement=0.912),
        artifact("gguf", "Q4_K_M", bits_per_weight=4.89, perplexity=None),
    ],
}


@pytest.mark.parametrize("kind", CARDS)
def test_a_card_is_its_golden_file(kind: str) -> None:
    card = model_card(CARDS[kind], "someone/Vicuna-7B-Mine", FACTS)
    if os.environ.get("UPDATE_GOLDEN"):
        (GOLDEN / f"{kind}.md").write_text(card, encoding="utf-8")
    assert card == (GOLDEN / f"{kind}.md").read_text(encoding="utf-8")


RELATIONS = [("adapter", "adapter", "peft"), ("merged", "finetune", "transformers"), ("gguf", "quantized", "gguf")]


@pytest.mark.parametrize(("kind", "relation", "library"), RELATIONS)
def test_the_front_matter_says_what_it_was_made_from(kind: str, relation: str, library: str) -> None:
    card = ModelCard(model_card(CARDS[kind], "someone/x", FACTS))
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("lmsys/vicuna-7b-v1.5", relation)
    assert (data["library_name"], data["license"], data["pipeline_tag"]) == (library, "llama2", "text-generation")


def test_a_card_of_unknown_facts_is_short_and_valid() -> None:
    bare = Artifact(id="x", kind="merged", name="Some | model\n<b>", files=(FileEntry(name="model.safetensors", size_bytes=1, sha256=""),))
    text = model_card([bare], "someone/x", CardFacts())
    front = yaml.safe_load(text.split("---\n")[1])
    assert "license" not in front
    assert "base_model" not in front
    assert "base_model_relation" not in front
    assert "None" not in text
    for absent in ("## Proofs", "## Recipe", "## Data and result", "## Files"):
        assert absent not in text


def test_the_starter_and_local_folders_are_never_named_as_hub_models(tmp_path: Path) -> None:
    assert (hub_id("starter"), hub_id(str(tmp_path)), hub_id(None), hub_id("lmsys/vicuna-7b-v1.5")) == ("", "", "", "lmsys/vicuna-7b-v1.5")
    text = model_card([artifact("merged").model_copy(update={"base_model": "starter"})], "someone/x", CardFacts())
    assert "base_model" not in text
    assert "embedded starter" in text


def test_the_licence_comes_from_the_base_model(tmp_path: Path) -> None:
    assert license_of(artifact("merged")) == "llama2"
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\nHello")
    other = artifact("merged").model_copy(update={"base_model": "a/b", "base_path": str(tmp_path)})
    assert license_of(other) == "mit"
    (tmp_path / "README.md").write_text("---\n: [\n---\n")
    assert license_of(other) == ""


def test_only_knobs_that_the_method_uses_are_shown() -> None:
    recipe = {"method": "sft", "lora_r": 8, "trainable_layers": 2, "max_steps": 7, "name": "x"}
    assert shown_knobs(recipe) == [("trainable_layers", 2), ("max_steps", 7)]
    assert shown_knobs(recipe | {"method": "lora", "max_steps": 0}) == [("lora_r", 8)]


def test_text_cannot_break_out_of_its_cell_or_fence() -> None:
    assert cell("a | b\nc <script>") == "a \\| b c &lt;script>"
    assert fenced("```\ninside") == "````\n```\ninside\n````"

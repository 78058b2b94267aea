"""Every model family learns by every method: layers are found by what they are, not by what Llama calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core import events
from core.errors import UserError
from core.export import artifacts
from core.export.merge_child import merge
from core.export.prove_child import prove
from core.running import runs
from core.training.presets import demo
from core.training.recipe import Recipe
from core.training.train import load_model, train
from tests.integration.families import FAMILIES, SHAPE, build

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("workspace"),
    pytest.mark.filterwarnings("default"),  # of the libraries: the trainer runs in this process here
]
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora", "use_rslora": True, "packing": True},
    "dora": {"method": "lora", "use_dora": True, "lora_r": 4},
    "qlora": {"method": "qlora"},
    "fft": {"method": "fft", "learning_rate": 1e-3},
    "sft": {"method": "sft", "trainable_layers": 1, "train_norms": True},
}
TARGETS = {"phi3": "qkv_proj,down_proj"}


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(request.param, tmp_path_factory.mktemp("models") / request.param)


def trained(base: Path, **knobs: Any) -> Path:
    quick = {"base_model": str(base), "max_steps": 3, "save_steps": 0, "levels": (), "micro_batch_size": 4, "learning_rate": 5e-3}
    run_dir = runs.folder(runs.create(demo().model_copy(update=quick | knobs)))
    train(run_dir)
    return run_dir


@pytest.mark.parametrize("method", METHODS)
def test_a_family_learns_by_the_method(base: Path, method: str) -> None:
    targets = {"target_modules": TARGETS.get(base.name, "q_proj,down_proj")} if method == "lora" else {}
    run_dir = trained(base, **METHODS[method] | targets)
    run = events.fold(events.read(run_dir))
    assert run.facts["eval_loss_after"] < run.facts["eval_loss_before"] - 0.01
    made = artifacts.of_run(run_dir)
    assert [artifact.kind for artifact in made] == ["merged" if method in ("sft", "fft") else "adapter"]
    if method in ("sft", "fft"):
        before, after = load_file(base / "model.safetensors"), load_file(made[0].folder / "model.safetensors")
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed
        assert method == "fft" or all(name.startswith("model.layers.2.") or name == "model.norm.weight" for name in changed)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_what_is_merged_says_what_the_adapter_says(base: Path, method: str, tmp_path: Path) -> None:
    run_dir = trained(base, **METHODS[method] | {"target_modules": "all-linear"})
    adapter = run_dir / "artifacts" / "adapter"
    merged = tmp_path / "merged"
    merged.mkdir()
    merge({"base": str(base), "adapter": str(adapter), "out": str(merged)}, lambda _: None)
    (merged / "config.json").write_text((base / "config.json").read_text())
    rows = [{"input_ids": list(range(3, 103)), "positions": list(range(100))}]
    payload = {
        "merged": merged,
        "adapter": adapter,
        "base": base,
        "nf4": None,
        "rows": rows,
        "table": None,
        "max_table_bytes": 2**30,
        "scratch": "",
    }
    proofs = prove(payload, lambda _: None)
    assert proofs["merge_kl"] < 1e-4
    assert proofs["merge_top1"] > 0.95


def test_a_module_that_is_not_there_is_answered_with_those_that_are(base: Path) -> None:
    with pytest.raises(UserError) as caught:
        trained(base, method="lora", target_modules="query_key_value")
    assert "down_proj" in caught.value.remedy
    assert "all-linear" in caught.value.remedy


def test_the_output_layer_learns_when_asked(tmp_path: Path) -> None:
    base = build("llama", tmp_path / "llama")
    run_dir = trained(base, method="sft", trainable_layers=1, train_head=True)
    before, after = load_file(base / "model.safetensors"), load_file(run_dir / "artifacts" / "merged" / "model.safetensors")
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])


@pytest.mark.parametrize(("family", "taken"), [("llama", "sdpa_by_document"), ("falcon", "sdpa"), ("vaultgemma", "eager")])
def test_attention_is_one_that_the_family_has(family: str, taken: str, tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    changes = {"falcon": {"num_kv_heads": 4}, "vaultgemma": {"head_dim": 32}}.get(family, {})
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(SHAPE | changes))).save_pretrained(tmp_path)
    model = load_model(tmp_path, Recipe(method="fft"), torch.float32)
    assert model.config._attn_implementation == taken
    assert model(input_ids=torch.arange(3, 9)[None], use_cache=False).logits.isfinite().all()


def test_gemma_2_keeps_its_capped_scores(tmp_path: Path) -> None:
    """sdpa drops attn_logit_softcapping; llama.cpp applies it, so the model chatted with would not be the one trained."""
    from core.training.train import load_model
    from tests.integration.families import config_of

    assert config_of("gemma2").attn_logit_softcapping
    model = load_model(build("gemma2", tmp_path / "gemma2"), demo().model_copy(update={"method": "lora"}), torch.float32)
    assert model.config._attn_implementation == "eager"

"""Merging equals PEFT's own merge to one unit of rounding, and refuses what would give a broken model."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from core import paths
from core.errors import UserError
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.merge import merge_adapter

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 1, "the test wants an indexed base"
    return folder


def adapter_of(base, folder, **options):
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return Artifact(id="a", kind="adapter", name="a", base_path=str(base), folder=folder)


OPTIONS = {
    "all linear": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
    "rank-stabilised": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "use_rslora": True},
    "a rank and an alpha of their own": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"q_proj": 32},
    },
    "a head saved whole": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_merged_weight_is_within_one_rounding_of_pefts(kind, base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter", **OPTIONS[kind])
    merged = merge_adapter(adapter, tmp_path / "merged")
    ours = AutoModelForCausalLM.from_pretrained(merged.folder).state_dict()
    exact = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter.folder).merge_and_unload()
    for name, weight in exact.state_dict().items():
        assert ours[name].dtype == torch.bfloat16
        torch.testing.assert_close(ours[name].float(), weight.to(torch.bfloat16).float(), rtol=2**-7, atol=1e-6, msg=name)
    assert not torch.equal(ours["model.layers.0.self_attn.q_proj.weight"], load_base(base)["model.layers.0.self_attn.q_proj.weight"])


def load_base(base):
    return {name: weight for file in base.glob("*.safetensors") for name, weight in load_file(file).items()}


def test_the_manifest_vouches_for_the_files_and_names_the_parent(base, tmp_path):
    merged = merge_adapter(adapter_of(base, tmp_path / "adapter", **OPTIONS["all linear"]), tmp_path / "merged")
    stored = artifacts.read(tmp_path / "merged")
    assert stored.parent_id == "a" and stored.kind == "merged"
    assert {file.name: file.sha256 for file in stored.files} == {file.name: file.sha256 for file in merged.files}
    assert all(paths.sha256_file(tmp_path / "merged" / file.name) == file.sha256 for file in stored.files)


def spoil(adapter, change):
    file = adapter.folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def empty(tensors):
    for name in tensors:
        tensors[name] = torch.empty(0)


def with_nan(tensors):
    next(tensor for name, tensor in tensors.items() if "lora_B" in name)[0, 0] = float("nan")


def of_another_shape(tensors):
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = torch.zeros(tensors[name].shape[0], 7)


def of_another_model(tensors):
    for name in list(tensors):
        tensors[name.replace("layers.1", "layers.9")] = tensors.pop(name)


def without_its_other_half(tensors):
    tensors.pop(next(name for name in tensors if "lora_B" in name))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (empty, "empty"),
        (with_nan, "NaN"),
        (of_another_shape, "in the adapter"),
        (of_another_model, "no weight"),
        (without_its_other_half, "half"),
    ],
)
def test_a_broken_adapter_is_refused_by_name_and_leaves_nothing_behind(change, said, base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter", **OPTIONS["all linear"])
    spoil(adapter, change)
    with pytest.raises(UserError, match=said):
        merge_adapter(adapter, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_merged_model_cannot_be_merged_again(base, tmp_path):
    with pytest.raises(UserError) as caught:
        merge_adapter(Artifact(id="m", kind="merged", name="m", folder=base), tmp_path / "out")
    assert "Only adapters" in caught.value.remedy

"""Merging equals PEFT's own merge bit for bit, keeps what was trained where PEFT's does not, and refuses what would give a broken model."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.pytorch_utils import Conv1D

from core import paths
from core.errors import UserError
from core.export import artifacts, merge_child
from core.export.adapter import unstreamed
from core.export.artifacts import Artifact
from core.export.merge import base_folder, merge_adapter
from core.export.names import EMBEDDING, HEAD, SAME_NAMES

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")
CASES = {
    "all linear": {"target_modules": "all-linear"},
    "rank-stabilised": {"target_modules": ["q_proj", "o_proj", "qkv_proj"], "use_rslora": True},
    "weight-decomposed": {"target_modules": "all-linear", "use_dora": True},
    "the head": {"target_modules": ["lm_head", "o_proj"]},
    "weight-decomposed embedding": {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True},
    "a rank and an alpha of their own": {
        "target_modules": ["o_proj", "down_proj"],
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.o_proj": 32},
    },
    "one layer": {"target_modules": ["o_proj"], "layers_to_transform": [1]},
    "a head and norms saved whole": {"target_modules": ["o_proj"], "modules_to_save": ["lm_head", "norm", "input_layernorm"]},
    "some tokens": {"target_modules": ["o_proj"], "trainable_token_indices": [3, 60]},
}


def build(folder, family, dtype=torch.bfloat16, shards="1GB", **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(SMALL | {"tie_word_embeddings": False} | options))
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder, max_shard_size=shards)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Each family built once: ``bases("llama", dtype=...)``."""
    root, known = tmp_path_factory.mktemp("bases"), {}

    def base(family, **options):
        key = f"{family}-{len(known)}" if options else family
        identity = json.dumps([family, {name: str(value) for name, value in options.items()}])
        if identity not in known:
            known[identity] = build(root / key, family, **options)
        return known[identity]

    return base


@pytest.fixture
def base(bases):
    return bases("llama", shards="20KB")


def adapter_of(base, folder, *, resize=None, dtype=None, **options):
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype or "auto")
    if resize:
        model.resize_token_embeddings(resize)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **({"r": 4, "lora_alpha": 8} | options)))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return Artifact(id="a", kind="adapter", name="a", base_path=str(base), folder=folder)


def streamed(adapter, folder):
    """The merged model by our own arithmetic, in this process."""
    folder.mkdir()
    told = []
    payload = {"base": str(base_folder(adapter)), "adapter": str(adapter.folder), "out": str(folder)}
    result = merge_child.merge(payload, told.append)
    assert told[-1]["done"] == told[-1]["total"] and [event["done"] for event in told] == sorted(event["done"] for event in told)
    assert result["sha256"] == {name: paths.sha256_file(folder / name) for name in result["sha256"]}
    return AutoModelForCausalLM.from_pretrained(folder)


def by_peft(base, adapter, *, resize=None, dtype="auto"):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    if resize:
        model.resize_token_embeddings(resize)
    return PeftModel.from_pretrained(model, adapter.folder)


def assert_same_weights(ours, theirs):
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    different = [name for name, weight in ours.state_dict().items() if not torch.equal(weight, expected[name])]
    assert different == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_is_bit_for_bit_pefts(family, case, bases, tmp_path):
    adapter = adapter_of(bases(family), tmp_path / "adapter", **CASES[case])
    ours = streamed(adapter, tmp_path / "merged")
    assert_same_weights(ours, by_peft(bases(family), adapter).merge_and_unload())
    unchanged = AutoModelForCausalLM.from_pretrained(bases(family)).state_dict()
    assert any(not torch.equal(weight, unchanged[name]) for name, weight in ours.state_dict().items())


@pytest.mark.parametrize("bias", [{"bias": "all"}, {"bias": "lora_only"}, {"lora_bias": True}])
def test_biases_that_were_trained_are_merged(bias, bases, tmp_path):
    adapter = adapter_of(bases("qwen2"), tmp_path / "adapter", target_modules=["q_proj", "v_proj"], **bias)
    ours = streamed(adapter, tmp_path / "merged")
    assert_same_weights(ours, by_peft(bases("qwen2"), adapter).merge_and_unload())
    before = AutoModelForCausalLM.from_pretrained(bases("qwen2")).state_dict()
    assert not torch.equal(ours.state_dict()["model.layers.0.self_attn.q_proj.bias"], before["model.layers.0.self_attn.q_proj.bias"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("case", ["all linear", "weight-decomposed", "a head and norms saved whole"])
def test_bases_of_every_dtype_keep_it(dtype, case, bases, tmp_path):
    base = bases("llama", dtype=dtype)
    adapter = adapter_of(base, tmp_path / "adapter", **CASES[case])
    ours = streamed(adapter, tmp_path / "merged")
    assert {weight.dtype for weight in ours.state_dict().values()} == {dtype}
    assert_same_weights(ours, by_peft(base, adapter).merge_and_unload())


def test_an_adapter_in_half_precision_is_computed_in_float32(bases, tmp_path):
    adapter = adapter_of(bases("llama"), tmp_path / "adapter", **CASES["all linear"])
    spoil(adapter, lambda tensors: tensors.update({name: weight.to(torch.bfloat16) for name, weight in tensors.items()}))
    assert_same_weights(streamed(adapter, tmp_path / "merged"), by_peft(bases("llama"), adapter).merge_and_unload())


def test_an_embedding_is_rounded_once(bases, tmp_path):
    """PEFT rounds the product to the base's dtype before it adds it; in float32 it does not, and that is the reference here."""
    adapter = adapter_of(bases("llama"), tmp_path / "adapter", target_modules=["embed_tokens", "o_proj"])
    ours = streamed(adapter, tmp_path / "merged").get_input_embeddings().weight
    exact = by_peft(bases("llama"), adapter, dtype=torch.float32).merge_and_unload().get_input_embeddings().weight
    assert torch.equal(ours, exact.to(torch.bfloat16))


@pytest.mark.parametrize("case", ["all linear", "the head"])
def test_shards_and_index_stay_as_the_base_has_them(case, base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter", **CASES[case])
    ours = streamed(adapter, tmp_path / "merged")
    assert_same_weights(ours, by_peft(base, adapter).merge_and_unload())
    names = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(names) > 1 and sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors")) == names
    index = "model.safetensors.index.json"
    assert paths.read_json(tmp_path / "merged" / index)["weight_map"] == paths.read_json(base / index)["weight_map"]


def test_only_the_files_of_the_index_are_merged(bases, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases("llama", shards="20KB"), base)
    save_file({"layers.0.attention.wq.weight": torch.zeros(2, 2)}, base / "consolidated.safetensors")
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    streamed(adapter, tmp_path / "merged")
    assert not (tmp_path / "merged" / "consolidated.safetensors").exists()
    next(base.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="lacks its weight file model-00002"):
        streamed(adapter, tmp_path / "again")


ON_ONE_MATRIX = {
    "an adapter on the head": {"target_modules": ["q_proj", "lm_head"]},
    "an adapter on the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "the head saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "the embedding saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "both saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
}


@pytest.mark.parametrize("case", ON_ONE_MATRIX)
def test_a_shared_matrix_is_parted_when_only_one_use_of_it_was_trained(case, bases, tmp_path):
    base = bases("qwen2", tie_word_embeddings=True, dtype=torch.float32)
    adapter = adapter_of(base, tmp_path / "adapter", **ON_ONE_MATRIX[case])
    ours = streamed(adapter, tmp_path / "merged")
    assert paths.read_json(tmp_path / "merged" / "config.json")["tie_word_embeddings"] is False
    ids = torch.arange(20)[None]
    torch.testing.assert_close(ours(ids).logits, by_peft(base, adapter).eval()(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [3, 60]},
        {},
    ],
)
def test_a_shared_matrix_stays_shared_when_both_uses_were_trained_together_or_none(options, bases, tmp_path):
    base = bases("qwen2", tie_word_embeddings=True, dtype=torch.float32)
    adapter = adapter_of(base, tmp_path / "adapter", **({"target_modules": ["q_proj"]} | options))
    ours = streamed(adapter, tmp_path / "merged")
    assert HEAD not in load_file(tmp_path / "merged" / "model.safetensors")
    assert ours.get_input_embeddings().weight is ours.get_output_embeddings().weight
    ids = torch.arange(20)[None]
    torch.testing.assert_close(ours(ids).logits, by_peft(base, adapter).eval()(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("targets", [["q_proj"], ["q_proj", "embed_tokens"], ["q_proj", "lm_head"]])
def test_a_resized_vocabulary_goes_into_the_merged_model_and_its_config(is_tied, targets, bases, tmp_path):
    base = bases("qwen2", tie_word_embeddings=is_tied, dtype=torch.float32)
    adapter = adapter_of(base, tmp_path / "adapter", resize=70, target_modules=targets)
    if len(targets) > 1 and not is_tied:
        with pytest.raises(UserError, match="different numbers of tokens"):  # PEFT saves the new rows of the one that has an adapter only
            streamed(adapter, tmp_path / "merged")
        return
    ours = streamed(adapter, tmp_path / "merged")
    assert ours.config.vocab_size == 70 and len(ours.get_input_embeddings().weight) == 70
    ids = torch.arange(63)[None]
    torch.testing.assert_close(ours(ids).logits[..., :64], by_peft(base, adapter, resize=70)(ids).logits[..., :64], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [{"target_modules": ["c_attn", "c_proj"]}, {"target_modules": ["c_attn", "c_proj"], "use_dora": True}])
def test_weights_that_are_stored_transposed_are_merged_transposed(case, bases, tmp_path):
    """GPT-2's square c_proj would merge the wrong way round without a word."""
    options = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 64, "n_positions": 64, "tie_word_embeddings": True}
    base = tmp_path / "base"
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **options)).to(torch.bfloat16).save_pretrained(base)
    for is_said in (True, False):
        adapter = adapter_of(base, tmp_path / f"adapter-{is_said}", **case)
        config = adapter.folder / "adapter_config.json"
        config.write_text(json.dumps(paths.read_json(config) | {"fan_in_fan_out": is_said}))
        assert_same_weights(streamed(adapter, tmp_path / f"merged-{is_said}"), by_peft(base, adapter).merge_and_unload())


def test_tensors_that_transformers_renames_are_found(tmp_path):
    """Gemma 3 with images: model.language_model.layers in memory, language_model.model.layers in the file."""
    text = {name: value for name, value in SMALL.items() if name != "pad_token_id"}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in stored
    adapter = adapter_of(tmp_path / "base", tmp_path / "adapter", target_modules=r".*language_model.*\.(q_proj|down_proj)")
    expected = by_peft(tmp_path / "base", adapter).merge_and_unload()
    assert_same_weights(streamed(adapter, tmp_path / "merged"), expected)
    spoil(adapter, lambda tensors: tensors.update({old_name(name): tensors.pop(name) for name in list(tensors)}))
    assert_same_weights(streamed(adapter, tmp_path / "again"), expected)


def old_name(name):
    """As transformers 4 called it, and as the file still does."""
    return name.replace("model.language_model.", "language_model.model.")


def mixture(folder):
    torch.manual_seed(0)
    config = AutoConfig.for_model("mixtral", **SMALL, num_local_experts=2, tie_word_embeddings=False)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_experts_that_the_file_holds_in_parts_are_merged_by_peft_itself(tmp_path):
    base = mixture(tmp_path / "base")
    attention = adapter_of(base, tmp_path / "attention", target_modules=["q_proj"])
    assert_same_weights(streamed(attention, tmp_path / "streamed"), by_peft(base, attention).merge_and_unload())
    experts = adapter_of(base, tmp_path / "experts", target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    merged = merge_adapter(experts, tmp_path / "merged")
    assert_same_weights(AutoModelForCausalLM.from_pretrained(merged.folder), by_peft(base, experts).merge_and_unload())


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_an_adapter_that_started_by_changing_the_base_is_left_to_peft(start, bases, tmp_path):
    base = bases("llama", dtype=torch.float32)
    adapter = adapter_of(base, tmp_path / "adapter", target_modules=["q_proj"], init_lora_weights=start)
    assert start in unstreamed(paths.read_json(adapter.folder / "adapter_config.json"))


def test_families_taken_as_they_are_stored_have_no_other_names_in_transformers():
    for family in sorted(SAME_NAMES):
        config = AutoConfig.for_model(family, **SMALL)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        assert not get_model_conversion_mapping(model, add_legacy=False), family
        assert {EMBEDDING, HEAD} <= names and not any(isinstance(module, Conv1D) for module in model.modules()), family


def test_the_manifest_vouches_for_the_files_and_names_the_parent(base, tmp_path):
    events = []
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    merged = merge_adapter(adapter, tmp_path / "merged", on_event=events.append)
    stored = artifacts.read(tmp_path / "merged")
    assert stored.parent_id == "a" and stored.kind == "merged"
    assert {file.name: file.sha256 for file in stored.files} == {file.name: file.sha256 for file in merged.files}
    assert stored.files and all(paths.sha256_file(tmp_path / "merged" / file.name) == file.sha256 for file in stored.files)
    assert events[-1]["done"] == events[-1]["total"] and events[-1]["unit"] == "bytes"
    again = merge_adapter(adapter, tmp_path / "merged")
    assert again.files == merged.files, "the same bytes again, over the older artifact"


def test_what_belongs_to_the_model_is_carried_along_and_the_adapters_tokenizer_wins(bases, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases("llama"), base)
    for name in ("tokenizer.model", "LICENSE", "tokenizer.json", "chat_template.jinja", "pytorch_model.bin", "training_args.bin"):
        (base / name).write_text("of the base")
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    (adapter.folder / "tokenizer.json").write_text("of the adapter")
    (adapter.folder / "tokenizer_config.json").write_text('{"chat_template": "of the adapter"}')
    merged = merge_adapter(adapter, tmp_path / "merged").folder
    assert {path.name for path in merged.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "LICENSE",
        artifacts.MANIFEST,
    }  # fmt: skip
    assert (merged / "tokenizer.json").read_text() == "of the adapter" and (merged / "LICENSE").read_text() == "of the base"


def spoil(adapter, change):
    file = adapter.folder / "adapter_model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def emptied(tensors):
    for name in tensors:
        tensors[name] = torch.empty(0)


def with_nothing(tensors):
    tensors.clear()


def with_nan(tensors):
    next(tensor for name, tensor in tensors.items() if "lora_B" in name)[0, 0] = float("nan")


def of_another_shape(tensors):
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = torch.zeros(tensors[name].shape[0], 7)


def of_another_rank(tensors):
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name] = tensors[name][:2].clone()


def of_another_model(tensors):
    for name in list(tensors):
        tensors[name.replace("layers.1", "layers.9")] = tensors.pop(name)


def without_its_other_half(tensors):
    tensors.pop(next(name for name in tensors if "lora_B" in name))


def without_a_layer(tensors):
    for name in [name for name in tensors if "layers.1" in name]:
        tensors.pop(name)


def with_something_else(tensors):
    tensors["base_model.model.model.layers.0.self_attn.q_proj.hada_w1_a"] = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        (emptied, "empty", "ADAPTER"),
        (with_nothing, "empty", "ADAPTER"),
        (with_nan, "NaN", "NAN"),
        (of_another_shape, "in the adapter", "BASE"),
        (of_another_rank, "rank should be 4", "ADAPTER"),
        (of_another_model, "no weight", "BASE"),
        (without_its_other_half, "half", "ADAPTER"),
        (without_a_layer, "lacks model.layers.1", "ADAPTER"),
        (with_something_else, "no LoRA tensor", "ADAPTER"),
    ],
)
def test_a_broken_adapter_is_refused_by_name(change, said, code, base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    spoil(adapter, change)
    with pytest.raises(UserError, match=said) as refusal:
        streamed(adapter, tmp_path / "merged")
    assert refusal.value.code == code and refusal.value.remedy


def test_a_quantised_base_is_refused(bases, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(bases("llama"), base)
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    (base / "config.json").write_text(json.dumps(paths.read_json(base / "config.json") | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UserError, match="gptq") as refusal:
        streamed(adapter, tmp_path / "merged")
    assert refusal.value.code == "BASE"


def test_a_refused_or_cancelled_merge_leaves_nothing_behind(base, tmp_path):
    def cancel(_event):
        raise KeyboardInterrupt

    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    with pytest.raises(KeyboardInterrupt):
        merge_adapter(adapter, tmp_path / "merged", on_event=cancel)
    spoil(adapter, with_nan)
    with pytest.raises(UserError, match="NaN"):
        merge_adapter(adapter, tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(base, tmp_path, monkeypatch):
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    monkeypatch.setattr("shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(UserError, match="Merging needs") as refusal:
        merge_adapter(adapter, tmp_path / "merged")
    assert refusal.value.code == "DISK" and [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_disk_that_fills_up_while_a_merge_writes_is_said_so(base, tmp_path):
    """The last file goes to the kernel's own full disk, after the others were written."""
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    files = sorted(path.name for path in base.glob("*.safetensors"))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / files[-1]).symlink_to("/dev/full")
    with pytest.raises(UserError, match="disk is full") as refusal:
        merge_child.merge({"base": str(base), "adapter": str(adapter.folder), "out": str(tmp_path / "merged")}, lambda _event: None)
    assert refusal.value.code == "DISK" and len(files) > 1
    assert (tmp_path / "merged" / files[0]).stat().st_size >= (base / files[0]).stat().st_size


def test_a_merge_never_overwrites_what_is_no_artifact_or_what_it_reads(base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    for out in (tmp_path / "photos", tmp_path, adapter.folder, base):
        with pytest.raises(UserError):
            merge_adapter(adapter, out)
    assert (tmp_path / "photos" / "me.jpg").exists() and (adapter.folder / "adapter_config.json").exists()


def test_two_merges_into_one_folder_are_refused(base, tmp_path):
    adapter = adapter_of(base, tmp_path / "adapter", **CASES["all linear"])
    with artifacts.only_writer(tmp_path / "merged"), pytest.raises(UserError, match="being written") as refusal:
        merge_adapter(adapter, tmp_path / "merged")
    assert refusal.value.code == "BUSY"


def test_a_merged_model_cannot_be_merged_again(base, tmp_path):
    with pytest.raises(UserError) as caught:
        merge_adapter(Artifact(id="m", kind="merged", name="m", folder=base), tmp_path / "out")
    assert "Only adapters" in caught.value.remedy

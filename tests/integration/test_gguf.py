"""The starter model on its way to GGUF, with nothing replaced: converted, quantised, measured, and equal to what transformers computes."""

import json
import math
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from core.chat import serve
from core.conversation import Conversation, Turn
from core.data.render import generation_prompt, tokenize
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.export import artifacts
from core.export.converter import convert
from core.export.gguf import adapter_file, make_gguf, reference_in
from core.export.header import gguf_header, gguf_template
from core.export.levels import DEMO_LEVELS, level_of_file
from core.export.llama import gguf_logprobs, gguf_tokenize
from core.export.measure import measure
from core.export.native import LlamaModel
from core.export.prove import labelled_rows, prove_levels
from core.export.quantise import exact_sizes, quantise
from core.paths import EXAMPLES, STARTER
from tests.unit.export.gguf_files import three_tokens

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def conversations():
    records = [json.loads(line) for line in (EXAMPLES / "starter_eval.jsonl").read_text(encoding="utf-8").splitlines()][::30]
    return [
        Conversation(str(number), (Turn("user", record["question"]), Turn("assistant", record["answer"])) * (1 + number % 2))
        for number, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def by_transformers(conversations):
    """(ids, positions, log-probabilities (P, V) as float32) of each conversation, by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.float32)
    tokenizer = load_tokenizer(STARTER)
    found = []
    for conversation in conversations:
        sample = tokenize(conversation, tokenizer)
        positions = [index - 1 for index, label in enumerate(sample.labels) if label != -100]
        with torch.inference_mode():
            logits = model(torch.tensor([sample.input_ids])).logits[0, positions]
        found.append((sample.input_ids, positions, logits.log_softmax(-1).numpy()))
    return found


def test_every_level_is_made_with_its_manifest_name_and_foretold_size(levels, starter):
    assert list(levels) == list(DEMO_LEVELS)
    foretold = exact_sizes(levels["f16"].gguf_path, DEMO_LEVELS)
    for name, artifact in levels.items():
        path = artifact.gguf_path
        assert path.name == f"Starter-4.7M-{name.upper()}.gguf" and artifact.id == f"test-{name.lower().replace('_', '-')}"
        assert path.stat().st_size == foretold[name] == artifact.size_bytes
        assert level_of_file(path).name == name and artifact.base_model == "starter"
    sizes = [levels[name].size_bytes for name in ("f16", "q8_0", "q5_1", "q5_0", "q4_1", "Q4_K_M", "q4_0")]
    assert sizes == sorted(sizes, reverse=True)
    assert levels["f16"].parent_id == starter.id and levels["q4_0"].parent_id == levels["f16"].id


def test_the_file_carries_template_tokens_and_names(levels):
    for artifact in levels.values():
        header = gguf_header(artifact.gguf_path)
        assert gguf_template(artifact.gguf_path) == (STARTER / "chat_template.jinja").read_text(encoding="utf-8")
        assert header.name == "Starter" and header.metadata["general.quantized_by"] == "Transmute"
        assert header.metadata["tokenizer.ggml.add_bos_token"] is True and header.tokenizer == "llama"


def test_finished_levels_are_not_made_again_and_a_lost_one_is(levels, starter, gguf_root):
    before = {artifact.id: artifact.gguf_path.stat().st_mtime_ns for artifact in levels.values()}
    shutil.rmtree(levels["q4_0"].folder)
    (gguf_root / "gguf-q4-0.partial").mkdir()
    again = make_gguf(starter, ["q4_0", "f16", "q8_0"], gguf_root, run_id="test")
    assert [artifact.level for artifact in again] == ["q4_0", "f16", "q8_0"]
    assert [artifact.gguf_path.stat().st_mtime_ns == before[artifact.id] for artifact in again] == [False, True, True]
    assert again[0].files == levels["q4_0"].files, "the same bytes again"
    assert not list(gguf_root.glob("*.partial"))


def test_a_level_that_fails_leaves_the_others(levels, starter, gguf_root):
    with pytest.raises(UserError, match="importance matrix") as refusal:
        make_gguf(starter, ["IQ2_XXS", "Q6_K"], gguf_root, run_id="test")
    assert refusal.value.code == "IMATRIX"
    assert artifacts.read(gguf_root / "gguf-q6-k").level == "Q6_K"
    assert not (gguf_root / "gguf-iq2-xxs").exists()


def test_a_quantised_file_is_not_quantised_twice(levels, tmp_path):
    with pytest.raises(UserError, match="quantised already"):
        quantise(levels["q8_0"].gguf_path, {"q4_0": tmp_path / "out.gguf"})


def test_token_ids_are_those_of_training(levels, conversations):
    tokenizer = load_tokenizer(STARTER)
    texts = [tokenize(conversation, tokenizer).text for conversation in conversations]
    texts += [generation_prompt([{"role": "user", "content": said}], tokenizer.template) for said in ("7", " two  spaces ", "你好😀\n", "")]
    assert gguf_tokenize(levels["q4_0"].gguf_path, texts) == [tokenizer.encode(text)[0] for text in texts]


def test_the_f16_file_computes_what_transformers_computes(levels, by_transformers, tmp_path):
    ids, positions, expected = zip(*by_transformers, strict=True)
    stored = gguf_logprobs(levels["f16"].gguf_path, ids, positions, tmp_path / "logprobs.npy")
    found, expected = np.load(stored), np.concatenate(expected)
    assert found.shape == expected.shape and found.dtype == np.float32
    kl = (np.exp(expected) * (expected - found)).sum(axis=1)
    assert kl.mean() < 1e-4 and (found.argmax(1) == expected.argmax(1)).mean() > 0.995


def test_measured_perplexity_is_the_exponential_of_the_training_loss(levels, by_transformers, conversations):
    figures = measure(list(levels.values()), levels["f16"], conversations)
    losses = [-logprobs[row, ids[position + 1]] for ids, positions, logprobs in by_transformers for row, position in enumerate(positions)]
    full = figures["test-f16"]
    assert full["num_tokens"] == len(losses) and full["capped"] is False
    assert full["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=2e-3)
    assert (full["kl_mean"], full["top1_agreement"]) == (0.0, 1.0)
    assert 0 < figures["test-q8-0"]["kl_mean"] < figures["test-q5-0"]["kl_mean"] < figures["test-q4-0"]["kl_mean"]
    for artifact in levels.values():
        assert artifacts.read(artifact.folder).measured == figures[artifact.id]
        measured = figures[artifact.id]
        assert measured["kl_p99"] >= measured["kl_mean"] and measured["tokens_per_s"] > 0 and measured["prompt_tokens_per_s"] > 0
        assert measured["bits_per_weight"] == pytest.approx(measured["size_bytes"] * 8 / gguf_header(artifact.gguf_path).num_parameters)


def test_figures_are_kept_until_data_or_file_change(levels, conversations):
    chosen = [levels["q8_0"], levels["q4_0"]]
    events = []
    first = measure(chosen, levels["f16"], conversations[:4], max_tokens=20)
    again = measure(chosen, levels["f16"], conversations[:4], max_tokens=20, on_event=events.append)
    assert first == again and not events, "nothing was computed a second time"
    assert {figures["num_tokens"] for figures in first.values()} == {20} and first["test-q4-0"]["capped"] is True
    measure(chosen, levels["f16"], conversations[4:8], max_tokens=20, on_event=events.append)
    assert [event["id"] for event in events if event["event"] == "measured"] == ["test-q8-0", "test-q4-0"]


def test_cutting_conversations_cuts_what_is_measured(levels, conversations):
    whole = measure([levels["q8_0"]], levels["f16"], conversations)["test-q8-0"]["num_tokens"]
    cut = measure([levels["q8_0"]], levels["f16"], conversations, max_length=60)["test-q8-0"]["num_tokens"]
    assert 0 < cut < whole
    with pytest.raises(UserError, match="max_length"):
        measure([levels["q8_0"]], levels["f16"], conversations, max_length=3)


def test_a_file_that_makes_llama_cpp_abort_is_an_error_and_the_others_are_measured(levels, conversations, tmp_path):
    path = three_tokens(tmp_path / "three.gguf")
    with pytest.raises(UserError, match="SIGABRT") as crash:
        gguf_tokenize(path, ["hello"])
    assert crash.value.code == "CRASH"
    events = []
    with pytest.raises(UserError):
        measure([artifacts.resolve(str(path)), levels["q4_1"]], levels["f16"], conversations[:3], on_event=events.append)
    assert [event["id"] for event in events if event["event"] == "measured"] == ["test-q4-1"]


def test_an_unknown_tokenizer_and_architecture_are_explained(converter, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    folder = tmp_path / "strange"
    shutil.copytree(STARTER, folder, ignore=shutil.ignore_patterns("tokenizer*"))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("q", "isolated"), pre_tokenizers.ByteLevel()])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    bpe.train_from_iterator(["a strange tokenizer"] * 9, trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"]))
    bpe.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}')
    with pytest.raises(UserError, match="BPE tokenizer") as refusal:
        convert(folder, tmp_path / "out.gguf")
    assert refusal.value.code == "TOKENIZER"
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["FancyForCausalLM"]}))
    with pytest.raises(UserError, match="FancyForCausalLM") as refusal:
        convert(folder, tmp_path / "out.gguf")
    assert refusal.value.code == "ARCHITECTURE"


def test_progress_of_a_conversion_is_read_from_the_child_up_to_the_end(converter, tmp_path):
    events = []
    assert convert(STARTER, tmp_path / "out.gguf", dtype="auto", on_event=events.append)[0] == "f16"
    stages = {stage: [event for event in events if event["doing"] == stage] for stage in ("looking at the weights", "writing")}
    assert [event["doing"] for event in events] == [event["doing"] for stage in stages.values() for event in stage], "one after the other"
    for stage in stages.values():
        done = [event["done"] for event in stage]
        assert done == sorted(done) and 0 < done[-1] == stage[-1]["total"]
    header = gguf_header(tmp_path / "out.gguf")
    assert stages["writing"][-1]["total"] == sum(tensor.size_bytes for tensor in header.tensors)


def test_the_float_format_that_levels_are_made_from_can_be_chosen(starter, levels, tmp_path):
    """Of bfloat16 weights f32 and bf16 hold the same, so the levels are the same; f16 rounds."""
    for intermediate in ("f32", "bf16"):
        made = make_gguf(starter, ["q4_0"], tmp_path / intermediate, run_id="r", intermediate=intermediate)[0]
        assert made.float_level == intermediate and reference_in(tmp_path / intermediate).level == intermediate
    same = [(tmp_path / name / "gguf-q4-0" / "Starter-4.7M-Q4_0.gguf").read_bytes() for name in ("f32", "bf16")]
    assert same[0] == same[1] and levels["q4_0"].float_level == "f16"
    assert levels["f16"].float_reason == "float16 holds every weight"


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(starter, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(UserError) as refusal:
        make_gguf(starter, ["q4_0"], tmp_path / "out")
    assert refusal.value.code == "DISK" and not list((tmp_path / "out").iterdir())


def test_a_large_file_is_made_in_parts_that_llama_cpp_opens(starter, levels, conversations, tmp_path):
    whole = levels["q8_0"]
    split = make_gguf(starter, ["q8_0"], tmp_path, run_id="split", split_bytes=2_000_000)[0]
    names = [file.name for file in split.files]
    assert len(names) >= 3 and names[0] == f"Starter-4.7M-Q8_0-00001-of-{len(names):05d}.gguf" == split.gguf_path.name
    figures = measure([split, whole], levels["f16"], conversations[:3])
    for name in ("perplexity", "kl_mean", "num_tokens"):
        assert figures["split-q8-0"][name] == figures["test-q8-0"][name]
    from_parts = make_gguf(starter, ["q4_0"], tmp_path, run_id="split")[0]
    assert from_parts.files[0].sha256 == levels["q4_0"].files[0].sha256, "quantised from a float file in parts"


def test_no_part_of_a_split_file_is_loaded_by_anybody_before_all_are_looked_at(starter, levels, conversations, tmp_path):
    split = make_gguf(starter, ["q8_0"], tmp_path, run_id="split", split_bytes=2_000_000)[0]
    parts = [split.folder / file.name for file in split.files]
    rows = labelled_rows(starter.folder, conversations[:1])
    ways = {
        "measured": lambda: measure([split], levels["f16"], conversations[:1]),
        "measured against": lambda: measure([levels["q4_0"]], split, conversations[:1]),
        "tokenised": lambda: gguf_tokenize(split.gguf_path, ["Who are you?"]),
        "computed": lambda: gguf_logprobs(split.gguf_path, [[1, 2]], [[0]], tmp_path / "out.npy"),
        "served": lambda: serve.start(split),
        "loaded": lambda: LlamaModel(split.gguf_path),
    }
    assert len(parts) >= 3
    for part in parts[1:]:
        whole = part.read_bytes()
        part.write_bytes(whole[:-40])
        for name, way in ways.items():
            with pytest.raises(UserError) as refusal:
                way()
            assert refusal.value.code == "GGUF" and part.name in refusal.value.problem, name
        assert prove_levels(starter, [split], rows) == {"q8_0": {"error": "GGUF"}}
        part.write_bytes(whole)
    assert prove_levels(starter, [split], rows) == {"q8_0": {"template_identical": True, "tokens_identical": True}}
    parts[-1].unlink()
    for way in ways.values():
        with pytest.raises(UserError, match="is missing"):
            way()
    assert prove_levels(starter, [split], rows) == {"q8_0": {"error": "GGUF"}}


def test_a_model_beyond_float16_is_kept_in_the_format_it_is_stored_in(converter, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "large"
    shutil.copytree(STARTER, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file({name: weight.to(torch.bfloat16) for name, weight in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    model = artifacts.resolve(str(folder))
    for ask in ({"levels": ["f16", "q8_0"]}, {"levels": ["q8_0"], "intermediate": "f16"}):
        with pytest.raises(UserError, match=r"too large or too small.*layers\.0\.mlp\.up_proj\.weight reaches") as refusal:
            make_gguf(model, out_root=tmp_path / "out", run_id="large", **ask)
        assert refusal.value.code == "F16"
    assert artifacts.read(tmp_path / "out" / "gguf-q8-0").level == "q8_0", "made from the file that holds the weights"
    reference = reference_in(tmp_path / "out")
    assert "up_proj.weight reaches" in reference.float_reason
    assert reference.level == "bf16" and reference.gguf_path.name == "large-4.7M-BF16.gguf"
    assert not (tmp_path / "out" / "gguf-f16").exists()


def test_an_adapter_becomes_a_file_that_llama_cpp_adds_to_its_base(levels, tmp_path):
    """Its effect on the base's GGUF is that of PEFT's adapter, also where llama.cpp scales by another rule."""
    adapter = tmp_path / "adapter"
    subprocess.run([sys.executable, "-c", ADAPTER, str(STARTER), str(adapter)], check=True, capture_output=True)
    file = adapter_file(artifacts.resolve(str(adapter)), tmp_path / "out")
    header = gguf_header(file)
    exact = adapter_file(artifacts.resolve(str(adapter)), tmp_path / "out", dtype="f32")
    assert exact.name == "adapter-F32-LoRA.gguf" and {path.name for path in exact.parent.iterdir()} == {exact.name, file.name}
    assert exact.stat().st_size > 1.5 * file.stat().st_size
    assert file.name == "adapter-F16-LoRA.gguf" and header.metadata["general.type"] == "adapter"
    assert header.name == gguf_header(exact).name == "adapter" and header.metadata["general.quantized_by"] == "Transmute"
    assert header.metadata["adapter.lora.alpha"] == pytest.approx(8 * 4**0.5)
    program = [sys.executable, "-c", WITH_ADAPTER, str(levels["f16"].gguf_path), str(file)]
    found = json.loads(subprocess.run(program, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    expected = json.loads((adapter / "logits.json").read_text())
    np.testing.assert_allclose(found["with"], expected["with"], atol=0.05)
    assert np.abs(np.array(found["without"]) - expected["with"]).max() > 0.5, "the adapter does something"


ADAPTER = """
import json, sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
torch.manual_seed(0)
base, out = sys.argv[1:]
model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
                       LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, use_rslora=True, target_modules=["q_proj", "down_proj"]))
for name, weight in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(weight, std=0.05)
model.peft_config["default"].base_model_name_or_path = base
model.save_pretrained(out)
with torch.inference_mode():
    logits = model.eval()(torch.arange(1, 20)[None]).logits[0, -1]
json.dump({"with": logits.tolist()}, open(out + "/logits.json", "w"))
"""
WITH_ADAPTER = """
import ctypes, json, sys
import llama_cpp
from pathlib import Path
from core.export.native import LlamaModel
model = LlamaModel(Path(sys.argv[1]))
model.open_context(64)
ids = list(range(1, 20))
without = model.feed(ids).tolist()
lora = llama_cpp.llama_adapter_lora_init(model.model, sys.argv[2].encode())
adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
scales = (ctypes.c_float * 1)(1.0)
llama_cpp.llama_set_adapters_lora(model.context, adapters, 1, scales)
model.forget()
model._prompt = None
print(json.dumps({"without": without, "with": model.feed(ids).tolist()}))
"""


def test_an_adapter_beyond_float16_is_kept_in_what_holds_it(converter, tmp_path):
    from safetensors.torch import load_file, save_file

    adapter = tmp_path / "adapter"
    subprocess.run([sys.executable, "-c", ADAPTER, str(STARTER), str(adapter)], check=True, capture_output=True)
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(weight for name, weight in tensors.items() if "lora_A" in name)[0, 0] = 1e5
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    found = artifacts.resolve(str(adapter))
    with pytest.raises(UserError, match=r"lora_A\.weight reaches 100,000") as refusal:
        adapter_file(found, tmp_path / "out", dtype="f16")
    assert refusal.value.code == "F16" and not list((tmp_path / "out").iterdir())
    assert adapter_file(found, tmp_path / "out").name == "adapter-F32-LoRA.gguf"


@pytest.mark.parametrize(("name", "change"), [("DoRA", {"use_dora": True}), ("alpha", {"alpha_pattern": {"q_proj": 2}})])
def test_an_adapter_that_llama_cpp_cannot_express_is_refused(name, change, tmp_path):
    adapter = tmp_path / "adapter"
    subprocess.run([sys.executable, "-c", ADAPTER, str(STARTER), str(adapter)], check=True, capture_output=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    if name == "DoRA":
        add_magnitudes(adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="cannot express"):
        adapter_file(artifacts.resolve(str(adapter)), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def add_magnitudes(file):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(file)
    for name, weight in list(tensors.items()):
        if "lora_B" in name:
            tensors[name.replace("lora_B.weight", "lora_magnitude_vector")] = np.ones(len(weight), np.float32)
    save_file(tensors, file)


def test_the_file_says_where_the_model_comes_from(starter, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\n---\n# Base\n")
    shutil.copytree(STARTER, tmp_path / "model", ignore=shutil.ignore_patterns("README.md"))
    model = starter.model_copy(update={"base_model": "someone/Base-5M", "base_path": str(tmp_path / "base"), "folder": tmp_path / "model"})
    metadata = gguf_header(make_gguf(model, ["f16"], tmp_path / "out", run_id="about")[0].gguf_path).metadata
    expected = {
        "general.name": "Starter",
        "general.license": "mit",
        "general.quantized_by": "Transmute",
        "general.base_model.0.name": "Base 5M",
        "general.base_model.0.organization": "someone",
        "general.size_label": "4.7M",
    }
    assert expected.items() <= metadata.items()


def test_mutants_of_a_real_file_give_a_header_inside_the_file_or_a_refusal(levels, tmp_path):
    """Bytes changed, runs of bytes overwritten, lengths made huge, pieces cut out and doubled, over the whole header of a real model."""
    source = levels["Q4_K_M"].gguf_path
    size_bytes, head = source.stat().st_size, source.read_bytes()[: gguf_header(source).data_offset]
    generator, path, outcomes = random.Random(0), tmp_path / "mutant.gguf", {"read": 0, "refused": 0}
    hostile = [bytes(8), b"\xff" * 8, (2**63).to_bytes(8, "little"), (2**31).to_bytes(4, "little"), size_bytes.to_bytes(8, "little")]
    for _ in range(1500):
        mutant = bytearray(head)
        for _ in range(generator.randint(1, 3)):
            at = generator.choice((generator.randrange(4, 64), generator.randrange(len(mutant) - 16)))
            match generator.randrange(4):
                case 0:
                    mutant[at] = generator.randrange(256)
                case 1:
                    wild = generator.choice(hostile)
                    mutant[at : at + len(wild)] = wild
                case 2:
                    del mutant[at : at + generator.randint(1, 64)]
                case _:
                    mutant[at:at] = mutant[at : at + generator.randint(1, 64)]
        with path.open("wb") as file:
            file.write(mutant)
            file.truncate(size_bytes)
        try:
            header = gguf_header(path)
        except UserError as refusal:
            assert refusal.code in ("GGUF", "GGML") and len(str(refusal)) < 1000
            outcomes["refused"] += 1
        else:
            assert all(header.data_offset + tensor.offset + tensor.size_bytes <= size_bytes for tensor in header.tensors)
            outcomes["read"] += 1
    assert min(outcomes.values()) > 50, outcomes


def test_mutants_that_pass_the_header_never_take_the_caller_down(levels, tmp_path):
    """What the header check lets through goes to llama.cpp in a child: ids, or an error in words, and this process lives on."""
    source = levels["q4_0"].gguf_path
    data, generator = source.read_bytes(), random.Random(1)
    end = gguf_header(source).metadata_end
    for number in range(12):
        mutant = bytearray(data)
        for _ in range(generator.randint(1, 200)):
            mutant[generator.randrange(24, end)] = generator.randrange(256)
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(mutant)
        try:
            assert isinstance(gguf_tokenize(path, ["hello"])[0], list)
        except UserError as refusal:
            assert refusal.code in ("GGUF", "LOAD", "CRASH", "TOKENIZER", "TIMEOUT"), refusal
        path.unlink()

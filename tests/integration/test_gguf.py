"""The starter model on its way to GGUF, with nothing replaced: converted, quantised, measured, and equal to what transformers computes."""

import json
import math
import shutil

import numpy as np
import pytest

from core.conversation import Conversation, Turn
from core.data.render import generation_prompt, tokenize
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.export import artifacts
from core.export.converter import convert
from core.export.gguf import make_gguf
from core.export.header import gguf_header, gguf_template
from core.export.levels import DEMO_LEVELS, level_of_file
from core.export.llama import gguf_logprobs, gguf_tokenize
from core.export.measure import measure
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
        assert path.name == f"Starter-{name.upper()}.gguf" and artifact.id == f"test-{name.lower().replace('_', '-')}"
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


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(starter, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 0))
    with pytest.raises(UserError) as refusal:
        make_gguf(starter, ["q4_0"], tmp_path / "out")
    assert refusal.value.code == "DISK" and not list((tmp_path / "out").iterdir())

"""Chatting with real models: llama.cpp, transformers and an adapter say the same, stop when asked, and come back from the dead."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys

import pytest

from core.chat import transformers_child
from core.chat.answer import answer
from core.chat.engine import Sampling, batch_answers, open_engine
from core.chat.together import Question, side_by_side
from core.errors import UserError
from core.export import artifacts
from core.paths import EXAMPLES, PROJECT, STARTER
from core.process import child_environment
from tests.unit.export.gguf_files import UINT32, text, three_tokens
from ui import zero_gpu

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def ask(question):
    return [{"role": "user", "content": question}]


def text_of(pieces):
    return "".join(piece.text for piece in pieces)


@pytest.fixture(scope="module")
def questions():
    lines = (EXAMPLES / "starter_eval.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["question"] for line in lines][::60]


@pytest.fixture(scope="module")
def by_llama(levels):
    with open_engine(levels["f16"]) as engine:
        yield engine


@pytest.fixture(scope="module")
def by_transformers(starter):
    with open_engine(starter) as engine:
        yield engine


@pytest.fixture(scope="module", params=["llama", "transformers"])
def engine(request):
    return request.getfixturevalue(f"by_{request.param}")


def test_both_engines_give_the_same_greedy_answers(by_llama, by_transformers, questions):
    for question in questions:
        pieces = [list(engine.stream(ask(question), Sampling(max_tokens=40))) for engine in (by_llama, by_transformers)]
        assert [piece.token_id for piece in pieces[0]] == [piece.token_id for piece in pieces[1]]
        assert text_of(pieces[0]) == text_of(pieces[1]) != ""
        assert pieces[0][-1].stats["prompt_tokens"] == pieces[1][-1].stats["prompt_tokens"]


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(engine):
    def answer(seed):
        return text_of(engine.stream(ask("Tell me something."), Sampling(temperature=2, seed=seed, max_tokens=30)))

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_a_second_question_is_answered_as_if_asked_afresh(engine, questions, levels, starter):
    """What is kept of the first question must not change the answer to the second."""
    answer = text_of(engine.stream(ask(questions[0]), Sampling(max_tokens=20)))
    longer = [*ask(questions[0]), {"role": "assistant", "content": answer}, *ask(questions[1])]
    after = text_of(engine.stream(longer, Sampling(max_tokens=20)))
    assert after == batch_answers(engine.artifact, [longer], 20)[0]


def test_what_was_computed_of_a_conversation_is_kept_for_its_next_question(engine, questions):
    answer = list(engine.stream(ask(questions[0]), Sampling(max_tokens=20)))
    first = answer[-1].stats
    longer = [*ask(questions[0]), {"role": "assistant", "content": text_of(answer)}, *ask(questions[1])]
    second = list(engine.stream(longer, Sampling(max_tokens=4)))[-1].stats
    assert second["cached_tokens"] >= first["prompt_tokens"] > 10, "only the new question is read"
    assert second["resident_bytes"] > 10**7 and second["context_length"] == engine.facts["context_length"]


def test_many_answers_at_once_equal_those_one_by_one(engine, questions):
    one_by_one = [text_of(engine.stream(ask(question), Sampling(max_tokens=24))).strip() for question in questions]
    assert [text.strip() for text in batch_answers(engine.artifact, [ask(question) for question in questions], 24)] == one_by_one


def test_an_answer_left_in_the_middle_ends_and_the_model_stays(engine, questions):
    engine.ready()
    pid = engine.pid
    stream = engine.stream(ask("Count to a thousand."), Sampling(temperature=3, max_tokens=900))
    next(stream)
    stream.close()
    assert text_of(engine.stream(ask(questions[0]), Sampling(max_tokens=10))) and engine.pid == pid


def test_a_killed_model_is_an_error_and_is_loaded_anew(engine, questions):
    before = text_of(engine.stream(ask(questions[0]), Sampling(max_tokens=12)))
    stream = engine.stream(ask(questions[0]), Sampling(temperature=3, max_tokens=900))
    next(stream)
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="SIGKILL") as crash:
        list(stream)
    assert crash.value.code == "CRASH"
    assert text_of(engine.stream(ask(questions[0]), Sampling(max_tokens=12))) == before


def test_the_context_length_is_the_models_at_most(by_llama, by_transformers):
    trained = json.loads((STARTER / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"]
    for engine in (by_llama, by_transformers):
        assert engine.ready().facts["context_length"] == trained
        with pytest.raises(UserError, match=f"context length is {trained}"):
            list(engine.stream(ask("word " * trained)))


def test_levels_of_one_model_answer_side_by_side(levels, questions):
    engines = [open_engine(levels[name]) for name in ("q8_0", "q4_0", "Q4_K_M")]
    try:
        found = list(side_by_side([Question(engine, ask(questions[0])) for engine in engines], Sampling(max_tokens=20)))
        assert [sum(1 for index, piece in found if index == wanted and piece.done) for wanted in range(3)] == [1, 1, 1]
    finally:
        for engine in engines:
            engine.close()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # peft 0.21 asks transformers 5.23 by its old name
def test_an_adapter_on_its_base_answers_as_the_two_merged(tmp_path, questions, by_transformers):
    import numpy as np
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    generator = np.random.default_rng(0)
    weights = {name: tensor.float().numpy() for name, tensor in load_file(STARTER / "model.safetensors").items()}
    lora = {}
    for name in [name for name in weights if name.endswith("q_proj.weight")]:
        rows, columns = weights[name].shape
        a, b = (generator.normal(scale=0.15, size=size).astype(np.float32) for size in ((4, columns), (rows, 4)))
        lora[f"base_model.model.{name.removesuffix('weight')}lora_A.weight"] = a
        lora[f"base_model.model.{name.removesuffix('weight')}lora_B.weight"] = b
        weights[name] = weights[name] + b @ a * 2  # lora_alpha / r
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": str(STARTER)}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(lora, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.copytree(STARTER, tmp_path / "merged", ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(weights, tmp_path / "merged" / "model.safetensors", metadata={"format": "pt"})

    adapter, merged = (artifacts.resolve(str(tmp_path / kind)) for kind in ("adapter", "merged"))
    prompts = [ask(question) for question in questions]
    answers = batch_answers(adapter, prompts, 12)
    assert answers == batch_answers(merged, prompts, 12) != by_transformers.answers(prompts, 12)
    alone = by_transformers.answers(prompts, 12)
    with open_engine(adapter) as engine:
        for with_adapter, expected in ((True, answers), (False, alone), (True, answers)):
            said = [text_of(engine.stream(prompt, Sampling(max_tokens=12), with_adapter=with_adapter)).strip() for prompt in prompts]
            assert said == expected, "the same process, with the adapter and without it"
    in_process = zero_gpu.Model(adapter)
    for with_adapter, expected in ((True, answers[0]), (False, alone[0])):
        pieces = list(in_process.stream(prompts[0], Sampling(max_tokens=12), with_adapter=with_adapter))
        assert text_of(pieces).strip() == expected and pieces[-1].done in ("eos", "length")
    assert in_process.rendered(prompts[0]).text.endswith("ASSISTANT:")
    with pytest.raises(UserError, match="base model"):
        open_engine(adapter.model_copy(update={"base_path": str(tmp_path / "gone")}))


def test_a_model_that_llama_cpp_cannot_load_is_an_error(tmp_path):
    with (
        open_engine(artifacts.resolve(str(three_tokens(tmp_path / "three.gguf")))) as engine,
        pytest.raises(UserError, match="cannot load"),
    ):
        engine.ready()
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(UserError, match="not a usable GGUF file"):
        open_engine(artifacts.resolve(str(tmp_path / "broken.gguf")))


def test_a_model_that_transformers_cannot_load_is_a_sentence_and_no_exit_code(tmp_path):
    shutil.copytree(STARTER, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with (
        open_engine(artifacts.resolve(str(tmp_path / "cut"))) as engine,
        pytest.raises(UserError, match=r"transformers cannot load this model: .*[a-z]") as refusal,
    ):
        engine.ready()
    assert refusal.value.code == "LOAD" and refusal.value.where == "cut"


def test_reading_a_long_prompt_is_left_in_the_middle_when_one_stops(starter, monkeypatch):
    monkeypatch.setattr(transformers_child, "PREFILL_TOKENS", 8)
    payload = {"folder": str(starter.folder), "adapter": None, "tokenizer": str(starter.folder), "threads": None, "context_length": 512}
    stopped, fresh = (transformers_child.load(payload).model for _ in range(2))
    looks = iter([False, False])
    (last,) = answer(stopped, "word " * 40, Sampling(), lambda: next(looks, True))
    assert last["done"] == "stopped" and len(stopped.cached) == 16, "two of many parts were read"
    said = [
        [message.get("token_id") for message in answer(model, "word " * 40, Sampling(max_tokens=8), lambda: False)]
        for model in (stopped, fresh)
    ]
    assert said[0] == said[1] and len(said[0]) > 1


LEFT = """
import sys
from pathlib import Path
from core.chat.answer import answer
from core.chat.sampling import Sampling
from core.export.native import LlamaModel
model = LlamaModel(Path(sys.argv[1]))
model.open_context(512)
(last,) = answer(model, "word " * 200, Sampling(), lambda: True)
*_, after = answer(model, "word " * 40, Sampling(max_tokens=4), lambda: False)
print(last["done"], last["stats"]["generated_tokens"], after["stats"]["generated_tokens"])
"""


def test_llama_cpp_leaves_a_prompt_in_the_middle_too_and_goes_on_with_the_next(levels):
    done = subprocess.run(
        [sys.executable, "-c", LEFT, str(levels["q4_0"].gguf_path)],
        cwd=PROJECT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["stopped", "0", "4"]


def test_a_context_that_does_not_fit_into_memory_is_refused(levels, tmp_path):
    data = levels["q4_0"].gguf_path.read_bytes()
    key = text("llama.context_length") + struct.pack("<I", UINT32)
    at = data.index(key) + len(key)
    (tmp_path / "long.gguf").write_bytes(data[:at] + struct.pack("<I", 2**31 - 1) + data[at + 4 :])
    too_long = open_engine(artifacts.resolve(str(tmp_path / "long.gguf")), context_length=2**31 - 1)
    with too_long, pytest.raises(UserError, match="too little memory") as refusal:
        too_long.ready()
    assert refusal.value.code == "OOM"
    with open_engine(artifacts.resolve(str(tmp_path / "long.gguf"))) as engine:
        assert engine.ready().facts["context_length"] == 4096

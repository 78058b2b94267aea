"""A model that is not what was trained does not get past its proofs: another template, other weights, a wrong merge."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

from core.conversation import Conversation, Turn
from core.data.render import generation_prompt
from core.errors import UserError
from core.export import artifacts
from core.export.header import gguf_header, gguf_template
from core.export.llama import gguf_logprobs
from core.export.merge import merge_adapter
from core.export.prove import labelled_rows, proofs_of, prove, prove_gguf
from core.paths import STARTER
from core.publish.preflight import preflight
from tests.integration.test_gguf import ADAPTER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

TALKS = [
    Conversation("plain", (Turn("user", "Who are you?"), Turn("assistant", "I am Argo, a small model."))),
    Conversation("system", (Turn("system", "Be brief."), Turn("user", "7 + 5?"), Turn("assistant", "12"))),
]
HAS_SYSTEM, REST = "{%- if messages[0]['role'] == 'system' %}", "{%- set messages = messages[1:] %}"
SYSTEM = HAS_SYSTEM + "{%- set system = messages[0]['content'] %}" + REST + "{%- else %}{%- set system = 'A chat.' %}{%- endif %}"
TURNS = (
    "{%%- for m in messages %%}{%%- if m['role'] == 'user' %%}{{- 'USER: ' + m['content'] + '%s' }}"
    "{%%- else %%}{{- 'ASSISTANT:%s' + m['content'] + '</s>%s' }}{%%- endif %%}{%%- endfor %%}"
    "{%%- if add_generation_prompt %%}{{- 'ASSISTANT:%s' }}{%%- endif %%}"
)
LLAMA_2_TURNS = (
    "{%- for m in messages %}{%- if m['role'] == 'user' %}{{- m['content'] + ' [/INST]' }}"
    "{%- else %}{{- ' ' + m['content'] + '</s>[INST] ' }}{%- endif %}{%- endfor %}"
)
# What other software takes "vicuna" to mean; a short sentence stands in for the long system message.
RENDERINGS = {
    "llama.cpp, which guesses": SYSTEM + "{{- system + '\\n\\n' }}" + TURNS % ("\\n", " ", "\\n", ""),
    "Ollama and text-generation-webui": SYSTEM + "{{- system + '\\n' }}" + TURNS % ("\\n", " ", "\\n", " "),
    "LLaMA-Factory": SYSTEM + "{{- system }}" + TURNS % (" ", "", "", ""),
    "llama-cpp-python, deaf to a system message": "{{- 'A chat. ' }}" + HAS_SYSTEM + REST + "{%- endif %}" + TURNS % (" ", " ", "", ""),
    "llama-2, where a file names no template": SYSTEM + "{{- '[INST] <<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}" + LLAMA_2_TURNS,
}


@pytest.fixture(scope="module")
def proved(levels, starter, tmp_path_factory):
    """(rows, table): what the starter's own f16 file says of the talks."""
    rows = labelled_rows(starter.folder, TALKS)
    table = tmp_path_factory.mktemp("proved") / "merged.npy"
    path = levels["f16"].gguf_path
    return rows, gguf_logprobs(path, [row["input_ids"] for row in rows], [row["positions"] for row in rows], table)


def changed(source, out, old: bytes, new: bytes):
    """The same file with other bytes of the same length in one place."""
    data = source.gguf_path.read_bytes()
    assert len(old) == len(new) and data.count(old) == 1
    out.write_bytes(data.replace(old, new))
    return artifacts.resolve(str(out))


def templated(source, out, template: str):
    """The same file with another chat template, filled up to the same length by a comment."""
    old, new = gguf_template(source.gguf_path).encode(), template.encode()
    return changed(source, out, old, new + b"{#" + b" " * (len(old) - len(new) - 4) + b"#}")


@pytest.mark.parametrize("name", RENDERINGS)
def test_each_other_rendering_of_vicuna_is_caught_in_the_file(name, levels, starter, proved, tmp_path):
    file = templated(levels["f16"], tmp_path / "other.gguf", RENDERINGS[name])
    asked = [{"role": turn.role, "content": turn.content} for turn in TALKS[1].turns[:2]]
    trained = generation_prompt(asked, (starter.folder / "chat_template.jinja").read_text(encoding="utf-8"))
    assert trained == "Be brief. USER: 7 + 5? ASSISTANT:" != generation_prompt(asked, gguf_template(file.gguf_path))
    found = prove_gguf(starter, file, *proved)
    assert found["template_identical"] is False and found["tokens_identical"] is True and found["gguf_kl"] < 1e-4, "nothing else tells"


def test_a_file_without_a_template_is_caught(levels, starter, proved, tmp_path):
    file = changed(levels["f16"], tmp_path / "none.gguf", b"tokenizer.chat_template", b"tokenizer.chat_templatE")
    assert prove_gguf(starter, file, *proved)["template_identical"] is False


def test_a_file_that_adds_no_bos_is_caught(levels, starter, proved, tmp_path):
    key = b"tokenizer.ggml.add_bos_token" + (7).to_bytes(4, "little")
    file = changed(levels["f16"], tmp_path / "no-bos.gguf", key + b"\1", key + b"\0")
    found = prove_gguf(starter, file, *proved)
    assert found["tokens_identical"] is False and found["template_identical"] is True


def test_a_level_of_another_template_or_tokenizer_is_caught_and_the_others_stay_proved(levels, starter, tmp_path):
    """Of five levels two are not what was trained; each manifest says so of its own file, and only those two are not published."""
    bos = b"tokenizer.ggml.add_bos_token" + (7).to_bytes(4, "little")
    found = {}
    for name in ("f16", "q8_0", "q5_0", "q4_1", "q4_0"):
        shutil.copytree(levels[name].folder, tmp_path / name)
        found[name] = artifacts.read(tmp_path / name)
    templated(found["q4_0"], found["q4_0"].gguf_path, RENDERINGS["LLaMA-Factory"])
    changed(found["q5_0"], found["q5_0"].gguf_path, bos + b"\1", bos + b"\0")
    found["q4_1"].gguf_path.write_bytes(found["q4_1"].gguf_path.read_bytes()[:-1000])
    proofs = prove(starter, None, found["f16"], TALKS, levels=list(found.values()))
    good = {"template_identical": True, "tokens_identical": True}
    assert proofs["levels"] == {
        "q8_0": good,
        "q5_0": good | {"tokens_identical": False},
        "q4_1": {"error": "GGUF"},
        "q4_0": good | {"template_identical": False},
    }
    assert proofs["passed"] is False and proofs["gguf_kl"] < 1e-4
    for artifact in found.values():
        artifacts.update(artifact, proofs=proofs_of(artifact, proofs))
    passed = {name: artifacts.read(artifact.folder).proofs["passed"] for name, artifact in found.items()}
    assert passed == {"f16": True, "q8_0": True, "q5_0": False, "q4_1": False, "q4_0": False}
    assert not preflight([artifacts.read(found["q8_0"].folder)], "me/x").proof_problems
    assert "does not hold" in preflight([artifacts.read(found["q4_0"].folder)], "me/x").proof_problems[0]


def test_a_file_of_other_weights_fails_its_proof_and_is_not_published(levels, starter, tmp_path):
    """The whole proof, with the merged model computed by transformers; and its verdict on the way to the Hub."""
    folder = tmp_path / "gguf-f16"
    shutil.copytree(levels["f16"].folder, folder)
    good = prove(starter, None, artifacts.read(folder), TALKS)
    assert good["passed"] and good["template_identical"] and good["tokens_identical"] and good["gguf_kl"] < 1e-4
    assert not preflight(
        [artifacts.update(artifacts.read(folder), proofs=good).model_copy(update={"folder": folder})], "me/x"
    ).proof_problems
    header = gguf_header(artifacts.read(folder).gguf_path)
    tensor = next(tensor for tensor in header.tensors if tensor.name == "blk.0.ffn_down.weight")
    weights = np.memmap(header.path, np.float16, "r+", header.data_offset + tensor.offset, (tensor.size_bytes // 2,))
    weights *= 1.5
    weights.flush()
    bad = prove(starter, None, artifacts.read(folder), TALKS)
    assert bad["gguf_kl"] > 1e-4 and bad["template_identical"] and not bad["passed"]
    plan = preflight([artifacts.update(artifacts.read(folder), proofs=bad).model_copy(update={"folder": folder})], "me/x")
    assert "does not hold" in plan.proof_problems[0] and plan.proof_problems[0] in plan.problems


def test_a_merge_that_changed_the_model_fails_its_proof(converter, tmp_path):
    from safetensors.torch import load_file, save_file

    subprocess.run([sys.executable, "-c", ADAPTER, str(STARTER), str(tmp_path / "adapter")], check=True, capture_output=True)
    adapter = artifacts.resolve(str(tmp_path / "adapter"))
    merged = merge_adapter(adapter, tmp_path / "merged")
    good = prove(merged, adapter, None, TALKS)
    assert good["passed"] and good["merge_kl"] <= 1e-3 and good["merge_top1"] >= 0.98
    tensors = load_file(merged.folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] *= 2.0  # as by a scaling that is counted twice
    save_file(tensors, merged.folder / "model.safetensors", {"format": "pt"})
    bad = prove(merged, adapter, None, TALKS)
    assert not bad["passed"] and bad["merge_kl"] > 1e-3


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT asks for it
def test_a_proof_says_the_same_wherever_the_model_has_room(converter, tmp_path, monkeypatch):
    """As float32, as stored and widened in turn, and from the disk; with an adapter where that is possible."""
    import torch
    from transformers import AutoModelForCausalLM

    from core.export import prove_child
    from core.export.room import SPARE_BYTES

    subprocess.run([sys.executable, "-c", ADAPTER, str(STARTER), str(tmp_path / "adapter")], check=True, capture_output=True)
    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(STARTER, dtype=torch.bfloat16).save_pretrained(half)
    stored = (half / "model.safetensors").stat().st_size
    rows = [{"input_ids": row["input_ids"], "positions": row["positions"]} for row in labelled_rows(STARTER, TALKS)]

    def said(free, adapter=None):
        monkeypatch.setattr(prove_child, "free", lambda: [("cpu", free)])
        return prove_child.log_probabilities(prove_child.load(str(half), str(tmp_path), adapter), rows, 2**30, lambda done: None)

    plenty, tight, next_to_none = 2**40, SPARE_BYTES + int(1.5 * stored), stored
    for adapter in (None, str(tmp_path / "adapter")):
        assert np.array_equal(said(plenty, adapter), said(tight, adapter))
    assert np.array_equal(said(plenty), said(next_to_none))
    with pytest.raises(UserError, match="of memory"):
        said(next_to_none, str(tmp_path / "adapter"))

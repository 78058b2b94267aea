"""An importance matrix from conversations: the figures llama.cpp would collect, accepted by it, and worth what it costs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from core.conversation import Conversation, Turn
from core.errors import UserError
from core.export import artifacts
from core.export.gguf import make_gguf
from core.export.header import gguf_header
from core.export.imatrix import make_imatrix, read_imatrix
from core.export.measure import measure
from core.export.quantise import exact_sizes, quantise
from core.paths import EXAMPLES, STARTER
from tests.unit.export.gguf_files import GOOD

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def said(file, step):
    records = [json.loads(line) for line in (EXAMPLES / file).read_text(encoding="utf-8").splitlines()][::step]
    return [
        Conversation(str(n), (Turn("user", record["question"]), Turn("assistant", record["answer"]))) for n, record in enumerate(records)
    ]


@pytest.fixture(scope="module")
def matrix(levels, tmp_path_factory):
    events = []
    out = tmp_path_factory.mktemp("imatrix") / "imatrix.gguf"
    made = make_imatrix(STARTER, levels["f16"].gguf_path, said("starter_eval.jsonl", 2), out, on_event=events.append)
    assert events[-1]["done"] == events[-1]["total"] and made == out
    return out


def test_every_weight_of_the_blocks_has_the_mean_square_of_its_inputs(matrix, levels):
    found = read_imatrix(matrix)
    widths = {tensor.name: tensor.shape[0] for tensor in gguf_header(levels["f16"].gguf_path).tensors if len(tensor.shape) == 2}
    assert {name for name in widths if name.startswith("blk.")} == set(found)
    for name, values in found.items():
        assert values.shape == (widths[name],) and values.dtype == np.float32 and (values >= 0).all() and values.any()
    assert np.array_equal(found["blk.0.attn_q.weight"], found["blk.0.attn_k.weight"]), "both see the same input"


def test_the_figures_are_those_of_a_forward_pass(levels, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    from core.data.render import tokenize
    from core.data.tokenizer import load_tokenizer

    conversations = said("starter_eval.jsonl", 40)[:3]
    found = read_imatrix(make_imatrix(STARTER, levels["f16"].gguf_path, conversations, tmp_path / "m.gguf"))
    model = AutoModelForCausalLM.from_pretrained(STARTER)
    seen = []
    model.model.layers[0].mlp.gate_proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0].float()))
    tokenizer = load_tokenizer(STARTER)
    with torch.inference_mode():
        for conversation in conversations:
            model(torch.tensor([tokenize(conversation, tokenizer).input_ids]))
    expected = torch.cat(seen).square().mean(dim=0).numpy()
    np.testing.assert_allclose(found["blk.0.ffn_gate.weight"], expected, rtol=1e-4)


def test_the_same_conversations_give_the_same_file(levels, tmp_path):
    conversations = said("starter_eval.jsonl", 40)[:3]
    first, second = (make_imatrix(STARTER, levels["f16"].gguf_path, conversations, tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert first.read_bytes() == second.read_bytes()


def test_levels_of_few_bits_come_into_reach_and_others_lose_less(matrix, levels, starter, tmp_path):
    """The figures are on conversations that the matrix was not made from."""
    names = ["Q2_K", "IQ3_S", "IQ2_XXS"]
    plain = make_gguf(starter, ["f16", *names[:2]], tmp_path / "plain", run_id="plain")
    guided = make_gguf(starter, ["f16", *names], tmp_path / "guided", run_id="guided", imatrix=matrix)
    held_out = said("starter_eval.jsonl", 1)[1::4]
    before = measure(plain[1:], plain[0], held_out)
    after = measure(guided[1:], guided[0], held_out)
    for name in ("q2-k", "iq3-s"):
        assert after[f"guided-{name}"]["kl_mean"] < 0.95 * before[f"plain-{name}"]["kl_mean"]
    assert guided[3].level == "IQ2_XXS" and guided[3].imatrix_sha256 == guided[1].imatrix_sha256 and plain[1].imatrix_sha256 is None
    sizes = exact_sizes(guided[0].gguf_path, names, imatrix=matrix)
    assert sizes == {artifact.level: artifact.size_bytes for artifact in guided[1:]}


def test_a_level_is_made_anew_when_it_shall_be_guided(matrix, starter, tmp_path):
    plain = make_gguf(starter, ["q4_0"], tmp_path / "out", run_id="r")[0]
    guided = make_gguf(starter, ["q4_0"], tmp_path / "out", run_id="r", imatrix=matrix)[0]
    assert guided.files != plain.files and guided.imatrix_sha256
    stamp = guided.gguf_path.stat().st_mtime_ns
    assert make_gguf(starter, ["q4_0"], tmp_path / "out", run_id="r", imatrix=matrix)[0].gguf_path.stat().st_mtime_ns == stamp


def test_what_is_no_matrix_or_that_of_another_model_is_refused(matrix, levels, tmp_path):
    (tmp_path / "other.gguf").write_bytes(GOOD)
    for wrong in (tmp_path / "other.gguf", levels["f16"].gguf_path):
        with pytest.raises(UserError, match="no importance matrix") as refusal:
            quantise(levels["f16"].gguf_path, {"q4_0": tmp_path / "out.gguf"}, imatrix=wrong)
        assert refusal.value.code == "IMATRIX"
    with pytest.raises(UserError, match="no importance matrix"):
        read_imatrix(tmp_path / "other.gguf")
    with pytest.raises(UserError, match="no conversation"):
        make_imatrix(STARTER, levels["f16"].gguf_path, [], tmp_path / "none.gguf")
    assert not (tmp_path / "out.gguf").exists() and not (tmp_path / "none.gguf").exists()


def test_the_command_line_lists_sizes_and_makes_a_matrix(levels, tmp_path):
    def core(*arguments):
        done = subprocess.run([sys.executable, "-m", "core", *arguments, "--json"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    sizes = core("levels", str(levels["f16"].gguf_path))["size_bytes"]
    assert sizes["q4_0"] == levels["q4_0"].size_bytes and sizes["IQ2_XXS"] < sizes["Q2_K"] and len(sizes) > 25
    data = tmp_path / "data.json"
    turns = [{"from": "human", "value": "hello"}, {"from": "gpt", "value": "Good day to you."}]
    data.write_text(json.dumps([{"id": "1", "conversations": turns}]))
    made = core("gguf", str(STARTER), "--levels", "IQ2_XXS", "--imatrix", "auto", "--data", str(data), "-o", str(tmp_path / "out"))
    path = artifacts.read(tmp_path / "out" / "gguf-iq2-xxs").gguf_path
    assert made["artifacts"][0]["path"] == str(path) and (tmp_path / "out" / "imatrix.gguf").is_file()

"""An importance matrix from conversations: the figures llama.cpp would collect, accepted by it, and worth what it costs."""

import json
import subprocess
import sys

import numpy as np
import pytest

from core.conversation import Conversation, Turn
from core.data.render import render
from core.errors import UserError
from core.export import artifacts, ladder
from core.export.artifacts import read
from core.export.gguf import make_gguf
from core.export.header import gguf_header
from core.export.imatrix import make_imatrix, read_imatrix
from core.export.levels import OFFERED, level_of_file
from core.export.measure import measure
from core.export.quantise import exact_sizes, quantise
from core.paths import EXAMPLES, STARTER, sha256_file
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
    """Guided and plain files stand side by side; the figures are on conversations that the matrix was not made from.

    All of their tokens count: the starter is so sure of its answers that their tokens alone say little.
    """
    names = ["f16", "Q2_K", "Q2_K+imatrix", "IQ3_S", "IQ3_S+imatrix", "IQ2_XXS"]
    made = {artifact.level: artifact for artifact in make_gguf(starter, names, tmp_path / "out", run_id="r", imatrix=matrix)}
    assert [artifact.folder.name for artifact in made.values()][1:3] == ["gguf-q2-k", "gguf-q2-k-imatrix"]
    assert made["Q2_K+imatrix"].gguf_path.name == "Starter-4.7M-imatrix-Q2_K.gguf" and made["Q2_K+imatrix"].id == "r-q2-k-imatrix"
    template = (STARTER / "chat_template.jinja").read_text(encoding="utf-8")
    text = "\n".join(render(conversation, template).text for conversation in said("starter_eval.jsonl", 1)[1::4])
    figures = measure(list(made.values()), made["f16"], [], text=text)
    for name in ("Q2_K", "IQ3_S"):
        assert figures[made[f"{name}+imatrix"].id]["kl_mean"] < 0.95 * figures[made[name].id]["kl_mean"]
    matrices = {name: artifact.imatrix_sha256 for name, artifact in made.items()}
    assert matrices["f16"] == matrices["Q2_K"] == matrices["IQ3_S"] is None
    assert matrices["IQ2_XXS"] == matrices["Q2_K+imatrix"] == sha256_file(matrix)
    sizes = exact_sizes(made["f16"].gguf_path, names[1:])
    assert sizes == {name: artifact.size_bytes for name, artifact in made.items() if name != "f16"}
    gains = ladder.gains([read(artifact.folder) for artifact in made.values()])
    assert [(gain.level, gain.guided < gain.plain) for gain in gains] == [("Q2_K", True), ("IQ3_S", True)]


def test_every_level_that_is_offered_can_be_made_and_has_the_size_foretold(matrix, levels, tmp_path):
    source, quantised = levels["f16"].gguf_path, [known for known in OFFERED if known.group != "float"]
    foretold = exact_sizes(source, [known.name for known in OFFERED])
    files = {known.name: tmp_path / f"{known.encoding}.gguf" for known in quantised}
    quantise(source, files, imatrix=matrix)
    assert {name: file.stat().st_size for name, file in files.items()} == {known.name: foretold[known.name] for known in quantised}
    assert all(level_of_file(files[known.name]).ftype == known.ftype for known in quantised)


def test_a_guided_level_is_made_anew_for_another_matrix_only(matrix, levels, starter, tmp_path):
    def made(imatrix):
        return make_gguf(starter, ["q4_0+imatrix"], tmp_path / "out", run_id="r", imatrix=imatrix)[0]

    first = made(matrix)
    stamp = first.gguf_path.stat().st_mtime_ns
    assert made(matrix).gguf_path.stat().st_mtime_ns == stamp and made(None).gguf_path.stat().st_mtime_ns == stamp
    other = make_imatrix(STARTER, levels["f16"].gguf_path, said("starter_eval.jsonl", 40)[:3], tmp_path / "other.gguf")
    assert made(other).imatrix_sha256 == sha256_file(other) and made(other).files != first.files


def test_a_guided_level_without_a_matrix_is_refused_by_name(levels, tmp_path):
    with pytest.raises(UserError, match=r"Q4_K_M\+imatrix needs an importance matrix") as refusal:
        quantise(levels["f16"].gguf_path, {"Q4_K_M+imatrix": tmp_path / "out.gguf"})
    assert refusal.value.code == "IMATRIX" and not (tmp_path / "out.gguf").exists()


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

"""What counts as proved: something was compared and it held. What could not be compared is not proved, and what broke has not held."""

import json
import shutil

import pytest

from core.conversation import Conversation, Turn
from core.errors import UserError
from core.export import artifacts, prove
from core.export.artifacts import Artifact
from core.paths import STARTER
from core.publish.card import proof_sentences
from core.training.recipe import Recipe
from tests.unit.export.gguf_files import GOOD
from ui.models_view import proofs as shown

LONG = Conversation("long", (Turn("user", "Count."), Turn("assistant", "one " * 300)))
HELD = {"merge_kl": 0.0, "merge_top1": 1.0, "passed": True}


@pytest.fixture
def run_dir(workspace, tmp_path):
    """A run with a merged model and an f16 file, whose contents do not matter."""
    for name, kind, level in (("merged", "merged", None), ("gguf-f16", "gguf", "f16")):
        folder = tmp_path / "run" / "artifacts" / name
        folder.mkdir(parents=True)
        (folder / ("config.json" if kind == "merged" else "m.gguf")).write_bytes(b"{}" if kind == "merged" else GOOD)
        artifacts.write(Artifact(id=f"r-{name}", kind=kind, level=level, name="m", run_id="r"), folder)
    return tmp_path / "run"


def test_without_a_comparison_nothing_is_proved():
    assert prove.passed({}) is None and prove.passed({"trained_to_merged_kl": 1.0}) is None
    assert prove.passed({"template_identical": True}) is True
    assert prove.passed({"template_identical": True, "merge_kl": 1.0}) is False
    assert proof_sentences({"passed": None}) == ["Not proved: there was nothing to compare."]
    assert "not proved" in shown([Artifact(id="a", kind="merged", name="a", proofs={"passed": None})])


@pytest.mark.parametrize(
    ("code", "is_stored"), [("DECODE", True), ("CRASH", True), ("TEMPLATE", True), ("MEMORY", False), ("EMPTY", False)]
)
def test_a_proof_that_broke_has_not_held_unless_the_machine_is_to_blame(run_dir, monkeypatch, code, is_stored):
    def breaks(*_arguments, **_options):
        raise UserError("It broke.", "here", "Mend it.", code)

    artifacts.update(artifacts.read(run_dir / "artifacts" / "merged"), proofs=HELD)
    monkeypatch.setattr(prove, "prove", breaks)
    with pytest.raises(UserError, match="It broke"):
        prove.prove_run(run_dir / "artifacts", Recipe(), [LONG])
    assert artifacts.read(run_dir / "artifacts" / "merged").proofs == ({"passed": False, "error": code} if is_stored else HELD)
    monkeypatch.setattr(prove, "prove", lambda *_arguments, **_options: HELD)
    prove.prove_run(run_dir / "artifacts", Recipe(), [LONG])
    assert all(artifact.proofs == HELD for artifact in artifacts.of_run(run_dir)), "the error is gone"


def test_a_merged_model_elsewhere_is_the_one_that_is_proved(run_dir, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(prove, "prove", lambda merged, adapter, f16, *_arguments, **_options: seen.append((merged.folder, f16)) or HELD)
    shutil.copytree(run_dir / "artifacts", tmp_path / "else")
    elsewhere = artifacts.read(tmp_path / "else" / "merged")
    prove.prove_run(run_dir / "artifacts", Recipe(), [LONG], elsewhere=elsewhere)
    assert seen == [(elsewhere.folder, None)], "the f16 file beside it does not say that it was made of it"
    assert artifacts.read(elsewhere.folder).proofs == HELD and artifacts.read(run_dir / "artifacts" / "merged").proofs == {}


def test_a_run_without_a_merged_model_says_so(run_dir):
    shutil.rmtree(run_dir / "artifacts" / "merged")
    with pytest.raises(UserError, match="no merged model"):
        prove.prove_run(run_dir / "artifacts", Recipe(), [LONG])


def test_conversations_are_cut_where_training_and_the_context_end(monkeypatch, tmp_path):
    whole = prove.labelled_rows(STARTER, [LONG])[0]
    cut = prove.labelled_rows(STARTER, [LONG], 40)[0]
    assert len(whole["input_ids"]) > 300 and cut["whole"] == whole["input_ids"] == whole["whole"] and cut["text"] == whole["text"]
    assert cut["input_ids"] == whole["input_ids"][:40] and max(cut["positions"]) == 38, "the next token is there"
    for limit, max_length, expected in ((64, None, 64), (64, 50, 50), (64, 200, 64)):
        folder = tmp_path / f"{limit}-{max_length}"
        shutil.copytree(STARTER, folder)
        config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": limit}
        (folder / "config.json").write_text(json.dumps(config))
        sent = []
        monkeypatch.setattr(prove.process, "call_child", lambda _module, payload, sent=sent, **_options: sent.append(payload) or {})
        prove.prove(artifacts.resolve(str(folder)), None, None, [LONG], max_length=max_length)
        assert len(sent[0]["rows"][0]["input_ids"]) == expected


def test_conversations_without_an_answer_are_refused_in_words():
    for conversations in ([], [Conversation("asked", (Turn("user", "?"),))]):
        with pytest.raises(UserError, match="no answer to compare") as refusal:
            prove.prove(artifacts.resolve(str(STARTER)), None, None, conversations)
        assert refusal.value.code == "EMPTY"

"""A model from elsewhere is refused with a reason, or becomes a run that has nothing to train."""

import fnmatch
import json

import pytest

from core import events, paths
from core.errors import UserError
from core.export import artifacts, taking
from core.running import runs, steps
from core.running import taking as runs_taking
from core.training.models import FETCHED, ModelRef

QUESTIONS = str(paths.EXAMPLES / "identity_eval.json")


@pytest.mark.parametrize(
    ("reference", "levels", "words"), [("  ", ["q8_0"], "No model"), ("starter", [], "No level"), ("starter", ["q9_9"], "q9_9")]
)
def test_what_is_not_named_is_asked_for(reference, levels, words):
    with pytest.raises(UserError, match=words):
        runs_taking.recipe_of(reference, levels, QUESTIONS)


def test_the_name_is_the_models_own_made_harmless():
    assert runs_taking.recipe_of("lmsys/vicuna-7b-v1.5", ["q4_0"], QUESTIONS).name == "vicuna-7b-v1.5"
    assert runs_taking.recipe_of("/models/my model/", ["q4_0"], QUESTIONS).name == "my-model"


def test_the_run_is_its_askers_and_takes_conversions_and_figures_as_its_steps(workspace):
    run_id = runs_taking.create(runs_taking.recipe_of("starter", ["f16", "q4_0"], QUESTIONS), owner="ada")
    run = runs.load(run_id)
    assert (run.owner, run.is_taken, [step.name for step in run.steps]) == ("ada", True, ["take", "gguf", "measure", "prove"])
    assert runs.recipe_of(run_id).max_length == 1024, "the starter has no more positions"


def test_files_are_linked_and_code_pickles_and_optimizers_stay_behind(tmp_path, workspace):
    source = tmp_path / "model"
    source.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "LICENSE", "modeling_own.py", "pytorch_model.bin", "optimizer.pt"):
        (source / name).write_text("{}")
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": [{"name": "default", "template": "{{ messages }}"}]}))
    out = tmp_path / "run" / "artifacts" / "merged"
    out.parent.mkdir(parents=True)
    made = taking.take(ModelRef("user/model", source, "abc"), "model", out, "run-1")
    kept = {file.name for file in made.files}
    assert kept == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "LICENSE", "chat_template.jinja"}
    assert (out / "model.safetensors").samefile(source / "model.safetensors")
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"
    assert not (source / "chat_template.jinja").exists(), "nothing is written into somebody else's folder"
    assert artifacts.read(out).base_model == "user/model" and made.base_revision == "abc"


def test_a_model_without_a_template_is_neither_measured_nor_proved_and_says_so(make_run):
    run_dir = runs.folder(make_run("ends"))
    events.append(run_dir, "created", run_id=run_dir.name, name="m", method=events.TAKEN, steps=("take", "gguf", "measure", "prove"))
    steps.measure(run_dir)
    steps.prove(run_dir)
    notes = runs.load(run_dir.name).notes
    assert len(notes) == 2 and all("no chat template" in note for note in notes)


def test_every_licence_text_is_fetched():
    wanted = ("LICENSE", "LICENCE.txt", "NOTICE", "Notice", "USE_POLICY.md", "LICENSE-MODEL")
    assert all(any(fnmatch.fnmatchcase(name, pattern) for pattern in FETCHED) for name in wanted)

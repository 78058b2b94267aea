"""A model that was not trained here goes the same road: converted, quantised, measured, proved, and published as what it is."""

import shutil

import pytest

from core import paths
from core.errors import UserError
from core.export import artifacts
from core.export.levels import level
from core.paths import EXAMPLES, STARTER
from core.publish.preflight import preflight
from core.running import care, runs, taking

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
LEVELS = ("f16", "q4_0")


@pytest.fixture(scope="module")
def model(tmp_path_factory, converter):
    """The starter under another name, in a folder of somebody else's."""
    folder = tmp_path_factory.mktemp("models") / "Foreign-5M"
    shutil.copytree(STARTER, folder)
    return folder


@pytest.fixture(scope="module")
def run(model):
    run_id = taking.create(taking.recipe_of(str(model), LEVELS, str(EXAMPLES / "identity_eval.json")))
    runs.start(run_id)
    *_, ended = runs.follow(run_id)
    assert ended.state == "done", ended.error
    return ended


def made(run):
    return {artifact.level or artifact.kind: artifact for artifact in artifacts.of_run(runs.folder(run.run_id))}


def test_every_level_is_measured_and_every_proof_holds(run):
    found = made(run)
    assert found.keys() == {"merged", "f16", "q4_0"}
    assert found["q4_0"].measured["kl_mean"] > found["f16"].measured["kl_mean"] == 0
    assert found["q4_0"].proofs["passed"] and found["q4_0"].proofs["template_identical"] and "merge_kl" not in found["q4_0"].proofs
    assert found["q4_0"].gguf_path.name.startswith("Foreign-5M-")


def test_the_weights_are_those_of_the_folder(run, model):
    assert paths.sha256_file(made(run)["merged"].folder / "model.safetensors") == paths.sha256_file(model / "model.safetensors")


def test_more_levels_are_made_without_a_training(run):
    care.add_levels(run.run_id, ["Q2_K", level("Q4_K_M").guided.name])
    *_, ended = runs.follow(run.run_id)
    assert ended.state == "done", ended.error
    assert {step.name for step in ended.steps} == {"take", "gguf", "measure", "prove"}
    assert made(run)["Q4_K_M+imatrix"].measured["kl_mean"] < made(run)["Q2_K"].measured["kl_mean"]


def test_a_level_is_made_from_the_float_format_that_was_chosen_for_it(run):
    with pytest.raises(UserError, match="q8_0 is no float format"):
        care.add_levels(run.run_id, ["q5_0"], "q8_0")
    care.add_levels(run.run_id, ["q5_0"], "f32")
    *_, ended = runs.follow(run.run_id)
    assert ended.state == "done", ended.error
    found = made(run)
    assert found["q5_0"].float_level == "f32" and found["q4_0"].float_level == "f16" and found["q5_0"].measured["kl_mean"] > 0
    assert found["q5_0"].proofs["passed"] and found["q5_0"].proofs["template_identical"] and found["q5_0"].proofs["tokens_identical"]


def test_it_is_published_as_levels_of_the_model_and_never_as_a_fine_tune(run):
    found = made(run)
    card = next(file.text for file in preflight([found["q4_0"]], "me/Foreign-GGUF").files if file.path == "README.md")
    assert "fine-tune" not in card and "Trained by" not in card and "identity" not in card
    with pytest.raises(UserError, match="nothing here has changed it"):
        preflight([found["merged"]], "me/Foreign")

"""A recipe leaves in five forms; each is valid as what it claims to be, and carries every knob that matters."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cli.run import chosen_recipe
from core.paths import STARTER
from core.running import runs
from core.training import exports, prepare, script
from core.training.hardware import Gpu, Hardware, TorchBuild
from core.training.models import ModelRef
from core.training.presets import PRESETS
from core.training.recipe import Recipe, load

CPU = Hardware(2, 24 * 10**9, (), TorchBuild("2.13.0+cpu", None))
GPUS = Hardware(32, 200 * 10**9, (Gpu("NVIDIA A100", 80 * 10**9, (8, 0)),) * 4, TorchBuild("2.13.0", "12.8"))
every_preset = pytest.mark.parametrize("name", PRESETS)


@every_preset
def test_exported_yaml_is_the_recipe(name: str, tmp_path: Path) -> None:
    recipe = PRESETS[name]()
    (tmp_path / "recipe.yaml").write_text(exports.export(recipe, "yaml", CPU), encoding="utf-8")
    assert load(tmp_path / "recipe.yaml") == exports.portable(recipe)


@every_preset
def test_every_preset_is_a_script_and_a_valid_notebook(name: str) -> None:
    recipe = PRESETS[name]()
    ast.parse(script.script(recipe))
    book = nbformat.reads(exports.export(recipe, "notebook", CPU), as_version=4)
    nbformat.validate(book)
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    assert "trl==" in code[0]
    assert "".join(code[1:]).replace("\n", "") == script.script(exports.portable(recipe)).replace("\n", ""), "the cells are the script"


@given(
    method=st.sampled_from(["qlora", "lora", "sft", "fft"]), loss=st.sampled_from(["answers", "all", "last"]), packing=st.booleans(),
    template=st.sampled_from(["model", "vicuna_v1.1"]), rope=st.sampled_from(["none", "linear"]), base=st.text(min_size=1, max_size=30),
    patience=st.integers(0, 2), head=st.booleans(),
)  # fmt: skip
def test_any_recipe_is_a_script_that_parses(method, loss, packing, template, rope, base, patience, head) -> None:
    recipe = Recipe(
        method=method, loss_on=loss, packing=packing, chat_template=template, rope_scaling=rope, base_model=base, train_head=head,
        early_stopping_patience=patience, eval_steps=5 * patience, train_norms=head, target_modules="q_proj, v_proj",
    )  # fmt: skip
    tree = ast.parse(script.script(recipe))
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert recipe.base_model in strings or recipe.base_model == "starter", "whatever the name, it arrives as it is and never as code"


@every_preset
@pytest.mark.parametrize("to", ["command", "slurm"])
@pytest.mark.parametrize("hardware", [CPU, GPUS], ids=["cpu", "gpus"])
def test_shell_files_parse(name: str, to: exports.To, hardware: Hardware) -> None:
    text = exports.export(PRESETS[name](), to, hardware)
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_command_names_the_configuration_of_the_recipe() -> None:
    text = exports.export(PRESETS["fastchat-fft"](), "command", GPUS)
    assert "accelerate launch --config_file spaces/accelerate/fsdp2.yaml --num_processes 4" in text
    assert "spaces/accelerate/cpu.yaml --num_processes 1" in exports.export(PRESETS["demo"](), "command", CPU)


@pytest.mark.parametrize(
    ("name", "config"), [("fastchat-fft", "fsdp2"), ("mlabonne-qlora", "single_gpu"), ("fastchat-qlora-zero2", "zero2_offload")]
)
def test_the_command_of_a_recipe_for_gpus_does_not_hide_them_where_it_was_written_without(name: str, config: str) -> None:
    text = exports.export(PRESETS[name](), "command", CPU)
    assert f"--config_file spaces/accelerate/{config}.yaml" in text
    assert "CUDA_VISIBLE_DEVICES" not in text and "ACCELERATE_USE_CPU" not in text


def test_a_length_that_nobody_chose_follows_the_model_in_every_export(tmp_path: Path) -> None:
    """The starter has 1,024 positions, the knob's default is 2,048."""
    for to in ("yaml", "slurm"):
        assert "\nmax_length: " not in exports.export(Recipe(), to, CPU)
        assert "\nmax_length: 512\n" in exports.export(Recipe(max_length=512), to, CPU)
    assert "MAX_LENGTH = 512\n" in script.script(Recipe(max_length=512))
    assert "MAX_LENGTH = min(2048, " in script.script(Recipe())
    (tmp_path / "recipe.yaml").write_text(exports.export(Recipe(), "yaml", CPU), encoding="utf-8")
    assert prepare.settled(load(tmp_path / "recipe.yaml"), ModelRef("starter", STARTER)).max_length == 1024


def test_a_batch_job_asks_for_gpus_where_the_recipe_needs_them_and_carries_the_recipe() -> None:
    text = exports.export(PRESETS["fastchat-fft"](), "slurm", CPU)
    assert "#SBATCH --gpus-per-node=4" in text and "--time=24:00:00" in text
    assert PRESETS["fastchat-fft"]().to_yaml() in text
    assert "gpus-per-node" not in exports.export(PRESETS["demo"](), "slurm", CPU)


def test_a_batch_job_keeps_its_runs_where_every_other_run_is() -> None:
    """sbatch hands the environment down; another workspace is one that whoever submits it has set."""
    assert "TRANSMUTE_HOME=" not in exports.export(PRESETS["demo"](), "slurm", CPU)


@pytest.mark.parametrize(("env", "on_cpu"), [({}, True), ({"ACCELERATE_USE_DEEPSPEED": "true"}, False)])
def test_the_script_leaves_deepspeed_on_a_cpu_to_the_launcher(env: dict[str, str], on_cpu: bool) -> None:
    """accelerate's use_cpu would quietly turn it into plain data parallelism."""
    tree = ast.parse(script.script(Recipe(accelerate_config="zero2")))
    given = next(node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "use_cpu")
    known = {"HAS_GPU": False, "os": SimpleNamespace(environ=env)}
    assert eval(compile(ast.Expression(given), "script", "eval"), known) is on_cpu


def test_a_recipe_cannot_end_its_own_place_in_the_batch_file() -> None:
    recipe = Recipe(sample_prompts="RECIPE\nrm -rf x\nRECIPE")
    text = exports.export(recipe, "slurm", CPU)
    end = text.split("<<'")[1].split("'")[0]
    assert text.count(f"\n{end}\n") == 1


def test_no_path_of_this_machine_is_exported() -> None:
    from core.paths import PROJECT

    for to in exports.FORMATS:
        assert str(PROJECT) not in exports.export(PRESETS["demo"](), to, CPU)
    assert json.loads(exports.export(PRESETS["demo"](), "notebook", CPU))["nbformat"] == 4


def test_exported_yaml_is_taken_by_train(workspace: Path, tmp_path: Path) -> None:
    """The whole way, without its last step: file, command line's reading of it, a run's folder with the same recipe."""
    recipe = PRESETS["demo"]().model_copy(update={"max_steps": 2, "levels": (), "learning_rate": 3e-4})
    file = tmp_path / "recipe.yaml"
    file.write_text(exports.export(recipe, "yaml", CPU), encoding="utf-8")
    chosen = chosen_recipe(file, None, None, None, None, "train")
    run_id = runs.create(chosen)
    assert runs.recipe_of(run_id) == exports.portable(recipe)

"""What a run needs before it goes on: the places of today, and the base model that it began with."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from core import paths
from core.errors import UserError
from core.running import resuming, runs
from core.training import accelerated, prepare
from core.training.hardware import detect
from core.training.presets import demo
from core.training.recipe import Recipe


def make(**knobs):
    return runs.folder(runs.create(demo().model_copy(update={"levels": ()} | knobs)))


def launch(run_dir):
    return paths.read_json(run_dir / "launch.json")


def test_a_run_that_moved_nowhere_is_left_as_it_is(workspace):
    run_dir = make()
    before = (run_dir / "launch.json").read_bytes()
    resuming.settle_here(run_dir)
    assert (run_dir / "launch.json").read_bytes() == before


def test_a_copy_of_a_run_trains_in_its_own_folder(workspace):
    first = make(report_to="wandb")
    second = shutil.copytree(first, first.with_name("copy"))
    resuming.settle_here(second)
    assert launch(second)["argv"][-1] == launch(second)["env"]["WANDB_DIR"] == str(second)
    assert str(first) not in json.dumps(launch(second)) and launch(first)["argv"][-1] == str(first)


def test_a_workspace_that_moved_to_a_larger_disk_is_at_home_there(workspace, tmp_path, monkeypatch):
    """Also a base model that lay in it, and the run's own configuration files, of which one names the other."""
    base, other = shutil.copytree(paths.STARTER, workspace / "models" / "base"), workspace.with_name(f"{workspace.name}-2") / "base"
    text, settings = accelerated.texts(Recipe(), "zero2", detect())
    own = {"accelerate_config": "zero2", "num_processes": 2, "accelerate_yaml": text, "deepspeed_json": settings}
    run_dir = make(base_model=str(base), method="lora", **own)
    paths.write_json(run_dir / "launch.json", launch(run_dir) | {"beside": str(other)})
    larger = tmp_path / "larger"
    shutil.move(workspace, larger)
    monkeypatch.setenv("TRANSMUTE_HOME", str(larger))
    moved = runs.folder(run_dir.name)
    resuming.settle_here(moved)
    assert launch(moved)["model"]["path"] == str(larger / "models" / "base") and launch(moved)["beside"] == str(other)
    assert f"{workspace}/" not in (moved / "launch.json").read_text() + (moved / "accelerate.yaml").read_text()
    named = yaml.safe_load((moved / "accelerate.yaml").read_text())["deepspeed_config"]["deepspeed_config_file"]
    assert Path(named) == moved / "deepspeed.json" and str(moved / "accelerate.yaml") in launch(moved)["argv"]
    resuming.require_base(moved, None)


def test_a_run_of_another_installation_uses_this_ones_python_and_files(workspace):
    run_dir = make(method="lora", accelerate_config="zero3", num_processes=2)
    before = launch(run_dir)
    elsewhere = json.dumps(before).replace(sys.executable, "/opt/old/bin/python").replace(str(paths.PROJECT), "/opt/old/transmute")
    (run_dir / "launch.json").write_text(elsewhere)
    resuming.settle_here(run_dir)
    resuming.require_base(run_dir, None)
    assert launch(run_dir)["argv"] == before["argv"] and launch(run_dir)["model"] == before["model"]


def test_a_base_model_that_was_changed_since_the_run_began_is_refused(workspace, tmp_path):
    base = shutil.copytree(paths.STARTER, tmp_path / "base")
    run_dir = make(base_model=str(base))
    resuming.require_base(run_dir, None)
    weights = bytearray((base / "model.safetensors").read_bytes())
    middle = len(weights) // 2
    weights[middle:] = bytes(len(weights) - middle)
    (base / "model.safetensors").write_bytes(weights)
    with pytest.raises(UserError, match="are not those that the run began with"):
        runs.start(run_dir.name)
    assert not runs.is_going_on(run_dir.name)
    shutil.copyfile(paths.STARTER / "model.safetensors", base / "model.safetensors")
    resuming.require_base(run_dir, None)


@pytest.mark.parametrize("name", ["recipe.yaml", "dataset.json", "launch.json", "tokenizer"])
def test_a_run_without_what_its_worker_reads_first_is_refused_by_the_name_of_the_file(name, workspace):
    run_dir = make()
    path = run_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=rf"{name} is gone"):
        runs.start(run_dir.name)
    assert not runs.is_going_on(run_dir.name)


def test_a_recipe_with_a_knob_of_another_version_is_refused_before_anything_starts(workspace):
    run_dir = make()
    with (run_dir / "recipe.yaml").open("a") as file:
        file.write("knob_of_yesterday: 3\n")
    with pytest.raises(UserError, match="knob_of_yesterday: there is no such knob"):
        runs.start(run_dir.name)


def test_a_run_that_could_not_be_made_leaves_no_folder(workspace, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare, "stretched_base", full)
    with pytest.raises(UserError, match="disk is full") as caught:
        make()
    assert caught.value.code == "DISK" and not list(paths.runs_dir().iterdir())

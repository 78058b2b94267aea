"""A run that ran out of memory is offered the smallest change that stays below what it held, and goes on with it."""

import dataclasses
import sys
from pathlib import Path

import pytest

from core import events, paths
from core.errors import UserError
from core.running import relief, runs
from core.training import fits, forecast
from core.training.architecture import read_config
from core.training.hardware import Gpu, Hardware, TorchBuild
from core.training.presets import demo
from core.training.shapes import shapes
from core.training.workload import Workload
from tests.unit.running.waiting import wait_for

MB = 10**6
KNOBS = {"method": "lora", "levels": (), "micro_batch_size": 8, "gradient_accumulation_steps": 2, "eval_dataset": "", "eval_fraction": 0.0}
CPU = Hardware(2, 24 * 10**9, (), TorchBuild("2.13.0+cpu", None))


def made(**knobs) -> Path:
    """The folder of a run whose worker says that memory ran out."""
    run_id = runs.create(demo().model_copy(update=KNOBS | knobs), hardware=CPU, steps=("train",))
    run_dir = runs.folder(run_id)
    launch = paths.read_json(run_dir / "launch.json")
    argv = [sys.executable, "-m", "tests.unit.running.a_worker", str(run_dir), "refuse"]
    paths.write_json(run_dir / "launch.json", launch | {"argv": argv, "device": "test"})
    return run_dir


def ran_out(run_dir: Path, held_bytes: int) -> None:
    events.append(run_dir, "started", pid=1)
    events.append(run_dir, "worker_error", error={"problem": "p", "where": "w", "remedy": "r", "code": "OOM"}, held_bytes=held_bytes)


def expected(run_dir: Path, knobs: dict) -> float:
    recipe = runs.recipe_of(run_dir.name).model_copy(update=knobs)
    work = Workload(300, 300 * 60, 256, 0, 0, is_counted=True)
    return forecast.of_shapes(recipe, shapes(read_config(paths.STARTER)), CPU, work).peak_bytes


def test_the_batch_is_halved_and_its_sum_kept_and_less_memory_takes_more_of_it(workspace):
    run_dir = made()
    found = []
    for held_bytes in (0, 180 * MB, 150 * MB):
        ran_out(run_dir, held_bytes)
        change = relief.change_for(run_dir)
        assert change and relief.is_in_place(change.knobs)
        assert not held_bytes or change.peak_bytes <= relief.SPARE * held_bytes
        if "micro_batch_size" in change.knobs:
            assert change.knobs["micro_batch_size"] * change.knobs["gradient_accumulation_steps"] == 16
        found.append(change.peak_bytes)
    assert found == sorted(found, reverse=True)
    assert found[0] <= relief.SPARE * expected(run_dir, {}), "that it fits by the estimate is no answer: it did not"


def test_where_nothing_helps_nothing_is_offered(workspace):
    run_dir = made()
    ran_out(run_dir, MB)
    assert relief.change_for(run_dir) is None
    with pytest.raises(UserError, match="No change is known"):
        runs.start(run_dir.name, fit=True)


def test_a_failed_run_says_the_change_and_goes_on_with_it(workspace):
    run_dir = made()
    runs.start(run_dir.name)
    run = wait_for(lambda: (found := runs.load(run_dir.name)).is_terminal and found)
    knobs = run.change["knobs"]
    assert run.state == "failed" and run.error["code"] == "OOM"
    assert fits.assignments(knobs) in run.error["remedy"] and "resume RUN --fit" in run.error["remedy"]
    before = paths.read_json(run_dir / "launch.json")["estimate"]["peak_bytes"]
    runs.start(run_dir.name, fit=True)
    again = wait_for(lambda: (found := runs.load(run_dir.name)).is_terminal and found)
    changed = runs.recipe_of(run_dir.name)
    assert {name: getattr(changed, name) for name in knobs} == knobs
    assert paths.read_json(run_dir / "launch.json")["estimate"]["peak_bytes"] < before
    assert any(fits.assignments(knobs) in note for note in again.notes)
    assert again.change["knobs"] != knobs, "the second time it asks for more"


def test_a_run_that_is_resumed_as_it_is_keeps_its_recipe(workspace):
    run_dir = made()
    kept = runs.recipe_of(run_dir.name)
    runs.start(run_dir.name)
    wait_for(lambda: runs.load(run_dir.name).is_terminal)
    runs.start(run_dir.name)
    assert runs.load(run_dir.name).change == {}
    wait_for(lambda: runs.load(run_dir.name).is_terminal)
    assert runs.recipe_of(run_dir.name) == kept


def test_what_a_run_cannot_go_on_with_is_for_a_new_one(workspace):
    run_dir = made()
    change = fits.Change({"method": "qlora"}, "The base is held in 4 bit.", 1.0)
    error = relief.told(UserError("p", "w", "r", code="OOM"), change)
    assert "method=qlora" in error.remedy and "new run" in error.remedy and error.code == "OOM"
    events.append(run_dir, "finished", state="failed", error=error.as_dict(), change={"knobs": change.knobs, "said": change.said})
    with pytest.raises(UserError, match="cannot go on with method=qlora"):
        runs.start(run_dir.name, fit=True)


def test_a_machine_is_read_again_as_it_was_written(tmp_path):
    machine = Hardware(8, 10**10, (Gpu("NVIDIA A10G", 24 * 10**9, (8, 6), 1, "GPU-1"),), TorchBuild("2.13.0", "12.8"))
    paths.write_json(tmp_path / "hardware.json", dataclasses.asdict(machine))
    assert Hardware.from_dict(paths.read_json(tmp_path / "hardware.json")) == machine

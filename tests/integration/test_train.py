"""Every method trains for real on the starter, alone and on two ranks; what dies is resumed to the same losses."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from core import events, paths
from core.export import artifacts
from core.running import runs
from core.training import checkpoints, exports, setting
from core.training.hardware import detect
from core.training.presets import demo
from tests.weights import require_learnt

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("workspace")]

QUICK = {"max_steps": 4, "levels": (), "save_steps": 2, "micro_batch_size": 4}


def start(hardware=None, **knobs):
    run_id = runs.create(demo().model_copy(update=QUICK | knobs), hardware=hardware)
    runs.start(run_id)
    return run_id


def with_one_thread(**found):
    """This machine with one CPU: each new run measures how many threads are fastest, and their number can show in the last bits of a loss."""
    return dataclasses.replace(detect(), cpu_count=1, **found)


def finished(run_id):
    *_, run = runs.follow(run_id)
    return run


def wait_for_step(run_id, step):
    for run in runs.follow(run_id, poll_s=0.02):
        if run.optimizer_step >= step:
            return
    raise AssertionError(f"the run ended before step {step}: {run.error}")


def log_of(run_id):
    return (runs.folder(run_id) / runs.LOG).read_text(errors="replace")[-3000:]


def test_a_run_is_of_the_one_who_asked_for_it():
    assert runs.load(runs.create(demo(), owner="ada")).owner == "ada"


METHODS = {
    "qlora": ({"method": "qlora"}, "adapter"),
    "lora, packed": ({"method": "lora", "packing": True, "micro_batch_size": 1}, "adapter"),
    "sft": ({"method": "sft", "trainable_layers": 2}, "merged"),
    "fft": ({"method": "fft", "learning_rate": 1e-4}, "merged"),
}


def proved_without_levels(method: str) -> bool | None:
    """A merge is compared with its adapter; where the whole model was trained, there is nothing else to compare it with."""
    return True if method in ("lora", "qlora") else None


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_lowers_the_loss_and_leaves_a_proved_model(name):
    knobs, first = METHODS[name]
    run = finished(start(**knobs))
    assert run.state == "done", log_of(run.run_id)
    assert run.facts["eval_loss_after"] < run.facts["eval_loss_before"]
    assert run.facts["proofs"]["passed"] is proved_without_levels(knobs["method"])
    made = {artifact.folder.name: artifact for artifact in artifacts.of_run(runs.folder(run.run_id))}
    assert set(made) == {first, "merged"}
    assert all(artifact.files for artifact in made.values())
    assert all(paths.sha256_file(artifact.folder / file.name) == file.sha256 for artifact in made.values() for file in artifact.files)


def test_only_the_last_layers_change_under_sft():
    run_id = start(method="sft", trainable_layers=2)
    assert finished(run_id).state == "done", log_of(run_id)
    before = load_file(paths.STARTER / "model.safetensors")
    after = load_file(runs.folder(run_id) / "artifacts" / "merged" / "model.safetensors")
    layers = json.loads((paths.STARTER / "config.json").read_text())["num_hidden_layers"]
    assert set(after) == set(before), "tied weights are written once"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith((f"model.layers.{layers - 1}.", f"model.layers.{layers - 2}.")) for name in changed)


def test_an_evaluation_takes_no_gradient_away_from_a_4_bit_base():
    """bitsandbytes 0.50 repacks its weights at the first evaluation on some CPUs, and what it runs then has no gradient."""
    run = finished(start(method="qlora", eval_steps=1))
    assert run.state == "done", log_of(run.run_id)
    assert run.metrics and all(values["grad_norm"] > 0 for values in run.metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["qlora", "lora", "fft"])
def test_bf16_on_a_cpu_trains_to_about_the_losses_of_float32(method):
    shared = {"method": method, "learning_rate": 1e-4, "max_steps": 3, "save_steps": 0, "packing": True, "micro_batch_size": 2}
    whole, half = (finished(start(**shared, dtype=dtype)) for dtype in ("fp32", "bf16"))
    assert half.state == "done" and half.facts["proofs"]["passed"] is proved_without_levels(method), log_of(half.run_id)
    assert [half.losses[step] for step in (1, 2, 3)] == pytest.approx([whole.losses[step] for step in (1, 2, 3)], rel=0.05)
    assert half.losses != whole.losses


@pytest.mark.parametrize("is_quick", [True, False])
def test_the_precision_that_a_run_was_created_with_is_what_it_computes_in(is_quick, monkeypatch):
    """`auto` is decided once, by the CPU of the machine that creates the run: a resumed one goes on in it whatever the CPU is then."""
    monkeypatch.setattr(setting, "BF16_WEIGHTS", 1)
    hardware = with_one_thread(gpus=(), cpu_has_bf16=is_quick)
    run_id = runs.create(demo().model_copy(update=QUICK | {"method": "lora", "max_steps": 2}), hardware=hardware, steps=("train",))
    assert json.loads((runs.folder(run_id) / "launch.json").read_text())["precision"] == ("bf16" if is_quick else "fp32")
    runs.start(run_id)
    run = finished(run_id)
    asked = finished(start(hardware, method="lora", max_steps=2, dtype="bf16" if is_quick else "fp32"))
    assert run.state == "done" and run.losses == asked.losses, log_of(run_id)


def test_a_4_bit_model_keeps_no_file_of_its_base_in_memory(tmp_path):
    from core.training.recipe import Recipe
    from core.training.train import load_model

    file = tmp_path / "base" / "model.safetensors"
    shutil.copytree(paths.STARTER, file.parent)
    model = load_model(file.parent, Recipe(method="qlora", dtype="bf16"), torch.bfloat16)
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert str(file) not in Path("/proc/self/maps").read_text()


FLOAT_ERROR = 1e-5  # of losses that are added up in another order
SMALL = {"learning_rate": 1e-4, "max_steps": 3, "save_steps": 0}
FLAT = {"packing": True, "max_length": 128}
TWO_RANKS = {
    "ddp, fft": ("ddp", "fft", {}),
    "ddp, lora": ("ddp", "lora", {}),
    "ddp, lora, packed": ("ddp", "lora", FLAT),
    "ddp, qlora": ("ddp", "qlora", {}),
    "zero2, fft": ("zero2", "fft", {}),
    "zero2, lora": ("zero2", "lora", {}),
    "zero2, lora, packed": ("zero2", "lora", FLAT),
    "zero2, qlora": ("zero2", "qlora", {}),
    "zero3, fft": ("zero3", "fft", {}),
    "zero3, lora": ("zero3", "lora", {}),
    "zero3, lora, packed": ("zero3", "lora", FLAT),
    "zero3, qlora": ("zero3", "qlora", {"quant_storage": "compute"}),
}


@functools.cache
def on_one_rank(method, is_packed):
    """What the same rows give on one rank, as one micro batch; trained once for all tests of this file."""
    knobs = QUICK | SMALL | (FLAT if is_packed else {}) | {"method": method, "micro_batch_size": 2}
    run_id = runs.create(demo().model_copy(update=knobs), steps=("train",))
    runs.start(run_id)
    run = finished(run_id)
    assert run.state == "done", log_of(run_id)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", TWO_RANKS)
def test_two_ranks_see_the_rows_of_one_rank_with_twice_the_batch(name):
    config, method, knobs = TWO_RANKS[name]
    one = on_one_rank(method, "packing" in knobs)
    two = finished(start(**SMALL | knobs, method=method, micro_batch_size=1, num_processes=2, accelerate_config=config))
    assert two.state == "done", log_of(two.run_id)
    assert two.facts["num_processes"] == 2
    close = functools.partial(pytest.approx, rel=2e-3 if method == "qlora" else FLOAT_ERROR)
    assert [two.losses[step] for step in (1, 2, 3)] == close([one.losses[step] for step in (1, 2, 3)])
    assert two.facts["eval_loss_after"] == close(one.facts["eval_loss_after"])
    assert two.facts["proofs"]["passed"] is proved_without_levels(method)
    require_learnt(runs.folder(two.run_id) / "artifacts" / ("merged" if method == "fft" else "adapter"), method)


def test_exported_yaml_runs_with_train(tmp_path):
    recipe = demo().model_copy(update=QUICK | {"method": "lora", "max_steps": 2, "save_steps": 0})
    file = tmp_path / "recipe.yaml"
    file.write_text(exports.export(recipe, "yaml", detect()), encoding="utf-8")
    argv = [sys.executable, "-m", "core", "train", str(file), "--json"]
    done = subprocess.run(argv, cwd=paths.PROJECT, capture_output=True, text=True, timeout=300)
    said = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and said["state"] == "done" and said["step"] == 2, done.stderr
    assert runs.recipe_of(said["run_id"]) == exports.portable(recipe)


def begin_on_two_machines(folder, recipes):
    """`train` on two machines that reach each other at 127.0.0.1, each with its own workspace."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [("--nodes", "2", "--rank", str(rank), "--address", "127.0.0.1", "--port", str(port)) for rank in range(2)]
    for rank, recipe in enumerate(recipes):
        (folder / f"recipe{rank}.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    return [on_machine(folder, rank, "train", str(folder / f"recipe{rank}.yaml"), *place) for rank, place in enumerate(places)]


def on_machine(folder, rank, *words):
    env = os.environ | {"TRANSMUTE_HOME": str(folder / f"machine{rank}")}
    return subprocess.Popen([sys.executable, "-m", "core", *words, "--json"], cwd=paths.PROJECT, env=env, stdout=subprocess.PIPE, text=True)


def ended(machines):
    """(exit codes, what each said)"""
    said = [machine.communicate(timeout=500)[0] for machine in machines]
    return [machine.returncode for machine in machines], [json.loads(text.splitlines()[-1]) for text in said]


def on_two_machines(folder, recipes):
    return ended(begin_on_two_machines(folder, recipes))


@pytest.mark.slow
def test_two_machines_of_one_rank_each_see_the_rows_of_one_with_twice_the_batch(tmp_path):
    shared = {"method": "lora", "lora_dropout": 0.0, "max_steps": 3, "save_steps": 2, "packing": False}
    one = finished(start(**shared, micro_batch_size=4))
    assert one.state == "done", log_of(one.run_id)
    recipe = demo().model_copy(update=QUICK | shared | {"micro_batch_size": 2})
    codes, (first, second) = on_two_machines(tmp_path, (recipe, recipe))
    assert codes == [0, 0], (first, second)
    for told in (first, second):
        assert [loss for _, loss in told["losses"]] == pytest.approx([one.losses[step] for step in (1, 2, 3)], rel=FLOAT_ERROR)
        assert told["facts"]["num_processes"] == 2
        assert told["facts"]["eval_loss_after"] == pytest.approx(one.facts["eval_loss_after"], rel=FLOAT_ERROR)
        newest, refused = checkpoints.newest_whole(Path(told["run_dir"]) / "checkpoints")
        assert newest and not refused and checkpoints.step_of(newest) == 3
    assert {entry["kind"] for entry in first["artifacts"]} == {"adapter", "merged"} and first["facts"]["proofs"]["passed"]
    assert second["artifacts"] == [] and list(second["steps"]) == ["train"] and "machine 0" in second["notes"][0]


@pytest.mark.slow
def test_two_machines_of_which_one_dies_go_on_together_to_the_losses_of_two_that_were_left_alone(tmp_path):
    knobs = {"method": "lora", "lora_dropout": 0.1, "max_steps": 8, "save_steps": 2, "packing": False, "micro_batch_size": 2}
    recipe = demo().model_copy(update=QUICK | knobs)
    codes, (whole, _) = on_two_machines(tmp_path / "whole", (recipe, recipe))
    assert codes == [0, 0], whole
    hurt = tmp_path / "hurt"
    machines = begin_on_two_machines(hurt, (recipe, recipe))
    while not any(events.fold(events.read(run_dir)).optimizer_step >= 3 for run_dir in (hurt / "machine1" / "runs").glob("*")):
        assert all(machine.poll() is None for machine in machines), "it ended before it could be killed"
        time.sleep(0.02)
    (rank,) = (process for process in psutil.process_iter(["cmdline"]) if works_on(process, hurt / "machine1"))
    os.kill(rank.pid, signal.SIGKILL)
    codes, stopped = ended(machines)
    assert codes == [1, 1] and stopped[1]["state"] == "interrupted", stopped
    codes, told = ended([on_machine(hurt, rank, "resume", each["run_id"]) for rank, each in enumerate(stopped)])
    assert codes == [0, 0], told
    assert [each["losses"] for each in told] == [whole["losses"]] * 2 and told[0]["facts"]["proofs"]["passed"]


def works_on(process, home):
    """Whether it is a rank of a run in this workspace, and not the launcher that started it."""
    words = process.info["cmdline"] or []
    return words[-2:-1] == ["core.worker"] and str(home) in words[-1] and "accelerate.commands.launch" not in words


@pytest.mark.slow
def test_a_stop_on_one_of_two_machines_is_a_stop_on_both(tmp_path):
    recipe = demo().model_copy(update=QUICK | {"method": "lora", "max_steps": 400, "save_steps": 0})
    machines = begin_on_two_machines(tmp_path, (recipe, recipe))
    while not (logs := [*tmp_path.glob("machine1/runs/*/events.jsonl")]) or '"train_log"' not in logs[0].read_text():
        assert machines[1].poll() is None, "it ended before its first step"
        time.sleep(0.1)
    assert json.loads(on_machine(tmp_path, 1, "stop", logs[0].parent.name).communicate()[0].splitlines()[-1])["state"] == "cancelled"
    _, told = ended(machines)
    assert [each["state"] for each in told] == ["cancelled", "cancelled"] and [each["error"] for each in told] == [None, None]
    assert told[0]["step"] == told[1]["step"] > 0


def test_machines_that_do_not_train_the_same_thing_end_both_with_a_word(tmp_path):
    recipes = tuple(demo().model_copy(update=QUICK | {"method": "lora", "seed": seed}) for seed in (0, 1))
    codes, told = on_two_machines(tmp_path, recipes)
    assert codes == [1, 1] and [each["error"]["code"] for each in told] == ["NODES", "NODES"], told


def test_a_killed_run_goes_on_to_exactly_the_losses_of_one_that_was_left_alone():
    knobs = {"hardware": with_one_thread(), "method": "qlora", "max_steps": 8, "save_steps": 3, "lora_dropout": 0.1}
    whole = finished(start(**knobs))
    assert whole.state == "done", log_of(whole.run_id)
    run_id = start(**knobs)
    wait_for_step(run_id, 5)
    workers = [psutil.Process(pid) for pid in runs.pids(run_id)[1:]]
    os.kill(workers[0].pid, signal.SIGKILL)
    killed = finished(run_id)
    assert killed.state == "interrupted" and "SIGKILL" in killed.error["problem"]
    runs.start(run_id)
    resumed = finished(run_id)
    assert resumed.state == "done", log_of(run_id)
    assert resumed.losses == whole.losses
    assert resumed.facts["eval_loss_after"] == whole.facts["eval_loss_after"]


ENDS = {
    "after its last step": {"max_steps": 3, "save_steps": 1},
    "after it stopped early": {"max_steps": 9, "save_steps": 1, "eval_steps": 1, "early_stopping_patience": 1, "learning_rate": 1.0},
}


@pytest.mark.parametrize("when", ENDS)
def test_a_run_that_died_at_its_end_makes_no_step_more_when_it_is_resumed(when):
    """Between its last checkpoint and its adapter, which takes an evaluation and a save."""
    knobs = {"method": "lora", "lr_scheduler_type": "constant", "warmup_steps": 0, "lora_dropout": 0.0} | ENDS[when]
    run_id = runs.create(demo().model_copy(update=QUICK | knobs), hardware=with_one_thread(), steps=("train",))
    runs.start(run_id)
    whole, adapter = finished(run_id), runs.folder(run_id) / "artifacts" / "adapter"
    assert whole.state == "done" and len(whole.losses) < 9, log_of(run_id)
    before = load_file(adapter / "adapter_model.safetensors")
    shutil.rmtree(adapter)
    events.append(runs.folder(run_id), "finished", state="interrupted")
    runs.start(run_id)
    again = finished(run_id)
    assert again.state == "done" and again.losses == whole.losses, log_of(run_id)
    assert again.facts["eval_loss_after"] == whole.facts["eval_loss_after"] and again.notes == whole.notes
    after = load_file(adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_stopped_run_saves_frees_the_device_and_resumes_from_where_it_stood():
    run_id = start(method="lora", max_steps=40, save_steps=0)
    wait_for_step(run_id, 3)
    stopped = runs.stop(run_id)
    assert stopped.state == "cancelled" and runs.pids(run_id) == []
    newest, refused = checkpoints.newest_whole(runs.folder(run_id) / "checkpoints")
    assert newest and not refused and checkpoints.step_of(newest) == stopped.optimizer_step
    runs.start(run_id)
    wait_for_step(run_id, stopped.optimizer_step + 1)
    assert min(runs.load(run_id).losses) == 1
    runs.stop(run_id)


def test_a_run_goes_on_from_its_checkpoint_with_smaller_micro_batches_to_the_losses_of_the_larger():
    """The change that a run is offered when memory runs out: half the rows at a time, twice as many times."""
    knobs = {"method": "lora", "max_steps": 12, "save_steps": 2, "lora_dropout": 0.0, "packing": False, "gradient_accumulation_steps": 1}
    whole = finished(start(**knobs))
    assert whole.state == "done", log_of(whole.run_id)
    run_id = start(**knobs)
    wait_for_step(run_id, 3)
    runs.stop(run_id)
    run_dir = runs.folder(run_id)
    step = checkpoints.step_of(checkpoints.all_of(run_dir / "checkpoints")[0])
    assert 3 <= step < 12
    change = {"knobs": {"micro_batch_size": 2, "gradient_accumulation_steps": 2}, "said": "A little slower."}
    events.append(run_dir, "finished", state="failed", error=None, change=change)
    runs.start(run_id, fit=True)
    done = finished(run_id)
    assert done.state == "done", log_of(run_id)
    begun = [event["step"] for event in events.read(run_dir) if event["kind"] == "train_began"]
    assert begun == [0, step]
    assert [done.losses[at] for at in range(1, 13)] == pytest.approx([whole.losses[at] for at in range(1, 13)], rel=2e-3)
    assert runs.recipe_of(run_id).micro_batch_size == 2

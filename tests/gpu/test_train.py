"""On a GPU: every method trains through the real worker, under every accelerate configuration, and goes on after a kill."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess

import psutil
import pytest

from core import events, paths, process
from core.export import artifacts
from core.running import runs
from core.training.presets import demo
from tests.weights import require_learnt

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300), pytest.mark.usefixtures("workspace"), pytest.mark.filterwarnings("default")]

QUICK = {"max_steps": 4, "levels": (), "save_steps": 2, "packing": True, "max_length": 512, "micro_batch_size": 1, "learning_rate": 1e-4}


def trained(**knobs):
    run_id = runs.create(demo().model_copy(update=QUICK | knobs), steps=("train",))
    folder = runs.folder(run_id)
    launch = json.loads((folder / "launch.json").read_text())
    worker = subprocess.run(launch["argv"], env=process.child_environment(launch["env"]), cwd=paths.PROJECT, capture_output=True, text=True)
    assert worker.returncode == 0, worker.stdout[-2000:] + worker.stderr[-4000:]
    return folder, events.fold(events.read(folder))


METHODS = {
    "qlora": {"method": "qlora"},
    "lora": {"method": "lora"},
    "lora, checkpointing": {"method": "lora", "gradient_checkpointing": True},
    "lora, not packed": {"method": "lora", "packing": False, "micro_batch_size": 4},
    "dora": {"method": "lora", "use_dora": True},
    "sft": {"method": "sft"},
    "fft": {"method": "fft"},
    "fft, 8-bit Adam": {"method": "fft", "optim": "adamw_8bit"},
    "qlora, paged Adam": {"method": "qlora", "optim": "paged_adamw_8bit"},
}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_trains_in_bf16_and_lowers_the_loss(name):
    folder, run = trained(**METHODS[name])
    assert run.facts["device"] != "cpu" and run.facts["memory_bytes"]["train"] > 0
    assert run.facts["eval_loss_after"] < run.facts["eval_loss_before"]
    (made,) = artifacts.of_run(folder)
    require_learnt(made.folder, METHODS[name]["method"])


SHARED = {
    "fsdp2, lora": {"accelerate_config": "fsdp2", "method": "lora"},
    "fsdp2, fft": {"accelerate_config": "fsdp2", "method": "fft"},
    "fsdp2, qlora": {"accelerate_config": "fsdp2", "method": "qlora", "quant_storage": "compute"},
    "zero2, qlora": {"accelerate_config": "zero2", "method": "qlora"},
    "zero2, fft": {"accelerate_config": "zero2", "method": "fft"},
    "zero3, lora": {"accelerate_config": "zero3", "method": "lora"},
    "zero3, fft": {"accelerate_config": "zero3", "method": "fft"},
}


SAME = {"lora_dropout": 0.0, "save_steps": 0, "max_steps": 3}


@functools.cache
def losses_alone(method):
    _, run = trained(**SAME, method=method)
    return [run.losses[step] for step in (1, 2, 3)]


@pytest.mark.parametrize("name", SHARED)
def test_shared_weights_on_one_process_train_to_the_losses_of_a_single_gpu(name):
    knobs = SHARED[name]
    folder, run = trained(**SAME | knobs)
    assert [run.losses[step] for step in (1, 2, 3)] == pytest.approx(losses_alone(knobs["method"]), rel=0.03)
    (made,) = artifacts.of_run(folder)
    require_learnt(made.folder, knobs["method"])


def test_a_killed_run_goes_on_to_about_the_losses_of_one_that_was_left_alone():
    """Exactly on a CPU; on a GPU the kernels' sums differ from run to run."""
    knobs = {"method": "qlora", "max_steps": 8, "save_steps": 3}
    _, whole = trained(**knobs)
    run_id = runs.create(demo().model_copy(update=QUICK | knobs), steps=("train",))
    runs.start(run_id)
    for run in runs.follow(run_id, poll_s=0.02):
        if run.optimizer_step >= 5:
            break
    os.kill(psutil.Process(runs.pids(run_id)[1]).pid, signal.SIGKILL)
    *_, killed = runs.follow(run_id)
    assert killed.state == "interrupted"
    runs.start(run_id)
    *_, resumed = runs.follow(run_id)
    assert resumed.state == "done"
    assert [resumed.losses[step] for step in range(1, 9)] == pytest.approx([whole.losses[step] for step in range(1, 9)], rel=0.02)


def test_telemetry_reads_the_gpu():
    from core.usage import usage

    (gpu, *_) = usage().gpus
    assert gpu.memory_total_bytes > 2**30 and 0 <= gpu.utilisation <= 1 and gpu.temperature_c > 0 and gpu.power_w > 0

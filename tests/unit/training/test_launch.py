"""Launch commands are data, compared whole."""

import sys
from pathlib import Path

import pytest

from core.errors import UserError
from core.paths import SPACES
from core.training.hardware import Gpu, Hardware, TorchBuild
from core.training.launch import Node, command
from core.training.recipe import Recipe

GB = 2**30
CPU = Hardware(2, 24 * GB, (), TorchBuild("2.13.0+cpu", None))
A100 = Gpu("NVIDIA A100", 80 * GB, (8, 0))
RUN = Path("/w/runs/r")


def gpus(gpu, count):
    return Hardware(16, 200 * GB, (gpu,) * count, TorchBuild("2.13.0", "12.8"))


def test_one_process_needs_no_launcher():
    launch = command(RUN, Recipe(), CPU, threads=2)
    assert launch.argv == (sys.executable, "-m", "core.worker", "/w/runs/r")
    assert launch.env == {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    assert command(RUN, Recipe(), gpus(A100, 1), threads=8).argv == launch.argv


def test_a_large_run_on_a_cpu_gives_freed_tensors_back_at_once():
    assert command(RUN, Recipe(), CPU, threads=2, peak_bytes=2 * GB).env["MALLOC_MMAP_THRESHOLD_"] == "262144"
    assert "MALLOC_MMAP_THRESHOLD_" not in command(RUN, Recipe(), gpus(A100, 1), threads=2, peak_bytes=2 * GB).env


def test_four_gpus_go_through_accelerate_with_a_file_of_spaces():
    launch = command(RUN, Recipe(accelerate_config="fsdp2"), gpus(A100, 4), threads=4)
    assert launch.argv == (
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(SPACES / "accelerate" / "fsdp2.yaml"),
        "--num_processes", "4", "--num_machines", "1", "--main_process_port", "0", "-m", "core.worker", "/w/runs/r",
    )  # fmt: skip
    assert launch.env == {"OMP_NUM_THREADS": "4"}


def test_several_gpus_take_ddp_by_themselves():
    assert command(RUN, Recipe(), gpus(A100, 2), threads=4).accelerate_config == "ddp"


def test_deepspeed_goes_through_the_launcher_even_alone():
    launch = command(RUN, Recipe(accelerate_config="zero2", num_processes=1), CPU, threads=1)
    assert "accelerate.commands.launch" in launch.argv
    assert launch.env["DS_ACCELERATOR"] == "cpu" and "ACCELERATE_USE_CPU" not in launch.env


def test_each_of_two_machines_gets_its_rank_and_where_the_first_one_is():
    launch = command(RUN, Recipe(), gpus(A100, 4), threads=4, node=Node(2, 1, "10.0.0.1", 29501))
    assert launch.argv[3:] == (
        "--config_file", str(SPACES / "accelerate" / "ddp.yaml"), "--num_processes", "8", "--num_machines", "2", "--machine_rank", "1",
        "--main_process_ip", "10.0.0.1", "--main_process_port", "29501", "-m", "core.worker", "/w/runs/r",
    )  # fmt: skip
    assert launch.num_processes == 8 and launch.accelerate_config == "ddp"
    one_each = command(RUN, Recipe(), CPU, threads=2, node=Node(2, 0, "first.local"))
    assert "accelerate.commands.launch" in one_each.argv and one_each.num_processes == 2
    zero = command(RUN, Recipe(accelerate_config="zero3"), gpus(A100, 4), threads=4, node=Node(2, 0, "10.0.0.1")).argv
    assert zero[zero.index("--deepspeed_multinode_launcher") + 1] == "standard"


@pytest.mark.parametrize(
    "place", [(1, 0, "a", 1), (2, 2, "a", 1), (2, -1, "a", 1), (2, 0, "", 1), (2, 0, "--rm", 1), (2, 0, "a b", 1), (2, 0, "a", 0)]
)
def test_a_place_that_cannot_be_is_refused(place):
    with pytest.raises(UserError):
        Node(*place)


@pytest.mark.parametrize("config", ["zero2_offload", "zero3_offload"])
def test_offloading_has_a_file_of_its_own(config):
    launch = command(RUN, Recipe(accelerate_config=config), gpus(A100, 2), threads=4)
    assert launch.argv[4] == str(SPACES / "accelerate" / f"{config}.yaml")


@pytest.mark.parametrize(("tracker", "names"), [("wandb", {"WANDB_MODE", "WANDB_DIR"}), ("trackio", {"TRACKIO_DIR"}), ("none", set())])
def test_a_tracker_writes_into_the_run_and_stays_off_the_network(tracker, names):
    env = command(RUN, Recipe(report_to=tracker), CPU, threads=1).env
    assert names <= set(env)
    assert env.get("WANDB_MODE", "offline") == "offline"
    assert all(str(RUN) in env[name] for name in names if name.endswith("_DIR"))

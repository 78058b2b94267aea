"""How a training worker is started: pure data in, an argument list and an environment out. Golden-tested."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.paths import SPACES
from core.training.hardware import Hardware
from core.training.recipe import Recipe

# Configurations under which every process holds only a share of the weights.
SHARDED = ("fsdp2", "zero3", "zero3_offload")
DEEPSPEED = ("zero2", "zero2_offload", "zero3", "zero3_offload")
OFFLOAD = ("zero2_offload", "zero3_offload")
SPREAD = ("ddp", "fsdp2", "zero3", "zero3_offload")  # what `auto` tries on several GPUs: the first that fits, quickest first
WORKER = "core.worker"  # the word of a command behind which the run's folder stands
OWN_FILE, OWN_DEEPSPEED = "accelerate.yaml", "deepspeed.json"  # in the folder of a run whose recipe has its own
# A CPU run that takes much memory maps every large tensor by itself and gives it back when it is freed. From glibc's heap, which cannot
# fill the holes between aligned blocks (sourceware.org/bugzilla 14581), a 134M LoRA took 3.9 GB instead of 3.0, for 7 % less CPU time;
# small models lose a quarter of their speed by it and need no memory saved.
LARGE_RUN_BYTES = 5 * 10**8
LARGE_TENSOR_BYTES = 2**18
ADDRESS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.:-]{0,252}[A-Za-z0-9])?|::1")  # a name, IPv4 or IPv6

PROJECT = "transmute"  # at the trackers
# Trackers write into the run's folder and never reach for a network (reliability rule R7 and its amendment).
TRACKERS: dict[str, Callable[[Path], dict[str, str]]] = {
    "wandb": lambda run_dir: {"WANDB_MODE": "offline", "WANDB_DIR": str(run_dir), "WANDB_PROJECT": PROJECT, "WANDB_SILENT": "true"},
    "trackio": lambda run_dir: {"TRACKIO_DIR": str(run_dir / "trackio")},
}


@dataclass(frozen=True)
class Node:
    """One of `count` machines that train together: `rank` counts from 0, and the first one is reached by all at `address` and `port`."""

    count: int
    rank: int
    address: str
    port: int = 29500

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"{self.count} machines are no several.", "--nodes", "Give --nodes 2 or more, or leave it out.")
        if not 0 <= self.rank < self.count:
            raise UserError(f"There is no machine {self.rank} among {self.count}.", "--rank", f"Give 0 to {self.count - 1}.")
        if not ADDRESS.fullmatch(self.address):
            remedy = "Give the name or the IP address at which the other machines reach the first one."
            raise UserError(f"{self.address!r} is no address.", "--address", remedy)
        if not 1 <= self.port <= 65535:
            raise UserError(f"{self.port} is no port.", "--port", "Give 1 to 65535, for example 29500.")


def node_commands(node: Node, arguments: list[str]) -> list[str]:
    """The command line that trains with `arguments`, the same on every machine but for its rank: one for each of them."""
    placed = ["--nodes", str(node.count), "--address", node.address, "--port", str(node.port)]
    return [shlex.join(["python", "-m", "core", "train", *arguments, *placed, "--rank", str(rank)]) for rank in range(node.count)]


@dataclass(frozen=True)
class Launch:
    """A worker's start: `argv` never passes through a shell, `env` is added to the allow-listed environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    accelerate_config: str
    num_processes: int


def num_processes(recipe: Recipe, hardware: Hardware) -> int:
    """One process per GPU, or one on a CPU, unless the recipe says otherwise."""
    return recipe.num_processes or max(1, len(hardware.gpus))


def config_of(recipe: Recipe, hardware: Hardware, node: Node | None = None) -> str:
    """The recipe's configuration; of `auto` the one that needs nothing to be shared, see `forecast.of_shapes` for the others."""
    if recipe.accelerate_config != "auto":
        return recipe.accelerate_config
    if num_processes(recipe, hardware) > 1 or node:
        return "ddp"
    return "single_gpu" if hardware.gpus else "cpu"


def across(config: str, node: Node | None) -> str:
    """What `auto` came to on one machine, as several take it: they have no common disk, which fsdp2 needs."""
    return "zero3" if node and config == "fsdp2" else config


def file_of(config: str, hardware: Hardware) -> Path:
    """The file of spaces/ that a configuration is launched with."""
    return SPACES / "accelerate" / f"{'cpu' if config == 'ddp' and not hardware.gpus else config}.yaml"


def command(run_dir: Path, recipe: Recipe, hardware: Hardware, threads: int, peak_bytes: float = 0.0, node: Node | None = None) -> Launch:
    """The command that trains `recipe` in `run_dir` on `hardware`, each process with `threads` CPU threads.

    `peak_bytes` is what a process is expected to take; 0 where that is not known. `node` is this machine's place among several.

    One process needs no launcher; two or more, and every DeepSpeed configuration, go through ``accelerate launch``.
    """
    count = num_processes(recipe, hardware)
    config = config_of(recipe, hardware, node)
    env = {"OMP_NUM_THREADS": str(threads)} | TRACKERS.get(recipe.report_to, lambda _: {})(run_dir)
    if not hardware.gpus:
        env["CUDA_VISIBLE_DEVICES"] = ""
        if peak_bytes > LARGE_RUN_BYTES:
            env["MALLOC_MMAP_THRESHOLD_"] = str(LARGE_TENSOR_BYTES)
        # accelerate's use_cpu would quietly turn DeepSpeed into plain data parallelism.
        env |= {"DS_ACCELERATOR": "cpu"} if config in DEEPSPEED else {"ACCELERATE_USE_CPU": "true"}
    worker = ("-m", WORKER, str(run_dir))
    if count == 1 and not node and config in ("cpu", "single_gpu", "ddp") and not recipe.has_own_files:
        return Launch((sys.executable, *worker), env, config, 1)
    file = run_dir / OWN_FILE if recipe.has_own_files else file_of(config, hardware)
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file))
    if node is None:
        options = ("--num_processes", str(count), "--num_machines", "1", "--main_process_port", "0")
        return Launch((*launcher, *options, *worker), env, config, count)
    total = count * node.count
    options = ("--num_processes", str(total), "--num_machines", str(node.count), "--machine_rank", str(node.rank))
    reached = ("--main_process_ip", node.address, "--main_process_port", str(node.port))
    alone = ("--deepspeed_multinode_launcher", "standard") if config in DEEPSPEED else ()  # not pdsh: every machine starts its own
    return Launch((*launcher, *options, *reached, *alone, *worker), env, config, total)

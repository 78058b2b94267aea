"""What this machine can do, and what can be rented: CPUs, memory, GPUs and the torch build, without importing torch.

The web process must never initialise CUDA, so GPUs are read from the driver's own program, `nvidia-smi`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.paths import SPACES

BF16_CAPABILITY = (8, 0)  # Ampere, NVIDIA CUDA C++ programming guide, table of arithmetic throughput
BF16_FLAGS = {"avx512_bf16", "amx_bf16"}  # of Linux's /proc/cpuinfo: dot products of bf16 on x86
CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")
GPU_LOCK = "gpu-"  # begins the name of a GPU's lock; what CUDA_VISIBLE_DEVICES calls it follows


@dataclass(frozen=True)
class Gpu:
    name: str
    vram_bytes: int
    compute_capability: tuple[int, int]  # (8, 6) for an A10G
    index: int = 0
    uuid: str = ""

    @property
    def has_bf16(self) -> bool:
        """Computes in bf16 by itself, not by emulation; FlashAttention 2 has the same condition."""
        return self.compute_capability >= BF16_CAPABILITY


@dataclass(frozen=True)
class TorchBuild:
    version: str  # "2.13.0+cpu"; empty when torch is not installed
    cuda: str | None  # "12.8", or None for a CPU build


@dataclass(frozen=True)
class Hardware:
    """What a run on this machine can use."""

    cpu_count: int
    ram_bytes: int
    gpus: tuple[Gpu, ...]  # empty too when the installed torch has no CUDA
    torch: TorchBuild
    cpu_has_bf16: bool = False  # its cores multiply bf16 by themselves; False where that is not known

    @property
    def has_bf16(self) -> bool:
        """Of the GPUs."""
        return bool(self.gpus) and all(gpu.has_bf16 for gpu in self.gpus)

    @staticmethod
    def from_dict(kept: dict[str, Any]) -> Hardware:
        """What `dataclasses.asdict` made of one, also when it has been JSON meanwhile."""
        gpus = tuple(Gpu(**gpu | {"compute_capability": tuple(gpu["compute_capability"])}) for gpu in kept["gpus"])
        return Hardware(kept["cpu_count"], kept["ram_bytes"], gpus, TorchBuild(**kept["torch"]), kept.get("cpu_has_bf16", False))


@dataclass(frozen=True)
class Flavour:
    """One kind of machine on the Hub. A price is None where none is published for that use."""

    name: str
    title: str
    cpus: int
    ram_gb: int
    gpu: str = ""
    gpus: int = 0
    vram_gb: int = 0  # per GPU
    compute_capability: str = ""
    has_bf16: bool = False
    space_usd_per_h: float | None = None
    job_usd_per_h: float | None = None

    @property
    def vram_bytes(self) -> int:
        """Of all its GPUs together."""
        return self.gpus * self.vram_gb * 10**9


def detect() -> Hardware:
    """This machine as a run sees it: affinity, container limits and ``CUDA_VISIBLE_DEVICES`` are taken into account."""
    torch = torch_build()
    return Hardware(cpu_count(), ram_bytes(), installed_gpus() if torch.cuda else (), torch, cpu_has_bf16(_read(CPUINFO)))


def flavours() -> tuple[Flavour, ...]:
    """The machines that Spaces and Jobs offer, smallest first within a kind; see `prices_read` for how old the prices are."""
    table = tomllib.loads((SPACES / "hardware.toml").read_text(encoding="utf-8"))
    return tuple(Flavour(name=name, **facts) for name, facts in table["flavours"].items())


def prices_read() -> tuple[str, tuple[str, ...]]:
    """The date at which the prices of `flavours` were read, and the pages."""
    table = tomllib.loads((SPACES / "hardware.toml").read_text(encoding="utf-8"))
    return str(table["read"]), tuple(table["sources"])


def cpu_count() -> int:
    """CPUs that this process may use, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        allowed = min(allowed, max(1, round(int(quota) / int(period))))
    return allowed


def cpu_has_bf16(cpuinfo: str) -> bool:
    """Whether every core of a machine with this ``/proc/cpuinfo`` multiplies bf16; False for a text that names no flags."""
    flags = [set(line.partition(":")[2].split()) for line in cpuinfo.splitlines() if line.startswith("flags")]
    return bool(flags) and all(of_core & BF16_FLAGS for of_core in flags)


def ram_bytes() -> int:
    """Main memory, or the container's limit when that is smaller."""
    import psutil

    total = psutil.virtual_memory().total
    limit = _read(CGROUP / "memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def torch_build() -> TorchBuild:
    """The installed torch, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return TorchBuild("", None)
    text = _read(Path(spec.origin).with_name("version.py"))
    version = re.search(r"^__version__ = '([^']+)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda(?::[^=]+)? = '([^']+)'", text, re.MULTILINE)
    return TorchBuild(version[1] if version else "", cuda[1] if cuda else None)


def is_zero_gpu() -> bool:
    """Whether this is a ZeroGPU Space, as the package `spaces` decides it."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def installed_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible, in its order; none on ZeroGPU, which lends one to the web process only."""
    if is_zero_gpu():
        return ()
    return visible(_gpus_by_smi(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(gpus: tuple[Gpu, ...], selection: str | None) -> tuple[Gpu, ...]:
    """CUDA's rule: unset shows all; else indices or UUIDs (or their beginnings) in order, up to the first that names none."""
    if selection is None:
        return gpus
    chosen: list[Gpu] = []
    for word in (word.strip() for word in selection.split(",")):
        match = [gpu for gpu in gpus if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word))]
        if not match:
            break
        chosen.append(match[0])
    return tuple(chosen)


def _gpus_by_smi() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=index,uuid,memory.total,compute_cap,name", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return parse_smi(answer.stdout) if answer.returncode == 0 else ()


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """The GPUs in nvidia-smi's answer to ``index,uuid,memory.total,compute_cap,name``; memory is in MiB there."""
    gpus: list[Gpu] = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",", 4)]
        if len(fields) == 5 and fields[2].isdigit() and re.fullmatch(r"\d+\.\d+", fields[3]):
            major, minor = fields[3].split(".")
            gpus.append(Gpu(fields[4], int(fields[2]) * 2**20, (int(major), int(minor)), int(fields[0]), fields[1]))
    return tuple(gpus)


def _read(path: Path) -> str:
    """A small system file's text, empty where it does not exist."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""

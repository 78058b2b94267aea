"""What this machine has and lacks, each finding with its remedy. Nothing heavy is imported: torch and llama.cpp are looked at from outside."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core import paths
from core.process import child_environment
from core.training.hardware import Hardware, detect, installed_gpus, is_zero_gpu

State = Literal["ok", "warn", "fail"]
GB = 10**9
# A 7B model: base, merged and f16 file 13 GB each, the five classic levels 23 GB (sizes of llama.cpp's README).
LOW_DISK_BYTES, TIGHT_DISK_BYTES = 2 * GB, 62 * GB
KNOWN_PYTHONS = ((3, 11), (3, 12))
SHOWN = ("transformers", "trl", "peft", "accelerate", "datasets", "gradio", "huggingface_hub")


@dataclass(frozen=True)
class Check:
    """One finding. `remedy` is empty when nothing has to be done."""

    name: str
    state: State
    found: str
    remedy: str = ""


def checks() -> list[Check]:
    """Every check of this machine, in the order a person would ask."""
    hardware = detect()
    return [
        python(),
        packages(paths.PROJECT / "requirements.txt"),
        memory(hardware),
        gpus(hardware),
        bf16(hardware),
        flash_attention(hardware),
        bitsandbytes(),
        llama_cpp(),
        converter(),
        disk(paths.home()),
        persistence(paths.home()),
        hub_login(),
    ]


def python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] not in KNOWN_PYTHONS:
        return Check(
            "Python", "warn", version, "The pinned packages are chosen for Python 3.11 and 3.12; take one of them if something fails."
        )
    return Check("Python", "ok", version)


def packages(requirements: Path) -> Check:
    """Whether every pinned package is installed at its pinned version."""
    from packaging.requirements import Requirement

    missing: list[str] = []
    other: list[str] = []
    versions: dict[str, str] = {}
    for line in requirements.read_text(encoding="utf-8").splitlines():
        requirement_text = re.split(r"\s--|(?:^|\s)#", line)[0].strip()
        if not requirement_text or requirement_text.startswith("-"):
            continue
        requirement = Requirement(requirement_text)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            versions[requirement.name] = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if not requirement.specifier.contains(versions[requirement.name], prereleases=True):
            other.append(f"{requirement.name} {versions[requirement.name]} (pinned {requirement.specifier})")
    remedy = "Run `make setup`, or pip install -r requirements.txt."
    if missing:
        return Check("Packages", "fail", f"not installed: {', '.join(missing)}", remedy)
    if other:
        return Check("Packages", "warn", f"not as pinned: {', '.join(other)}", remedy)
    return Check(
        "Packages", "ok", f"{len(versions)} as pinned; " + ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    )


def memory(hardware: Hardware) -> Check:
    found = f"{hardware.cpu_count} CPUs, {hardware.ram_bytes / GB:.1f} GB memory"
    if hardware.ram_bytes < 4 * GB:
        return Check("CPU and memory", "warn", found, "The starter model fits; larger ones need more memory.")
    return Check("CPU and memory", "ok", found)


def gpus(hardware: Hardware) -> Check:
    torch = hardware.torch
    build = f"torch {torch.version} ({f'CUDA {torch.cuda}' if torch.cuda else 'CPU build'})" if torch.version else "torch is not installed"
    if hardware.gpus:
        named = ", ".join(f"{gpu.name} ({gpu.vram_bytes / GB:.0f} GB)" for gpu in hardware.gpus)
        return Check("GPU", "ok", f"{named}; {build}")
    if idle := installed_gpus():
        remedy = "Reinstall torch with CUDA: see https://pytorch.org/get-started/locally."
        return Check("GPU", "warn", f"{idle[0].name} cannot be used: {build}", remedy)
    if is_zero_gpu():
        remedy = "ZeroGPU lends its GPU to the page for chats of a minute. Training happens on the CPU here, or on a rented machine."
        return Check("GPU", "warn", f"lent by ZeroGPU, none for training; {build}", remedy)
    remedy = "The starter model trains on the CPU. Larger models need an NVIDIA GPU: here, on a GPU Space, or through HF Jobs."
    return Check("GPU", "warn", f"none; {build}", remedy)


def bf16(hardware: Hardware) -> Check:
    if not hardware.gpus:
        small = "fp32 for models below 30M weights" if hardware.cpu_has_bf16 else "fp32"
        return Check("bf16", "ok", f"no GPU: training runs in {'bf16 on this CPU, and ' if hardware.cpu_has_bf16 else ''}{small}")
    if hardware.has_bf16:
        return Check("bf16", "ok", "every GPU has it")
    lacking = next(gpu for gpu in hardware.gpus if not gpu.has_bf16)
    return Check("bf16", "warn", f"{lacking.name} has none", "dtype=auto takes fp16 there; recipes that ask for bf16 need dtype=fp16.")


def flash_attention(hardware: Hardware) -> Check:
    name = "Flash attention"
    if not hardware.has_bf16:
        return Check(name, "ok", "needs an NVIDIA GPU of the Ampere generation or later; sdpa is used")
    if importlib.util.find_spec("flash_attn"):
        return Check(name, "ok", f"flash-attn {importlib.metadata.version('flash-attn')}")
    remedy = "Optional: pip install -r requirements-gpu.txt --no-build-isolation (compiles, needs nvcc)."
    return Check(name, "warn", "not installed; torch's sdpa is used", remedy)


def bitsandbytes() -> Check:
    try:
        return Check("bitsandbytes", "ok", f"{importlib.metadata.version('bitsandbytes')}: QLoRA can train, on a GPU or a CPU")
    except importlib.metadata.PackageNotFoundError:
        return Check("bitsandbytes", "fail", "not installed: QLoRA cannot train", "pip install -r requirements.txt")


def llama_cpp() -> Check:
    """Loads llama.cpp in a child, where a crash of the library is only a finding."""
    name = "llama.cpp"
    if importlib.util.find_spec("llama_cpp") is None:
        return Check(
            name, "fail", "not installed: no GGUF and no levels", "pip install -r requirements.txt (needs a C++ compiler and cmake)."
        )
    program = "import llama_cpp; print(llama_cpp.__version__, llama_cpp.llama_supports_gpu_offload())"
    try:
        child = subprocess.run(
            [sys.executable, "-c", program], env=child_environment(), capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return Check(
            name, "fail", "does not answer within a minute", "Build it anew: pip install --force-reinstall --no-cache-dir llama-cpp-python"
        )
    if child.returncode:
        return Check(name, "fail", "cannot be loaded", "Build it anew: pip install --force-reinstall --no-cache-dir llama-cpp-python")
    version, offload = child.stdout.split()[-2:]
    return Check(name, "ok", f"llama-cpp-python {version}, {'with' if offload == 'True' else 'without'} GPU offload")


def converter() -> Check:
    from core.export.converter import is_fetched

    if is_fetched():
        return Check("GGUF converter", "ok", "there")
    return Check(
        "GGUF converter",
        "warn",
        "not fetched yet",
        "`make setup` fetches it; otherwise the first conversion does, which needs the network.",
    )


def disk(home: Path) -> Check:
    free_bytes = shutil.disk_usage(_existing(home)).free
    found = f"{free_bytes / GB:.1f} GB free for {home}"
    if free_bytes < LOW_DISK_BYTES:
        return Check("Disk", "fail", found, "Free some space, or set TRANSMUTE_HOME to a larger disk.")
    if free_bytes < TIGHT_DISK_BYTES:
        return Check(
            "Disk", "warn", found, "Enough for small models; a 7B model with its merged form, f16 file and five levels takes about 62 GB."
        )
    return Check("Disk", "ok", found)


def persistence(home: Path) -> Check:
    """Whether the workspace can be written, and whether a Space keeps it when it restarts."""
    if problem := write_problem(home):
        return Check("Storage", "fail", f"{home} cannot be written: {problem}", "Set TRANSMUTE_HOME to a folder of yours.")
    if not os.environ.get("SPACE_ID"):
        return Check("Storage", "ok", f"{home} is kept")
    if os.path.ismount("/data") and home.is_relative_to("/data"):
        return Check("Storage", "ok", f"{home} lies on a mounted volume and is kept when the Space restarts")
    remedy = "Mount a Storage Bucket at /data in the Space's settings, or download and publish before the Space sleeps."
    return Check("Storage", "warn", f"{home} is lost when the Space restarts", remedy)


def write_problem(home: Path) -> str:
    """Why nothing can be written below `home`; empty when a probe file could be."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"probe")
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def hub_login() -> Check:
    """Whether a token is there; the token itself goes nowhere."""
    from huggingface_hub import get_token

    if get_token():
        return Check("Hub login", "ok", "a token is there")
    return Check("Hub login", "ok", "none; needed only for gated or private models and for publishing", "hf auth login")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder

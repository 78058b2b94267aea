"""What the machine is doing right now: GPUs as nvidia-smi sees them, CPU and memory, and who uses them."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from core.training.hardware import CGROUP, cpu_count, ram_bytes

KEPT_S = 0.9  # so that any number of visitors cost one look a second
GPU_FIELDS = "index,uuid,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw,power.limit,name"


@dataclass(frozen=True)
class GpuUsage:
    """One GPU. What the driver does not tell is None."""

    index: int
    uuid: str
    name: str
    utilisation: float | None  # 0 to 1
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    temperature_c: float | None
    power_w: float | None
    power_limit_w: float | None


@dataclass(frozen=True)
class ProcessUsage:
    """A process that holds GPU memory, or one of a run on a machine without a GPU."""

    pid: int
    name: str
    memory_bytes: int | None
    gpu_index: int | None = None


@dataclass(frozen=True)
class Usage:
    cpu_share: float  # 0 to 1, of all CPUs that may be used
    cpu_count: int
    ram_used_bytes: int
    ram_total_bytes: int
    gpus: tuple[GpuUsage, ...] = ()
    processes: tuple[ProcessUsage, ...] = ()


_lock = threading.Lock()
_latest: tuple[float, Usage] | None = None


def usage() -> Usage:
    """The machine's load, at most one second old."""
    global _latest
    with _lock:
        if _latest is None or time.monotonic() - _latest[0] > KEPT_S:
            _latest = (time.monotonic(), _look())
        return _latest[1]


def _look() -> Usage:
    import psutil

    total = ram_bytes()
    gpus = parse_gpus(_smi(f"--query-gpu={GPU_FIELDS}"))
    holders = parse_processes(_smi("--query-compute-apps=gpu_uuid,pid,used_memory,process_name"), gpus) if gpus else _children()
    cpu_share = min(1.0, psutil.cpu_percent(interval=None) / 100 * (psutil.cpu_count() or 1) / cpu_count())
    return Usage(cpu_share, cpu_count(), ram_used_bytes(total), total, gpus, holders)


def ram_used_bytes(total: int) -> int:
    """Memory that cannot be had, of this container or of the whole machine."""
    import psutil

    machine = psutil.virtual_memory()
    if total < machine.total and (CGROUP / "memory.current").is_file():
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, int((CGROUP / "memory.current").read_text()) - int(stat.get("inactive_file", 0)))
    return machine.total - machine.available


def _children() -> tuple[ProcessUsage, ...]:
    """Our own training, exporting and chatting processes."""
    import psutil

    found: list[ProcessUsage] = []
    for process in psutil.process_iter(["pid", "cmdline", "memory_info"]):
        words = process.info["cmdline"] or []
        module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
        if module in TITLES and process.info["memory_info"]:
            found.append(ProcessUsage(process.info["pid"], TITLES[module], process.info["memory_info"].rss))
    return tuple(sorted(found, key=lambda holder: -(holder.memory_bytes or 0)))


TITLES = {
    "core.worker": "training",
    "core.export.merge_child": "merging",
    "core.export.convert_child": "converting",
    "core.export.quantise_child": "quantising",
    "core.export.measure_child": "measuring",
    "core.export.prove_child": "proving",
    "core.export.llama_child": "proving",
    "core.chat.llama_child": "chatting",
    "core.chat.transformers_child": "chatting",
}


def _smi(query: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        answer = subprocess.run([program, query, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def parse_gpus(text: str) -> tuple[GpuUsage, ...]:
    """The GPUs in nvidia-smi's answer to `GPU_FIELDS`; memory is in MiB there, and ``[N/A]`` stands for what it does not know."""
    gpus: list[GpuUsage] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",", 8)]
        if len(cells) == 9 and cells[0].isdigit():
            load, used, total, temperature, power, limit = (_number(cell) for cell in cells[2:8])
            share = None if load is None else load / 100
            gpus.append(GpuUsage(int(cells[0]), cells[1], cells[8], share, _mib(used), _mib(total), temperature, power, limit))
    return tuple(gpus)


def parse_processes(text: str, gpus: tuple[GpuUsage, ...]) -> tuple[ProcessUsage, ...]:
    """Who holds GPU memory. Only the program's own name is kept, not its folder."""
    index_of = {gpu.uuid: gpu.index for gpu in gpus}
    found: list[ProcessUsage] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",", 3)]
        if len(cells) == 4 and cells[1].isdigit():
            found.append(ProcessUsage(int(cells[1]), Path(cells[3]).name, _mib(_number(cells[2])), index_of.get(cells[0])))
    return tuple(found)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _mib(value: float | None) -> int | None:
    return None if value is None else round(value * 2**20)

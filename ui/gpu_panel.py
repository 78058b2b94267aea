"""The hardware panel: what the GPUs do, or CPU and memory where there is none. Refreshed every second."""

from __future__ import annotations

from core.usage import GpuUsage, ProcessUsage, Usage
from ui.view import meter, percent, size, text

SHOWN_PROCESSES = 6


def panel(seen: Usage) -> str:
    """The whole panel. A figure that the driver does not tell is left out."""
    rows = [_gpu(gpu) for gpu in seen.gpus]
    rows.append(_machine(seen))
    return f'<section class="hardware" aria-label="Hardware now">{"".join(rows)}{_processes(seen.processes)}</section>'


def _gpu(gpu: GpuUsage) -> str:
    facts: list[str] = []
    if gpu.temperature_c is not None:
        facts.append(f"{gpu.temperature_c:.0f} °C")
    if gpu.power_w is not None:
        facts.append(f"{gpu.power_w:.0f}" + (f" of {gpu.power_limit_w:.0f} W" if gpu.power_limit_w else " W"))
    bars = ""
    if gpu.utilisation is not None:
        bars += _bar("In use", gpu.utilisation, percent(gpu.utilisation))
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes:
        used = f"{size(gpu.memory_used_bytes)} of {size(gpu.memory_total_bytes)}"
        bars += _bar("Memory", gpu.memory_used_bytes / gpu.memory_total_bytes, used)
    return f'<h4>GPU {gpu.index} <span>{text(gpu.name)}</span></h4>{bars}<p class="rest">{text(" · ".join(facts))}</p>'


def _machine(seen: Usage) -> str:
    cpus = f"{percent(seen.cpu_share)} of {seen.cpu_count}"
    ram = f"{size(seen.ram_used_bytes)} of {size(seen.ram_total_bytes)}"
    title = "This machine" if seen.gpus else "This machine <span>no GPU</span>"
    bars = _bar("CPUs", seen.cpu_share, cpus) + _bar("Memory", seen.ram_used_bytes / seen.ram_total_bytes, ram)
    return f"<h4>{title}</h4>{bars}"


def _bar(name: str, share: float, figure: str) -> str:
    tone = "warning" if share > 0.92 and name == "Memory" else "accent"
    return f'<div class="bar"><span>{text(name)}</span>{meter(share, name, tone)}<span class="num">{text(figure)}</span></div>'


def _processes(holders: tuple[ProcessUsage, ...]) -> str:
    if not holders:
        return '<p class="rest">Nothing of Transmute is computing.</p>'
    rows = "".join(
        f"<li><span>{text(holder.name)}{'' if holder.gpu_index is None else f' on GPU {holder.gpu_index}'}</span>"
        f'<span class="pid">process {holder.pid}</span>'
        f'<span class="num">{text(size(holder.memory_bytes)) if holder.memory_bytes is not None else ""}</span></li>'
        for holder in holders[:SHOWN_PROCESSES]
    )
    more = f"<li>and {len(holders) - SHOWN_PROCESSES} more</li>" if len(holders) > SHOWN_PROCESSES else ""
    return f'<ul class="processes" aria-label="Processes">{rows}{more}</ul>'

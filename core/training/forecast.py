"""What a recipe takes before it is launched: memory by part, disk, steps, time, and whether it fits. From the model's config.json alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from core.errors import UserError
from core.export.levels import OFFERED
from core.training import checks, measured, memory, pace
from core.training.architecture import Config
from core.training.hardware import Hardware
from core.training.launch import SPREAD, config_of, num_processes
from core.training.measured import Correction
from core.training.memory import Memory, Part
from core.training.recipe import Recipe
from core.training.setting import FP32, batch_of, setting_of, trainable
from core.training.shapes import Shapes, shapes
from core.training.workload import Workload, optimizer_steps

GPU_USABLE = 0.95  # of a GPU's memory; the rest is lost between torch's blocks
RAM_USABLE = 0.9  # of main memory; the rest is the system's and the page's
FLOAT_LEVELS = {"f16": 16.0, "bf16": 16.0, "f32": 32.0}


@dataclass(frozen=True)
class Estimate:
    """What one recipe takes on one machine. Memory is per process, before correction in `memory`, after it in `peak_bytes`."""

    memory: Memory
    correction: Correction
    peak_bytes: float
    room_bytes: float  # of one GPU, or of main memory
    host_bytes: float  # all processes
    host_room_bytes: float
    disk: dict[str, float]  # bytes by part: checkpoints, result, levels
    steps: int
    duration: pace.Duration
    total_s: float  # after correction
    processes: int
    accelerate_config: str  # the recipe's; where that is `auto`, what it comes to
    is_counted: bool  # whether the dataset's tokens were counted
    is_known: bool  # whether the model's family is

    @property
    def fits(self) -> bool:
        in_ram = self.host_bytes <= self.host_room_bytes
        return in_ram if self.memory.device == "cpu" else in_ram and self.peak_bytes <= self.room_bytes

    @property
    def parts(self) -> tuple[Part, ...]:
        return tuple(sorted(self.memory.parts, key=lambda part: -part.size_bytes))

    @property
    def disk_bytes(self) -> float:
        return sum(self.disk.values())

    def as_dict(self) -> dict[str, Any]:
        """For programs: sizes in whole bytes, times in seconds."""
        return {
            "device": self.memory.device,
            "processes": self.processes,
            "accelerate_config": self.accelerate_config,
            "peak_bytes": round(self.peak_bytes),
            "phase": self.memory.phase,
            "phases": {name: round(size) for name, size in self.memory.phases.items()},
            "parts": [{"name": part.name, "bytes": round(part.size_bytes), "is": part.said, "source": part.source} for part in self.parts],
            "room_bytes": round(self.room_bytes),
            "host_bytes": round(self.host_bytes),
            "host_room_bytes": round(self.host_room_bytes),
            "fits": self.fits,
            "disk": {name: round(size) for name, size in self.disk.items()},
            "steps": self.steps,
            "total_s": round(self.total_s, 1),
            "correction": {"memory": self.correction.memory, "time": self.correction.time, "runs": self.correction.runs},
            "is_counted": self.is_counted,
            "is_known": self.is_known,
        }


def estimate(recipe: Recipe, config: Config, hardware: Hardware, work: Workload) -> Estimate:
    """What `recipe` takes on `hardware` with a model of this config.json and this much data; no weights are read.

    Raises:
        UserError: the config does not say the sizes that every decoder has.
    """
    return of_shapes(recipe, shapes(config), hardware, work)


def of_shapes(recipe: Recipe, model: Shapes, hardware: Hardware, work: Workload) -> Estimate:
    """As `estimate`, for shapes that are known already. On several GPUs `auto` comes to the first distribution that fits, else the smallest."""
    if recipe.accelerate_config != "auto" or not hardware.gpus or num_processes(recipe, hardware) == 1:
        return _as_chosen(recipe, model, hardware, work)
    tried: list[Estimate] = []
    for config in SPREAD:
        spread = recipe.model_copy(update={"accelerate_config": config})
        try:
            checks.check_machine(spread, hardware)
        except UserError:
            continue
        tried.append(_as_chosen(spread, model, hardware, work))
        if tried[-1].fits:
            return tried[-1]
    return min(tried, key=lambda found: found.peak_bytes) if tried else _as_chosen(recipe, model, hardware, work)


def _as_chosen(recipe: Recipe, model: Shapes, hardware: Hardware, work: Workload) -> Estimate:
    setting = setting_of(recipe, hardware, model)
    found = memory.needed(recipe, model, setting, batch_of(recipe, work, setting))
    time = pace.duration(recipe, model, hardware, setting, work)
    corrected = measured.correction(measured.machine(hardware), recipe.method, found.measurable_bytes)
    peak = found.measurable_bytes * corrected.memory + found.uncounted_bytes
    host = found.host_bytes + (peak - found.peak_bytes if found.device == "cpu" else 0.0)
    return Estimate(
        memory=found,
        correction=corrected,
        peak_bytes=peak,
        room_bytes=min(gpu.vram_bytes for gpu in hardware.gpus) * GPU_USABLE if hardware.gpus else hardware.ram_bytes * RAM_USABLE,
        host_bytes=host * setting.processes,
        host_room_bytes=hardware.ram_bytes * RAM_USABLE,
        disk=disk(recipe, model),
        steps=optimizer_steps(recipe, work, setting.processes),
        duration=time,
        total_s=time.start_s + time.save_s + (time.train_s + time.evaluate_s) * corrected.time,
        processes=setting.processes,
        accelerate_config=config_of(recipe, hardware),
        is_counted=work.is_counted,
        is_known=model.is_known,
    )


def checkpoint_bytes(recipe: Recipe, model: Shapes) -> float:
    """Of one checkpoint: what learns, or the whole model where it is no adapter, and Adam's two moments."""
    learning = trainable(recipe, model)
    return (learning if recipe.is_adapter else model.total) * FP32 + learning * 2 * FP32


def disk(recipe: Recipe, model: Shapes) -> dict[str, float]:
    """Bytes that a run leaves, by part; while it rotates there is one checkpoint more than it keeps."""
    learning = trainable(recipe, model)
    result = model.total * model.stored_bytes + (learning * FP32 if recipe.is_adapter else 0)
    bits = {level.name: level.bits for level in OFFERED} | FLOAT_LEVELS
    asked = {*recipe.levels, "f16"} if recipe.levels else set[str]()  # the others are made from it
    return {
        "checkpoints": checkpoint_bytes(recipe, model) * (recipe.save_total_limit + 1) if recipe.save_steps else 0.0,
        "result": float(result),
        "levels": sum(model.total * bits[name] / 8 for name in asked if name in bits),
    }

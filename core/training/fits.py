"""On which machine a recipe fits, what that costs, and the smallest change that makes it fit where it does not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Any

from core.errors import UserError
from core.training import checks
from core.training.forecast import Estimate, of_shapes
from core.training.hardware import Flavour, Gpu, Hardware, TorchBuild, flavours
from core.training.recipe import Recipe
from core.training.shapes import Shapes
from core.training.workload import Workload

HALVINGS = 12
SHORTEST = 256  # tokens; shorter rows lose most answers
METHODS = {"fft": ("lora", "qlora"), "sft": ("lora", "qlora"), "lora": ("qlora",), "qlora": ()}


@dataclass(frozen=True)
class Offer:
    """A recipe on one flavour. `refused` says why it cannot run there at all; then there is no estimate."""

    flavour: Flavour
    estimate: Estimate | None
    refused: str = ""

    @property
    def fits(self) -> bool:
        return self.estimate is not None and self.estimate.fits

    @property
    def job_usd(self) -> float | None:
        """What the run costs as a job; None where no price is known."""
        return self._usd(self.flavour.job_usd_per_h)

    @property
    def space_usd(self) -> float | None:
        """What a Space's hardware costs while the run lasts; None where Spaces do not offer it."""
        return self._usd(self.flavour.space_usd_per_h)

    def _usd(self, per_h: float | None) -> float | None:
        return None if per_h is None or self.estimate is None else per_h * self.estimate.total_s / 3600

    def as_dict(self) -> dict[str, Any]:
        known = self.estimate
        return {
            "flavour": self.flavour.name,
            "fits": self.fits,
            "refused": self.refused,
            "peak_bytes": round(known.peak_bytes) if known else None,
            "room_bytes": round(known.room_bytes) if known else None,
            "total_s": round(known.total_s, 1) if known else None,
            "job_usd": None if self.job_usd is None else round(self.job_usd, 4),
            "space_usd": None if self.space_usd is None else round(self.space_usd, 4),
        }


@dataclass(frozen=True)
class Change:
    """Knobs that make a recipe fit, and what that means for the run."""

    knobs: dict[str, Any]
    said: str
    peak_bytes: float


def offers(recipe: Recipe, model: Shapes, work: Workload) -> list[Offer]:
    """The recipe on every flavour of spaces/hardware.toml, in its order."""
    return [_offer(recipe, model, work, flavour) for flavour in flavours()]


def _offer(recipe: Recipe, model: Shapes, work: Workload, flavour: Flavour) -> Offer:
    machine = hardware_of(flavour)
    try:
        checks.check_machine(recipe, machine)
    except UserError as error:
        return Offer(flavour, None, f"{error.problem} {error.remedy}")
    return Offer(flavour, of_shapes(recipe, model, machine, work))


def of_spaces(found: list[Offer]) -> list[Offer]:
    """The offers that a Space can choose as its own hardware."""
    return [offer for offer in found if offer.flavour.space_usd_per_h is not None]


def cheapest(found: list[Offer], as_space: bool = False) -> Offer | None:
    """The offer that fits for the least money, as a job or as a Space's own hardware; among equals the first."""
    priced = [(offer.space_usd if as_space else offer.job_usd, offer) for offer in found if offer.fits]
    return min(((usd, offer) for usd, offer in priced if usd is not None), key=lambda pair: pair[0], default=(0.0, None))[1]


def hardware_of(flavour: Flavour) -> Hardware:
    """The machine that a flavour is."""
    major, _, minor = flavour.compute_capability.partition(".")
    gpus = tuple(Gpu(flavour.gpu, flavour.vram_gb * 10**9, (int(major), int(minor)), index) for index in range(flavour.gpus))
    return Hardware(flavour.cpus, flavour.ram_gb * 10**9, gpus, TorchBuild("", "any" if gpus else None))


def smallest_change(
    recipe: Recipe,
    model: Shapes,
    hardware: Hardware,
    work: Workload,
    below_bytes: float = math.inf,
    only: AbstractSet[str] | None = None,
) -> Change | None:
    """The change to `recipe` that costs least and makes it fit on `hardware`; None where it fits already, or nothing helps.

    First what only takes time (smaller micro batches with the same sum or the next above it, checkpointing, weights shared between the GPUs), then
    what changes the arithmetic (8-bit optimizer), the data (shorter rows), and last the method.

    Args:
        below_bytes: what the peak of a process may be besides, where a run has shown that there is less room, or that it takes more.
        only: the knobs that may change; any of them by default.
    """
    now = of_shapes(recipe, model, hardware, work)
    if now.fits and now.peak_bytes <= below_bytes:
        return None
    for _, knobs in sorted(_candidates(recipe, hardware), key=lambda candidate: candidate[0]):
        if only is not None and not only >= knobs.keys():
            continue
        changed = recipe.model_copy(update=knobs)
        try:
            checks.check_machine(changed, hardware)
        except UserError:
            continue
        shorter = work
        if "max_length" in knobs:
            length = min(work.longest, changed.max_length)
            shorter = work.packed(length) if recipe.packing else replace(work, longest=length)
        found = of_shapes(changed, model, hardware, shorter)
        if found.fits and found.peak_bytes <= below_bytes:
            return Change(knobs, said(recipe, knobs), found.peak_bytes)
    return None


def assignments(knobs: dict[str, Any]) -> str:
    """``micro_batch_size=2 gradient_accumulation_steps=8``, as ``--set`` takes them."""
    return " ".join(f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in knobs.items())


def _candidates(recipe: Recipe, hardware: Hardware) -> Iterator[tuple[float, dict[str, Any]]]:
    """Every combination of changes with its price."""
    batches = [(0.0, dict[str, Any]())]
    for halvings in range(1, HALVINGS + 1):
        rows = recipe.micro_batch_size >> halvings
        if rows < 1:
            break
        factor = -(-recipe.micro_batch_size // rows)
        batches.append(
            (1.0 * halvings, {"micro_batch_size": rows, "gradient_accumulation_steps": recipe.gradient_accumulation_steps * factor})
        )
    saved = [(0.0, dict[str, Any]())] + ([] if recipe.gradient_checkpointing else [(2.5, {"gradient_checkpointing": True})])
    optim = [(0.0, dict[str, Any]())]
    if hardware.gpus and "8bit" not in recipe.optim:
        optim.append((4.0, {"optim": "paged_adamw_8bit"}))
    sharing = [(0.0, dict[str, Any]())]
    if len(hardware.gpus) > 1 and recipe.accelerate_config in ("ddp", "zero2") and recipe.method != "qlora":
        sharing.append((3.0, {"accelerate_config": "fsdp2"}))
    lengths = [(0.0, dict[str, Any]())]
    length = recipe.max_length // 2
    while length >= SHORTEST and len(lengths) <= 4:
        lengths.append((20.0 * len(lengths), {"max_length": length}))
        length //= 2
    methods = [(0.0, dict[str, Any]())]
    rate = (
        {"learning_rate": min(1.0, recipe.learning_rate * 10)} if not recipe.is_adapter else {}
    )  # as the form does when the method is changed
    methods += [(100.0 * (index + 1), {"method": method, **rate}) for index, method in enumerate(METHODS[recipe.method])]
    for combination in itertools.product(batches, saved, optim, sharing, lengths, methods):
        yield sum(price for price, _ in combination), {name: value for _, knobs in combination for name, value in knobs.items()}


def said(recipe: Recipe, knobs: dict[str, Any]) -> str:
    """What a change means, one sentence for each kind."""
    sentences = list[str]()
    if "method" in knobs:
        sentences.append(f"{knobs['method']} instead of {recipe.method}: a small adapter learns instead of the weights themselves.")
        if recipe.method == "lora":
            sentences = ["qlora instead of lora: the base is held in 4 bit."]
    if "micro_batch_size" in knobs:
        rows = knobs["micro_batch_size"] * knobs["gradient_accumulation_steps"]
        before = recipe.micro_batch_size * recipe.gradient_accumulation_steps
        same = "the same sum" if rows == before else f"{rows} rows a step instead of {before}"
        sentences.append(f"Smaller micro batches, as many more of them added up: {same}, a little slower.")
    if knobs.get("gradient_checkpointing"):
        sentences.append("Activations are computed again: about a third slower.")
    if "optim" in knobs:
        sentences.append("The optimizer keeps its state in 8 bit.")
    if "accelerate_config" in knobs:
        sentences.append("The weights are shared between the GPUs, and fetched layer by layer.")
    if "max_length" in knobs:
        sentences.append(f"Conversations are cut at {knobs['max_length']:,} tokens, and lose what comes after.")
    return " ".join(sentences)

"""Where a job runs: the flavour and its price, the image, the time limit; and the facts of a job, ``job.json`` in its run's folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from core import paths
from core.errors import UserError
from core.hubclient import api, patiently
from core.publish.push import explain
from core.running.runs import JOB
from core.training.fits import hardware_of
from core.training.hardware import Flavour, Hardware, flavours

PREFIX = "jobs:"
GPU_IMAGE, CPU_IMAGE = "huggingface/trl", "python:3.12"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MOST_NODES = 64
LOGIN_S = 8 * 3600  # how long a login on a Space lasts (platform documentation, read 2026-08-21)
Results = Literal["home", "repo"]


class Job(BaseModel):
    """What was chosen for a run on a rented machine. Ids of the Hub's jobs stand in the run's events."""

    model_config = ConfigDict(frozen=True)

    flavour: str
    image: str
    namespace: str
    repo_id: str  # private; the bundle goes there, and the results come from there
    timeout_s: int
    results: Results = "home"
    usd_per_h: float | None = None  # of one machine
    nodes: int = 1

    @property
    def most_usd(self) -> float | None:
        """What it costs when it takes all its time, on every machine."""
        return None if self.usd_per_h is None else self.usd_per_h * self.nodes * self.timeout_s / 3600


@dataclass(frozen=True)
class Target:
    """A kind of machine, and how many of them, as somebody asks for it. `timeout` is empty for the estimate with its margin, else ``90m``, ``6h``, ``2d``."""

    flavour: str
    image: str = ""
    timeout: str = ""
    results: Results = "home"
    nodes: int = 1


def parse(on: str) -> str:
    """The flavour in ``jobs:FLAVOUR``.

    Raises:
        UserError: anything else, or a flavour that Jobs do not offer.
    """
    if not on.startswith(PREFIX):
        raise UserError(f"{on!r} is no place to run.", "--on", f"Write {PREFIX}FLAVOUR, for example {PREFIX}l4x1, or leave it out.")
    return flavour(on.removeprefix(PREFIX)).name


def offered() -> tuple[Flavour, ...]:
    """The flavours that Jobs offer, with the prices of spaces/hardware.toml."""
    return tuple(each for each in flavours() if each.job_usd_per_h is not None)


def flavour(name: str) -> Flavour:
    found = next((each for each in offered() if each.name == name), None)
    if found is None:
        raise UserError(f"HF Jobs have no flavour {name!r}.", "--on", f"Take one of: {', '.join(each.name for each in offered())}.")
    return found


def price_now(name: str, token: str | None) -> float | None:
    """Dollars per hour as the Hub says it now; the price of our own list where the Hub does not name the flavour.

    Raises:
        UserError: the Hub cannot be reached, or does not accept the login.
    """
    hub = api(token)
    listed = patiently(hub.list_jobs_hardware, lambda error: explain(error, "HF Jobs"))
    per_h = {"second": 3600.0, "minute": 60.0, "hour": 1.0}
    known = {each.name: each.unit_cost_usd * per_h[each.unit_label] for each in listed if each.unit_label in per_h}
    return known.get(name, flavour(name).job_usd_per_h)


def hardware(name: str) -> Hardware:
    """The machine of a flavour, as `core.training.hardware.detect` would find it there."""
    return hardware_of(flavour(name))


def image_for(name: str, wanted: str = "") -> str:
    """The image: the one asked for, else this Space's own, which has everything installed, else a public one."""
    if wanted:
        if not re.fullmatch(r"[\w][\w.:/@-]{0,254}", wanted):
            raise UserError(f"{wanted!r} is no image.", "--image", "For example huggingface/trl, or hf.co/spaces/USER/NAME.")
        return wanted
    if space := os.environ.get("SPACE_ID"):
        return f"hf.co/spaces/{space}"
    return GPU_IMAGE if flavour(name).gpus else CPU_IMAGE


def seconds(timeout: str) -> int:
    """``90m`` as seconds.

    Raises:
        UserError: it is no length of time, or less than a minute.
    """
    found = re.fullmatch(r"(\d{1,7}(?:\.\d{1,3})?)([smhd]?)", timeout.strip())
    length_s = int(float(found[1]) * UNITS[found[2] or "s"]) if found else 0
    if length_s < 60:
        raise UserError(f"{timeout!r} is no time limit.", "--timeout", "Write it like 90m, 6h or 2d; at least 1m.")
    return length_s


def of_run(run_dir: Path) -> Job:
    return Job.model_validate(paths.read_json(run_dir / JOB))

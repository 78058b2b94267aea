"""What a Space's owner should know about money and storage: what the machine costs while nothing trains, and what a restart takes away."""

from __future__ import annotations

import os
from dataclasses import dataclass

from core import doctor, paths
from core.training.hardware import Flavour, flavours


@dataclass(frozen=True)
class Advice:
    """One thing to do: what is the matter, the steps in order, and the page where they are done."""

    said: str
    steps: tuple[str, ...] = ()
    url: str = ""


def page_url() -> str:
    """This Space's page on the Hub; empty elsewhere."""
    space = os.environ.get("SPACE_ID", "")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    return f"{endpoint}/spaces/{space}" if space else ""


def settings_url() -> str:
    """The settings of this Space; empty elsewhere."""
    return f"{page_url()}/settings" if page_url() else ""


def visiting() -> Advice | None:
    """What somebody who may not act here can do, and the three steps to a Space of their own."""
    if not page_url():
        return None
    said = "You are a visitor: check a file, look at a finished run, chat with the starter model. To train and publish, take your own copy."
    steps = (
        "Duplicate this Space; the form asks for its hardware. The starter model trains on a CPU, larger ones need a GPU.",
        "Wait until your copy has been built, which takes a few minutes.",
        "Sign in there at the top of the page: it is yours, and so is everything that it makes.",
    )
    return Advice(said, steps, f"{page_url()}?duplicate=true")


def rented() -> Flavour | None:
    """The flavour that this Space runs on, when it costs something."""
    name = os.environ.get("ACCELERATOR", "").lower()
    found = next((each for each in flavours() if each.name == name), None)
    return found if found and found.space_usd_per_h else None


def money(runs_going_on: int) -> Advice | None:
    """Rented hardware on which nothing trains any more: pause it, or take a smaller one."""
    flavour = rented()
    if flavour is None or not settings_url() or runs_going_on:
        return None
    said = f"Nothing is running, and this Space costs ${flavour.space_usd_per_h:.2f} per hour on {flavour.title} while it is awake."
    steps = ("Download or publish what you want to keep.", "Pause the Space, or choose CPU Basic, or set a sleep time.")
    return Advice(said, steps, settings_url())


def storage() -> Advice | None:
    """A Space without a mounted volume: what is lost, and the three steps to mount one."""
    if not settings_url() or doctor.persistence(paths.home()).state == "ok":
        return None
    said = (
        "Datasets, runs and models here are lost when this Space restarts or falls asleep: no volume is mounted. "
        "A run that trains can be kept on the Hub meanwhile: the Runs tab offers it."
    )
    steps = (
        "Create a Storage Bucket on the Hub (New, then Bucket).",
        "In the Space's settings, under Storage, mount it at /data with write access.",
        "Restart the Space: the line at the top then says that storage is kept.",
    )
    return Advice(said, steps, settings_url())

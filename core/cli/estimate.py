"""The verb `estimate`: what a recipe takes before it is launched, here and on every machine that can be rented."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from core.cli.output import Json, console, finish
from core.units import duration, size, usd

if TYPE_CHECKING:
    from core.running.probe import Probe
    from core.training.fits import Offer
    from core.training.forecast import Estimate


def estimate(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in YAML.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset instead of a file: demo, fastchat-fft, mlabonne-qlora, ...")] = None,
    model: Annotated[str | None, typer.Option(help="starter, a local folder, or a Hub id.")] = None,
    data: Annotated[str | None, typer.Option(help="A data file of any known layout, or a dataset id.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for any knob; may be given several times.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Run 20 real steps here first, and correct by what they take.")] = False,
    json: Json = False,
) -> None:
    """Say what a recipe takes before it is launched: memory by part, disk, steps, time, cost, and on which machines it fits."""
    from core.cli.run import chosen_recipe, hub_token
    from core.training import fits, others
    from core.training.hardware import detect, prices_read
    from core.training.prospect import prospect
    from core.training.setting import setting_of

    chosen, hardware, out = chosen_recipe(recipe, preset, model, data, set_, "estimate"), detect(), console(json)
    probed = _probe(chosen, out, json) if probe else None
    found = prospect(chosen, hardware, hub_token())
    here = found.estimate
    offered = fits.offers(chosen, found.model, found.work)
    change = fits.smallest_change(chosen, found.model, hardware, found.work) if here else None
    if here:
        _show(here, out)
    elif found.refused:
        out.print(f"It cannot run here. {found.refused.problem} {found.refused.remedy}", markup=False)
    if change:
        out.print(f"It would fit with {fits.assignments(change.knobs)}. {change.said}", markup=False)
    opinions = others.opinions(chosen, found.model, setting_of(chosen, hardware, found.model))
    for each in opinions:
        out.print(f"[dim]{each.whose} says {size(each.size_bytes)} ({each.said}).[/]")
    if probed:
        out.print(
            f"Measured in the probe: peak {size(probed.peak_bytes)}, {probed.step_s:.2f} s a step; the figures above are corrected by it."
        )
    out.print(_flavours(offered, prices_read()[0]))
    if best := fits.cheapest(offered):
        out.print(
            f"Cheapest that fits: {best.flavour.name}, about {duration(best.estimate.total_s)} and {usd(best.job_usd)}."
            if best.estimate
            else ""
        )
    finish(
        json,
        {
            "recipe": chosen.name,
            "here": here.as_dict() if here else None,
            "refused": found.refused.as_dict() if found.refused else None,
            "change": {"knobs": change.knobs, "said": change.said, "peak_bytes": round(change.peak_bytes)} if change else None,
            "others": [asdict(each) for each in opinions],
            "probe": probed.as_dict() if probed else None,
            "flavours": [offer.as_dict() for offer in offered],
        },
    )


def _probe(chosen: Any, out: Console, as_json: bool) -> Probe:
    from core.cli.run import hub_token, watch
    from core.running import probe

    run_id = probe.begin(chosen, hub_token())
    out.print(f"Probe {run_id}: {probe.STEPS} steps.", markup=False)
    watch(run_id, out)
    return probe.result(run_id)


def _show(here: Estimate, out: Console) -> None:
    table = Table("part", "memory", "what it is", box=None, pad_edge=False)
    for part in here.parts:
        if part.size_bytes >= 1e5:
            table.add_row(part.name, size(part.size_bytes), part.said)
    out.print(table)
    out.print("[dim]--json names the source of each part: the paper, or the rule of the library.[/]")
    where = f"each of {here.processes} processes" if here.processes > 1 else "this machine"
    kind = "GPU memory" if here.memory.device == "gpu" else "main memory above the libraries"
    verdict = "It fits." if here.fits else "It does not fit."
    out.print(f"Peak {size(here.peak_bytes)} of {kind} on {where}, while it {VERBS_OF[here.memory.phase]}. {verdict}")
    out.print(f"Main memory {size(here.host_bytes)} of {size(here.host_room_bytes)} that may be used; disk {size(here.disk_bytes)}.")
    about = "" if here.is_counted else " (tokens are guessed from the size of the file)"
    out.print(f"{here.steps:,} optimizer steps{about}, about {duration(here.total_s)} here.")
    if here.correction.runs:
        by = f"{here.correction.runs} measured run{'' if here.correction.runs == 1 else 's'}"
        out.print(f"Corrected by {by} of this method here; uncorrected it was {here.correction.error:.0%} off.")
    if not here.is_known:
        out.print("This model's family is not known here; it is counted as a Llama.")


VERBS_OF = {"load": "reads the weights", "train": "trains", "evaluate": "evaluates", "save": "saves"}


def _flavours(offered: list[Offer], read: str) -> Table:
    table = Table(
        "machine", "fits", "memory", "of", "time", "as a job", box=None, pad_edge=False, title=f"Machines of the Hub, prices of {read}"
    )
    for offer in offered:
        known = offer.estimate
        if known is None:
            table.add_row(offer.flavour.name, "[dim]no[/]", "", "", "", f"[dim]{offer.refused.partition('. ')[0]}[/]")
            continue
        is_gpu = known.memory.device == "gpu"
        peak, room = (known.peak_bytes, known.room_bytes) if is_gpu else (known.host_bytes, known.host_room_bytes)
        verdict = "[green]yes[/]" if known.fits else "[red]no[/]"
        table.add_row(offer.flavour.name, verdict, size(peak), size(room), duration(known.total_s), usd(offer.job_usd))
    return table


VERBS = {"estimate": estimate}

"""Verbs about runs: train, take, runs, show, logs, stop, resume, sync, demo, doctor."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from core.cli.nodes import place, tell
from core.cli.output import Json, console, finish, print_error
from core.errors import UserError
from core.events import Run, described, stalled_s
from core.paths import EXAMPLES
from core.training.recipe import Recipe
from core.units import duration

if TYPE_CHECKING:
    from core.data.measures import OnProgress
    from core.training.recipe import Recipe

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id that `train` printed; `runs` lists them.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on by itself.")]
PLAIN_LINES_S = 5.0  # where there is no terminal, a line of progress every so often


def train(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe in YAML.")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset instead of a file: demo, fastchat-fft, mlabonne-qlora, ...")] = None,
    model: Annotated[str | None, typer.Option(help="starter, a local folder, or a Hub id.")] = None,
    data: Annotated[str | None, typer.Option(help="A data file of any known layout, or a dataset id.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value for any knob; may be given several times.")] = None,
    on: Annotated[str, typer.Option(help="Where: this machine, or a rented one as jobs:FLAVOUR (HF Jobs), for example jobs:l4x4.")] = "",
    image: Annotated[str, typer.Option(help="With --on: the image, for example hf.co/spaces/USER/NAME.")] = "",
    timeout: Annotated[str, typer.Option(help="With --on: the time limit, like 90m or 6h; else three times the expectation.")] = "",
    results: Annotated[str, typer.Option(help="With --on: home, or repo to leave them in the run's private repository.")] = "home",
    nodes: Annotated[int, typer.Option(help="How many machines train together; without --rank it prints the command for each.")] = 1,
    rank: Annotated[int | None, typer.Option(help="With --nodes: which of them this machine is; the first is 0.")] = None,
    address: Annotated[str, typer.Option(help="With --nodes: where the others reach the first machine.")] = "",
    port: Annotated[int, typer.Option(help="With --nodes: the port there.")] = 29500,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Train a recipe; merge, quantise, measure and prove what comes out."""
    from core.running import runs

    chosen = chosen_recipe(recipe, preset, model, data, set_, "train")
    token = hub_token()
    node = place(nodes, rank, address, port) if nodes != 1 and not on else None
    if on and (rank is not None or address):
        raise UserError("Rented machines find each other.", "train", "Leave --rank and --address out.")
    if rank is not None and node is None:
        raise UserError("--rank is for one of several machines.", "train", "Give --nodes 2 or more too, or leave it out.")
    if node and rank is None:
        finish(json, {"commands": tell(node, console(json))})
    if on:
        run_id = _dispatch(chosen, on, (image, timeout, results), nodes, console(json))
    elif image or timeout:
        raise UserError("--image and --timeout are for a rented machine.", "train", "Give --on jobs:FLAVOUR too, or leave them out.")
    else:
        with _auditing(console(json)) as on_progress:
            run_id = runs.create(chosen, token=token, node=node, on_progress=on_progress)
    runs.start(run_id, token)
    _watch_or_leave(run_id, detach, json)


def take(
    source: Annotated[str, typer.Argument(metavar="MODEL", help="A Hub id, a model folder, an artifact id, or starter.")],
    levels: Annotated[str, typer.Option(help="Comma-separated levels; the others are compared with f16.")] = "f16,q8_0,Q4_K_M,q4_0",
    data: Annotated[
        str, typer.Option(help="The conversations to measure on, and to make importance matrices of; questions of an example if left out.")
    ] = "",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hub model.")] = None,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Take a model in that was not trained here: convert, quantise, measure and prove it."""
    from core.running import runs, taking

    token = hub_token()
    run_id = taking.create(taking.recipe_of(source, levels.split(","), data or str(EXAMPLES / "identity_eval.json"), revision), token)
    runs.start(run_id, token)
    _watch_or_leave(run_id, detach, json)


def _dispatch(recipe: Recipe, on: str, options: tuple[str, str, str], nodes: int, out: Console) -> str:
    """Create the run for a rented machine, saying what it may cost."""
    from core.jobs import dispatch, target
    from core.running import runs

    image, timeout, results = options
    if results not in ("home", "repo"):
        raise UserError(f"{results!r} is no place for results.", "--results", "Write home or repo.")
    with _auditing(out) as on_progress:
        run_id = dispatch.create(
            recipe, target.Target(target.parse(on), image, timeout, results, nodes), hub_token(), on_progress=on_progress
        )
    job = target.of_run(runs.folder(run_id))
    cost = (
        "" if job.most_usd is None or job.usd_per_h is None else f", ${job.usd_per_h * job.nodes:.2f} per hour, at most ${job.most_usd:.2f}"
    )
    machines = job.flavour if job.nodes == 1 else f"{job.nodes} x {job.flavour}"
    out.print(f"On {machines} with the image {job.image}: at most {duration(job.timeout_s)}{cost}.", markup=False)
    return run_id


@contextmanager
def _auditing(out: Console) -> Generator[OnProgress]:
    """What hears how far the audit of a large dataset is: a bar on a terminal."""
    with Progress(console=out, disable=not out.is_terminal, transient=True) as progress:
        bar = progress.add_task("looking at every conversation", total=None, visible=False)
        yield lambda done, total: progress.update(bar, completed=done, total=total, visible=True)


def chosen_recipe(
    recipe: Path | None, preset: str | None, model: str | None, data: str | None, assignments: list[str] | None, verb: str
) -> Recipe:
    """The recipe of a file or a preset, with what the command line says otherwise.

    Raises:
        UserError: neither or both are given, or the recipe is wrong.
    """
    from core.training import recipe as recipes
    from core.training.presets import preset as named_preset

    if (recipe is None) == (preset is None):
        raise UserError("Give either a recipe file or --preset NAME.", verb, f"For example: python -m core {verb} --preset demo.")
    chosen = recipes.load(recipe) if recipe else named_preset(preset or "")
    named = {"base_model": model, "dataset": data}
    values = chosen.model_dump(exclude_unset=True) | {key: value for key, value in named.items() if value}
    return recipes.override(recipes.build(values, "the command line"), assignments or [])


def hub_token() -> str | None:
    """The token saved by ``hf auth login``, used for this request only."""
    from huggingface_hub import get_token

    return get_token()


def resume(
    run_id: RunId,
    fit: Annotated[
        bool, typer.Option("--fit", help="Where memory ran out: with the smallest change that fits, which `show` names.")
    ] = False,
    detach: Detach = False,
    json: Json = False,
) -> None:
    """Go on with a run that was stopped, killed or failed, from its last whole checkpoint; USER/transmute-RUN brings one back from the Hub."""
    from core.running import runs

    if "/" in run_id:
        from core.jobs import safekeeping

        run_id = safekeeping.bring_back(run_id, hub_token())
    runs.start(run_id, hub_token(), fit=fit)
    _watch_or_leave(run_id, detach, json)


def sync(
    run_id: RunId,
    space: Annotated[str | None, typer.Option("--space", help="YOU/NAME: a private trackio Space, made where there is none.")] = None,
    json: Json = False,
) -> None:
    """Send what a run has written for Weights & Biases, whose key is WANDB_API_KEY's, or asked for; with --space what it has for trackio."""
    import os

    from core.running import sync as sending

    if space:
        found = sending.send_to_space(run_id, space, hub_token())
        console(json).print(f"Sent: {found['page']}{'' if found['is_running'] else ' (still being built)'}", markup=False, soft_wrap=True)
        finish(json, found)
    key = os.environ.get("WANDB_API_KEY") or (typer.prompt("API key", hide_input=True) if sys.stdin.isatty() else "")
    pages = sending.send(run_id, key)
    out = console(json)
    out.print("Sent." if not pages else f"Sent: {', '.join(pages)}", markup=False, soft_wrap=True)
    finish(json, {"pages": pages})


def _watch_or_leave(run_id: str, detach: bool, as_json: bool) -> None:
    out = console(as_json)
    out.print(f"Run {run_id}")
    if detach:
        out.print(f"It goes on by itself: python -m core logs {run_id} -f")
        finish(as_json, {"run_id": run_id})
    run = watch(run_id, out)
    report(run, out)
    published, has_failed = _publish(run, out)
    finish(as_json, describe(run) | published, 0 if run.state == "done" and not has_failed else 1)


def _publish(run: Run, out: Console) -> tuple[dict[str, Any], bool]:
    """Send what the run was meant to publish, with the saved login; whatever hinders that, the run stays done and its result waits."""
    from core.cli.publish import send
    from core.publish.datasets import prepare
    from core.publish.waiting import waiting

    found = waiting(run)
    if found is None:
        return {}, False
    try:
        return {"published": send(prepare(found.sources, found.repo_id), out)}, False
    except UserError as error:
        print_error(error)
        out.print(
            f"It waits to be published. Send it with: python -m core publish {' '.join(found.sources)} --repo {found.repo_id}",
            markup=False,
            soft_wrap=True,
        )
        return {"published": None}, error.code != "LOGIN"


def watch(run_id: str, out: Console) -> Run:
    """Show the run until it ends: a bar per step on a terminal, plain lines otherwise. Ctrl-C leaves it running."""
    from core.running import runs

    run = runs.load(run_id)
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
            bars: dict[str, Any] = {}
            said, said_at = "", 0.0
            for run in runs.follow(run_id):
                if run.stage not in bars:
                    bars[run.stage] = progress.add_task(run.stage, total=None, figures="")
                done, total, figures = _figures(run)
                progress.update(bars[run.stage], completed=done, total=total or None, figures=figures)
                line = f"{run.stage}: {figures}"
                is_due = line.partition(":")[0] != said.partition(":")[0] or time.monotonic() - said_at > PLAIN_LINES_S
                if not out.is_terminal and line != said and is_due:
                    out.print(line, markup=False)
                    said, said_at = line, time.monotonic()
    except KeyboardInterrupt:
        out.print(f"The run goes on by itself. Stop it with: python -m core stop {run_id}")
        raise typer.Exit(0) from None
    return run


def _figures(run: Run) -> tuple[float, float, str]:
    """(done, total, words) of the step that is going on."""
    if run.state == "queued":
        return 0, 0, f"waiting for {run.progress.get('waiting_for', 'its turn')}"
    if run.stage == "train":
        loss = f"loss {run.losses[run.optimizer_step]:.3f}" if run.optimizer_step in run.losses else "loading the model"
        return run.optimizer_step, run.max_steps, f"step {run.optimizer_step}/{run.max_steps}, {loss}"
    done, total = run.progress.get("done", 0), run.progress.get("total", 0)
    what = str(run.progress.get("id", "")).removeprefix(f"{run.run_id}-")
    return done, total, str(run.progress.get("text") or (f"{what} {done}/{total}".strip() if total else run.state))


def report(run: Run, out: Console) -> None:
    """What came out of a run: its state, its figures and its artifacts."""
    from core.export import artifacts
    from core.running import runs

    for note in run.notes:
        out.print(note, markup=False)
    if run.error:
        print_error(UserError.from_dict(run.error))
    facts = run.facts
    if "eval_loss_before" in facts:
        after = facts.get("eval_loss_after")
        out.print(f"Evaluation loss {facts['eval_loss_before']:.3f} before" + (f", {after:.3f} after" if after is not None else ""))
    made = artifacts.of_run(runs.folder(run.run_id))
    if levels := [artifact for artifact in made if artifact.kind == "gguf"]:
        from core.cli.models import level_table

        out.print(level_table(levels))
    for artifact in made:
        out.print(f"{artifact.kind:8} {artifact.id}", markup=False)
    if (silent_s := stalled_s(run, time.time())) is not None:
        out.print(f"Its training has said nothing for {duration(silent_s)}: it may hang. Stop it with: python -m core stop {run.run_id}")
    seconds = run.ended_s - run.started_s if run.ended_s else 0.0
    out.print(f"Run {run.run_id} is {run.state} after {duration(seconds)}.")


def describe(run: Run) -> dict[str, Any]:
    """The JSON form of a run."""
    from core.running import runs

    run_dir = runs.folder(run.run_id)
    made = [{"id": entry["id"], "kind": entry["kind_of"], "path": str(run_dir / entry["path"])} for entry in run.artifacts]
    return described(run) | {
        "losses": [[step, loss] for step, loss in sorted(run.losses.items())],
        "artifacts": made,
        "notes": list(run.notes),
        "remark": run.remark,
        "stalled_s": stalled_s(run, time.time()),
        "error": run.error,
        "pids": runs.pids(run.run_id),
        "run_dir": str(run_dir),
    }


def list_runs(json: Json = False) -> None:
    """List every run of the workspace, newest first."""
    from core.running import runs

    found = runs.list_runs()
    table = Table("run", "name", "method", "state", "stage", "step", "loss", box=None, pad_edge=False)
    for run in found:
        loss = f"{run.losses[max(run.losses)]:.3f}" if run.losses else ""
        table.add_row(run.run_id, run.name, run.method, run.state, run.stage, f"{run.optimizer_step}/{run.max_steps}", loss)
    console(json).print(table if found else "There are no runs yet. Start one with: python -m core demo")
    fields = ("run_id", "name", "method", "state", "stage")
    finish(json, {"runs": [{field: getattr(run, field) for field in fields} | {"step": run.optimizer_step} for run in found]})


def show(run_id: RunId, json: Json = False) -> None:
    """Show where a run stands and what it has made."""
    from core.running import runs

    run = runs.load(run_id)
    report(run, console(json))
    finish(json, describe(run))


def logs(run_id: RunId, follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False) -> None:
    """Print what the run's processes wrote, without secrets."""
    from core.redact import RedactingStream
    from core.running import runs

    run_dir, stream = runs.folder(run_id), RedactingStream()
    log = run_dir / runs.LOG
    if not (log.exists() or follow):
        return
    with log.open("r" if log.exists() else "a+", encoding="utf-8", errors="replace") as file:  # its folder may be one to read only
        while True:
            ended = runs.load(run_id).is_terminal
            for line in file:
                sys.stdout.write(stream.feed(line))
            if not follow or ended:
                sys.stdout.write(stream.close())
                return
            sys.stdout.flush()
            time.sleep(0.3)


def stop(run_id: RunId, json: Json = False) -> None:
    """Ask a run to save a checkpoint and end; nothing of it is left running."""
    from core.jobs import dispatch

    run = dispatch.stop(run_id, hub_token())
    console(json).print(f"Run {run_id} is {run.state} at step {run.optimizer_step}. Go on with: python -m core resume {run_id}")
    finish(json, describe(run))


def demo(json: Json = False) -> None:
    """Take the starter model from dataset to quantised levels, compared side by side."""
    from core.demo import run_demo

    finish(json, run_demo(console(json)))


def doctor(json: Json = False) -> None:
    """Check this machine: versions, GPUs, bf16, flash attention, disk, converter; each with its remedy."""
    import dataclasses

    from core.doctor import checks

    found = checks()
    table = Table("", "check", "found", "remedy", box=None, pad_edge=False)
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for check in found:
        table.add_row(f"[{colours[check.state]}]{check.state}[/]", check.name, check.found, check.remedy)
    console(json).print(table)
    finish(json, {"checks": [dataclasses.asdict(check) for check in found]}, 1 if any(check.state == "fail" for check in found) else 0)


VERBS = {
    "train": train,
    "take": take,
    "runs": list_runs,
    "show": show,
    "logs": logs,
    "stop": stop,
    "resume": resume,
    "sync": sync,
    "demo": demo,
    "doctor": doctor,
}

"""Runs on disk: create, start, load, list, stop, follow. The folder is written before any process starts."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import psutil

import core
from core import events, paths, process
from core.data.dataset import Dataset, take_data
from core.data.measures import OnProgress
from core.data.tokenizer import save_tokenizer
from core.errors import UserError
from core.events import Run
from core.export.tensors import weights_fingerprint
from core.locks import FileLock, is_held
from core.running import endings, queue, relief, resuming
from core.running.queue import RUN_LOCK
from core.training import accelerated, models, prepare
from core.training.checks import check, check_disk, check_nodes
from core.training.estimate import left_out, precision, predicted
from core.training.failures import ELSEWHERE, disk_full, is_disk_full, unless_full
from core.training.hardware import Hardware, detect
from core.training.launch import SHARDED, Launch, Node, across, command, num_processes
from core.training.recipe import Recipe
from core.training.recipe import load as load_recipe

STOP_FILE = "stop"
LOG = "worker.log"
JOB = "job.json"  # in the folder of a run that happens on a rented machine
BEYOND_GRACE_S = 10.0  # for the supervisor itself, after its worker's
LOOKED_AT_S = 0.5  # a lock that is ours to take may be looked at by others for an instant
GONE_S = 5.0


def plan(recipe: Recipe, more_levels: tuple[str, ...] = (), *, is_taken: bool = False) -> tuple[str, ...]:
    """The steps of a run of `recipe`, in order. Each leaves an artifact or figures behind and is skipped when they are there.

    `is_taken`: the model comes from elsewhere and is not trained, see `core.running.taking`.
    """
    begin = ("take",) if is_taken else ("train", "merge") if recipe.is_adapter else ("train",)
    export = ("gguf", "measure") if recipe.levels or more_levels else ()
    return (*begin, *export, "prove")


def create(
    recipe: Recipe,
    token: str | None = None,
    hardware: Hardware | None = None,
    owner: str = "",
    run_id: str = "",
    job: dict[str, Any] | None = None,
    steps: tuple[str, ...] | None = None,
    node: Node | None = None,
    on_progress: OnProgress | None = None,
) -> str:
    """Write the folder of a new run and return its id. Models and datasets are fetched here, with the caller's token; nothing starts yet.

    Args:
        owner: who asks, for the limit on how many runs one person may have waiting.
        run_id: of a run that was created elsewhere and shall happen here.
        job: what `core.jobs` keeps of a run that happens on a rented machine of kind `hardware`; the weights are then left to that machine.
        steps: what the run does, where that is less than its recipe asks for (see `plan`).
        node: this machine's place among several that train together; the model is written, and all after it done, on the first.
        on_progress: hears how far the audit of a large dataset is; without it such a dataset is not audited before the start.

    Raises:
        UserError: the recipe cannot work here, the model or the data is missing, or nothing in the data can be trained.
    """
    from core.export.levels import parse_levels

    hardware = hardware or detect()
    check(recipe, hardware)
    if node:
        check_nodes(recipe)
    parse_levels(recipe.levels)
    model = (models.outline if job else models.resolve)(recipe.base_model, recipe.base_revision, token)
    recipe = prepare.settled(recipe, model)
    if not recipe.dataset:
        raise UserError("No dataset is named.", "dataset", "Give --data PATH, or dataset: in the recipe.")
    data = {"train": take_data(recipe.dataset)} | ({"eval": take_data(recipe.eval_dataset)} if recipe.eval_dataset else {})
    entries = {use: dataset_entry(dataset) for use, dataset in data.items()}
    dataset, evaluated = data["train"], data.get("eval")
    prepare.check_data(recipe, dataset, hardware, node.count if node else 1)
    tokenizer = prepare.tokenizer_of(recipe, model)
    note = left_out(dataset, tokenizer, recipe, model, on_progress)
    if evaluated:
        left_out(evaluated, tokenizer, recipe, model)  # refused where it has nothing to measure on
    prepare.check_packed(recipe, dataset, tokenizer, hardware, node.count if node else 1)
    estimate = predicted(recipe, model.path, hardware, dataset, evaluated, tokenizer)
    accelerated.require_readable(recipe, hardware)
    paths.runs_dir().mkdir(parents=True, exist_ok=True)
    if estimate and not job:
        check_disk(recipe, estimate["disk"], shutil.disk_usage(paths.runs_dir()).free)
    run_id = run_id or paths.new_run_id()
    with _new_folder(paths.runs_dir() / run_id) as run_dir:
        sentencepiece = model.path / "tokenizer.model"
        save_tokenizer(tokenizer, run_dir / "tokenizer", sentencepiece if sentencepiece.is_file() else None)
        if not job:
            model = prepare.stretched_base(recipe, model, run_dir / "base")
        threads = max(1, hardware.cpu_count // max(1, recipe.num_processes or len(hardware.gpus) or 1))
        launch = command(run_dir, _spread(recipe, estimate, node), hardware, threads, estimate["peak_bytes"] if estimate else 0.0, node)
        if node and node.rank:
            steps = ("train",)
            note = f"{note} Machine {node.rank} of {node.count}: the model is written on the first one, machine 0.".strip()
        paths.write_text(run_dir / "recipe.yaml", recipe.to_yaml())
        for file, text in accelerated.own_files(recipe, hardware, run_dir).items():
            paths.write_text(file, text)
        paths.write_json(run_dir / "dataset.json", entries)
        paths.write_json(run_dir / "launch.json", _settled(launch, recipe, model, hardware, node) | {"estimate": estimate})
        if job:
            paths.write_json(run_dir / JOB, job)
        meant = {name: value for name, value in (("publish_to", recipe.publish_to), ("owner", owner)) if value}
        events.append(run_dir, "created", run_id=run_id, name=recipe.name, method=recipe.method, steps=steps or plan(recipe), **meant)
        if note:
            events.append(run_dir, "note", text=note)
    return run_id


@contextlib.contextmanager
def _new_folder(run_dir: Path) -> Generator[Path]:
    """The folder of a run, filled in the block; gone again when that fails, because half of one is seen by nobody and takes its room."""
    run_dir.mkdir()
    try:
        yield run_dir
    except BaseException as error:
        shutil.rmtree(run_dir, ignore_errors=True)
        if is_disk_full(error):
            raise disk_full(run_dir.name, ELSEWHERE) from error
        raise


def _settled(launch: Launch, recipe: Recipe, model: models.ModelRef, hardware: Hardware, node: Node | None) -> dict[str, Any]:
    """What was settled when a run was created, so that one that is resumed goes on in the same way."""
    return {
        "argv": list(launch.argv),
        "env": launch.env,
        "accelerate_config": launch.accelerate_config,
        "num_processes": launch.num_processes,
        "precision": precision(recipe, model.path, hardware, node),
        "device": "gpu" if hardware.gpus else "cpu",
        "num_gpus": num_processes(recipe, hardware) if hardware.gpus else 0,
        "model": dataclasses.asdict(model) | {"path": str(model.path)},
        "base_weights": weights_fingerprint(model.path) if models.is_whole(model.path) else None,
        "hardware": dataclasses.asdict(hardware),
        "transmute": core.__version__,
    }


def _spread(recipe: Recipe, estimate: dict[str, Any] | None, node: Node | None) -> Recipe:
    """`recipe` with what its `auto` comes to for a model that does not fit whole on each GPU."""
    found = estimate["accelerate_config"] if estimate else ""
    if recipe.accelerate_config != "auto" or found not in SHARDED:
        return recipe
    return recipe.model_copy(update={"accelerate_config": across(found, node)})


def dataset_entry(dataset: Dataset) -> dict[str, Any]:
    """What ``dataset.json`` keeps of a dataset.

    Raises:
        UserError: none of its conversations can be trained.
    """
    if len(dataset) == 0:
        raise UserError(f"No conversation of {dataset.name} can be trained.", dataset.name, "Run `validate` on it and mend what it lists.")
    return dataset.manifest.model_dump(mode="json", include={"id", "name", "sha256", "num_rows", "num_valid"})


def folder(run_id: str) -> Path:
    return paths.by_id(paths.runs_dir(), run_id, "run")


def recipe_of(run_id: str) -> Recipe:
    return load_recipe(folder(run_id) / "recipe.yaml")


def start(run_id: str, token: str | None = None, *, fit: bool = False) -> None:
    """Start, or start again, the supervisor of a run; it outlives this process. With `fit` the change that it was offered when memory ran
    out is made first, see `core.running.relief`.

    The run's lock is taken here and handed down, so at no moment is a started run without a holder. A run on a rented machine is looked
    after by `core.jobs.follower`, which asks the Hub with the caller's `token` and gets it through its standard input.

    Raises:
        UserError: the run is already going on, or is done, or its base model is gone, or no change is known that fits.
    """
    run_dir = folder(run_id)
    lock = take_lock(run_id)
    if lock is None:
        raise UserError(f"Run {run_id} is already going on.", run_id, "Watch it with `logs RUN -f`, or stop it with `stop RUN`.")
    try:
        run = load(run_id, lock_is_ours=True)
        if run.state == "done":
            raise UserError(f"Run {run_id} is done; there is nothing to resume.", run_id, "Start a new run from its recipe.yaml.")
        is_job = is_elsewhere(run_dir)
        if not is_job:
            resuming.make_ready(run_dir, run, token)
        if fit and is_job:
            raise UserError("A rented machine has its own recipe.", run_id, "Start a new run with the change.")
        if fit:
            relief.apply(run_dir, run)
        device = "" if is_job else str(paths.read_json(run_dir / "launch.json")["device"])
        if not is_job:
            queue.join(device, run_id, run.name, run.owner)
        events.append(run_dir, "queued", waiting_for="supervisor", device=device)
        with (run_dir / endings.SUPERVISOR_LOG).open("ab") as log:
            log.write(f"{endings.BEGIN}{time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
            log.flush()
            supervisor = subprocess.Popen(
                [sys.executable, "-m", "core.jobs.follower" if is_job else "core.running.supervisor", str(run_dir), str(lock.descriptor)],
                stdin=subprocess.PIPE if is_job else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=process.child_environment({"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"} if is_job else None),
                cwd=paths.PROJECT,
                start_new_session=True,
                pass_fds=(lock.descriptor,),
            )
        if supervisor.stdin:
            with contextlib.suppress(BrokenPipeError), supervisor.stdin as pipe:
                pipe.write((token or "").encode())
        # It outlives us; while we live, somebody has to collect its exit status or it stays a zombie.
        threading.Thread(target=supervisor.wait, daemon=True).start()
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(run_id) from error
        raise
    finally:
        lock.release()


def take_lock(run_id: str) -> FileLock | None:
    """The lock of a run that is not going on; None where it is.

    Raises:
        UserError: nothing may be written in its folder.
    """
    lock = FileLock(folder(run_id) / RUN_LOCK)
    try:
        is_free = (lock.path.exists() or not is_going_on(run_id)) and lock.acquire(LOOKED_AT_S)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        remedy = "Give yourself the right to write there, or mount its disk for writing."
        raise UserError(f"Nothing can be written into the folder of run {run_id}: {error.strerror}.", run_id, remedy) from error
    return lock if is_free else None


def is_elsewhere(run_dir: Path) -> bool:
    """Whether the run happens on a rented machine and has not come home from it yet."""
    return (run_dir / JOB).is_file() and not (run_dir / JOB).with_suffix(".done").exists()


def load(run_id: str, *, lock_is_ours: bool = False) -> Run:
    """The run as its events tell it; ``interrupted`` when they say it goes on and nobody holds its lock."""
    run = events.fold(events.read(folder(run_id)), events.nobody_yet(run_id))
    return run if lock_is_ours else as_found(run_id, run)


def as_found(run_id: str, run: Run) -> Run:
    """`run` as its events tell it, with its place in the queue; ``interrupted`` when they say it goes on and nobody holds its lock."""
    if run.is_terminal:
        return run
    if not is_going_on(run_id):
        error = endings.unattended(folder(run_id)) if is_elsewhere(folder(run_id)) else endings.without_a_word(folder(run_id))
        return dataclasses.replace(run, state="interrupted", error=error.as_dict())
    if run.state == "queued" and (device := run.progress.get("device")) and (place := queue.place(device, run_id)):
        return dataclasses.replace(run, progress=run.progress | {"place": place.number, "waiting_for": f"its turn: {place}"})
    return run


def is_going_on(run_id: str) -> bool:
    """Whether somebody looks after the run: holds its lock or, where somebody has deleted that file, is the supervisor that it had."""
    lock = folder(run_id) / RUN_LOCK
    if lock.exists():
        return is_held(lock)
    known = _supervisor(run_id)
    return known is not None and process.is_alive(known)


def all_ids() -> list[str]:
    """The ids of the workspace's runs, newest first. A link is no run: nothing outside the workspace is read."""
    found = [path.parent for path in paths.runs_dir().glob(f"*/{events.FILE_NAME}")]
    return sorted((path.name for path in found if paths.ID_PATTERN.fullmatch(path.name) and not path.is_symlink()), reverse=True)


def list_runs() -> list[Run]:
    """Every run of the workspace, newest first."""
    found: list[Run] = []
    for run_id in all_ids():
        with contextlib.suppress(UserError):  # deleted a moment ago
            found.append(load(run_id))
    return found


def pids(run_id: str) -> list[int]:
    """The live processes of the run: its supervisor and everything below it."""
    return [living.pid for living in _processes(run_id)]


def _processes(run_id: str) -> list[psutil.Process]:
    known = _supervisor(run_id)
    if known is None or not process.is_alive(known):
        return []
    try:
        supervisor = psutil.Process(known.pid)
        return [supervisor, *supervisor.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _supervisor(run_id: str) -> process.Identity | None:
    path = folder(run_id) / "process.json"
    try:
        return process.Identity(**paths.read_json(path))
    except (OSError, TypeError, ValueError):  # none was started yet, or the file is damaged
        return None


def stop(run_id: str, wait_s: float | None = None) -> Run:
    """Ask the run to save a checkpoint and end; kill its whole process tree when it has not ended after `wait_s`.

    By default that is a little more than what its supervisor leaves the worker, see `endings.stop_grace_s`.
    """
    run_dir = folder(run_id)
    if load(run_id).is_terminal:
        raise UserError(f"Run {run_id} is not going on.", run_id, "Nothing has to be stopped.")
    living = _processes(run_id)
    ask_to_stop(run_dir)
    deadline = time.monotonic() + (endings.stop_grace_s(run_dir) + BEYOND_GRACE_S if wait_s is None else wait_s)
    signalled = False
    while is_going_on(run_id) and time.monotonic() < deadline:
        known = _supervisor(run_id)
        if not signalled and known and process.is_alive(known):
            os.kill(known.pid, signal.SIGTERM)
            signalled = True
        time.sleep(0.1)
    known = _supervisor(run_id)
    if is_going_on(run_id) and known:
        process.kill_tree(known)
    psutil.wait_procs(living, timeout=GONE_S)  # the lock is free a moment before the last process is gone
    if load(run_id).state == "interrupted" and not is_elsewhere(run_dir):
        with unless_full():
            events.append(run_dir, "finished", state="cancelled")
    return load(run_id)


def ask_to_stop(run_dir: Path) -> None:
    """Leave word for the run's processes; where a full disk does not take it, their signal has to do."""
    with unless_full():
        (run_dir / STOP_FILE).touch()
        events.append(run_dir, "stop_requested")


def follow(run_id: str, poll_s: float = 0.2) -> Iterator[Run]:
    """The run each time its events have grown, until it is terminal; the last one yielded is terminal."""
    run_dir = folder(run_id)
    known_bytes = -1
    while True:
        held = is_going_on(run_id)
        size_bytes = (run_dir / events.FILE_NAME).stat().st_size
        if size_bytes != known_bytes or not held:
            known_bytes = size_bytes
            run = load(run_id)
            yield run
            if run.is_terminal and not is_going_on(run_id):
                return
        time.sleep(poll_s)

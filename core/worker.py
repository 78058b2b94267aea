"""The training worker: ``python -m core.worker RUN_DIR``, alone or once per rank under ``accelerate launch``."""

from __future__ import annotations

import atexit
import fcntl
import logging
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

from core import events, paths, process
from core.errors import UserError
from core.starting import many_imports, read_metadata_once
from core.training.failures import as_user_error, is_disk_full
from core.training.hardware import GPU_LOCK
from core.training.recipe import load as load_recipe


def main(run_dir: Path) -> int:
    process.die_with_parent()
    signal.signal(signal.SIGTERM, lambda *_: (run_dir / "stop").touch())
    locks = [hold_device(name) for name in devices(paths.read_json(run_dir / "launch.json")["device"])]
    held_bytes = 0  # when memory ran out
    try:
        leave_out_unused(run_dir)
        warnings.filterwarnings("ignore", category=FutureWarning)  # about the libraries' own next versions, which are pinned here
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it asks for a kernel package that its CPU path does without
        read_metadata_once()
        with many_imports():
            from core.training.train import train
        from core.training.peak import Peak

        peak = Peak()
        try:
            train(run_dir, peak)
        except Exception as error:
            if known := as_user_error(error, load_recipe(run_dir / "recipe.yaml")):
                held_bytes = peak.look() - peak.base_bytes if known.code == "OOM" else 0
                raise known from error
            raise
    except UserError as error:
        tell(run_dir, error, held_bytes)
        if error.__cause__:
            traceback.print_exception(error.__cause__)  # the log keeps where it happened
        print(error, file=sys.stderr)
        return 1
    finally:
        for lock in locks:
            os.close(lock)
    return 0


def tell(run_dir: Path, error: UserError, held_bytes: int = 0) -> None:
    """Hand the error to the supervisor, which finds out by itself when the disk is too full for that."""
    held = {"held_bytes": held_bytes} if held_bytes else {}
    try:
        events.append(run_dir, "worker_error", error=error.as_dict(), **held)
    except OSError as refused:
        if not is_disk_full(refused):
            raise


def leave_out_unused(run_dir: Path) -> None:
    """Make the import of packages fail that the run does without: the libraries import each of them wherever it is installed, which takes
    about a quarter of a start, and deepspeed needs nvcc on a GPU."""
    recipe = load_recipe(run_dir / "recipe.yaml")
    is_zero = str(paths.read_json(run_dir / "launch.json")["accelerate_config"]).startswith("zero")
    needed = {
        "deepspeed": is_zero,
        "scipy": is_zero,
        "bitsandbytes": recipe.method == "qlora" or recipe.optim.startswith(("paged", "adamw_8bit")),
        "wandb": recipe.report_to == "wandb",
    }
    for name in (name for name, is_needed in needed.items() if not is_needed):
        sys.modules[name] = None  # type: ignore[assignment]  (the import system's own way to say that there is no such module)


def devices(kind: str) -> list[str]:
    """What this process was given: the GPUs that it sees, or the machine."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "") if kind == "gpu" else ""
    return [f"{GPU_LOCK}{name}" for name in seen.split(",") if name] or [kind]


def hold_device(device: str) -> int:
    """A shared lock that tells everybody that a worker still uses the device, also when its supervisor is gone."""
    path = paths.home() / "locks" / f"{device}.workers.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def leave(code: int) -> NoReturn:
    """End the process, but do not take the interpreter apart. Native threads of two ranks may then abort it, though its work is done, and
    `accelerate launch` would kill the rank that still saves."""
    atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main(Path(sys.argv[1])))

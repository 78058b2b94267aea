"""A recipe as something that runs elsewhere: YAML, an `accelerate launch` command, a plain TRL script, a notebook, a SLURM batch file."""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from core import paths
from core.errors import UserError
from core.training import accelerated, launch, script
from core.training.forecast import Estimate
from core.training.hardware import Gpu, Hardware
from core.training.prospect import prospect
from core.training.recipe import Recipe
from core.training.shapes import of_listed

To = Literal["yaml", "command", "script", "notebook", "slurm"]
FORMATS: tuple[To, ...] = get_args(To)
SUFFIXES: dict[To, str] = {"yaml": ".yaml", "command": ".sh", "script": ".py", "notebook": ".ipynb", "slurm": ".sbatch"}
PACKAGES = ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")
SLURM_SLACK = 2.0  # of the estimated time; a job that ends too early loses what came after its last checkpoint
SLURM_HOURS = 24  # where nothing is known of the time


def export(recipe: Recipe, to: To, hardware: Hardware, estimate: Estimate | None = None) -> str:
    """The text of the file. `hardware` and `estimate` decide the launcher's configuration; `estimate` also the time and memory that a batch job asks for."""
    recipe = portable(recipe)
    match to:
        case "yaml":
            return _yaml(recipe)
        case "command":
            return command(recipe, hardware, estimate)
        case "script":
            return script.script(recipe)
        case "notebook":
            return notebook(recipe)
        case "slurm":
            return slurm(recipe, hardware, estimate)


def _yaml(recipe: Recipe) -> str:
    """The recipe's YAML; a maximum length that nobody chose stays open, so that it follows the model there as it does here."""
    if "max_length" in recipe.model_fields_set or recipe.rope_scaling != "none":
        return recipe.to_yaml()
    return re.sub(r"(?m)^max_length: .*\n", "", recipe.to_yaml())


def known_estimate(recipe: Recipe, hardware: Hardware) -> Estimate | None:
    """The recipe's estimate where the model's shapes are known without a network and `hardware` can do it; else None."""
    if recipe.base_model != "starter" and of_listed(recipe.base_model) is None and not Path(recipe.base_model).is_dir():
        return None
    try:
        return prospect(recipe, hardware).estimate
    except UserError:
        return None


def portable(recipe: Recipe) -> Recipe:
    """`recipe` with the examples that ship with Transmute named from its folder, where every export is used."""
    names = {name: str(getattr(recipe, name)) for name in ("dataset", "eval_dataset")}
    inside = {
        name: Path(given).relative_to(paths.PROJECT).as_posix() for name, given in names.items() if given.startswith(f"{paths.EXAMPLES}/")
    }
    return recipe.model_copy(update=inside)


def file_name(recipe: Recipe, to: To) -> str:
    return f"{recipe.name}{SUFFIXES[to]}"


def command(recipe: Recipe, hardware: Hardware, estimate: Estimate | None = None) -> str:
    """A shell file: the plain script under `accelerate launch`, with the configuration and the processes that this recipe gets here."""
    if estimate and recipe.accelerate_config == "auto":
        recipe = recipe.model_copy(update={"accelerate_config": estimate.accelerate_config})
    if needs_gpu(recipe, hardware) and not hardware.gpus:  # it is for another machine, which has them
        hardware = replace(hardware, gpus=(Gpu("GPU", 0, (8, 0)),) * launch.num_processes(recipe, hardware))
    made = launch.command(Path("RUN"), recipe, hardware, threads=max(1, hardware.cpu_count // launch.num_processes(recipe, hardware)))
    own = accelerated.own_files(recipe, hardware, Path(), prefix=f"{recipe.name}-")
    config = next(iter(own), launch.file_of(made.accelerate_config, hardware).relative_to(paths.PROJECT))
    env = [f"{name}={shlex.quote(value)}" for name, value in made.env.items() if not value.startswith("RUN")]
    argv = ["accelerate", "launch", "--config_file", config.as_posix(), "--num_processes", str(made.num_processes)]
    argv += ["--num_machines", "1", "--main_process_port", "0", file_name(recipe, "script")]
    return (
        "#!/bin/sh\n"
        f"# {recipe.name}: in Transmute's folder, where spaces/accelerate lies, beside the script that\n"
        f"#   python -m core export RECIPE --to script -o {file_name(recipe, 'script')}\n"
        "# writes. Everything of a run, checkpoints that verify, merging and quantising, is: python -m core train RECIPE\n"
        + "".join(_here(shlex.quote(file.as_posix()), text) for file, text in own.items())
        + f"{' '.join(env)} \\\n  {shlex.join(argv)}\n"
    )


def _here(target: str, text: str, end: str = "END") -> str:
    """The lines of a shell file that write `text` to `target`."""
    while f"\n{end}\n" in f"\n{text}\n":
        end += "_"
    newline = "" if text.endswith("\n") else "\n"
    return f"cat > {target} <<'{end}'\n{text}{newline}{end}\n"


def notebook(recipe: Recipe) -> str:
    """A Jupyter notebook (nbformat 4.5): the packages, then the plain script, one cell for each of its parts."""
    cells = [
        _cell(0, "markdown", f"# {recipe.name}\n\n`{recipe.method}` as a plain TRL script. Put the conversations beside this notebook.")
    ]
    cells.append(_cell(1, "code", f"%pip install -q {' '.join(pins())}"))
    for number, part in enumerate(script.parts(recipe), 2):
        cells.append(_cell(number, "code", part.strip("\n")))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": source.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def pins() -> list[str]:
    """``trl==1.16.0`` and the others, as Transmute's own requirements name them."""
    lines = (paths.PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = {name: line for line in lines for name in PACKAGES if re.match(rf"{name}(\[[^\]]*\])?==", line)}
    return [found[name].split(" ")[0] for name in PACKAGES if name in found]


def slurm(recipe: Recipe, hardware: Hardware, estimate: Estimate | None = None) -> str:
    """A batch file for one node that carries the recipe with it and trains it with Transmute."""
    processes = launch.num_processes(recipe, hardware)
    seconds = estimate.total_s * SLURM_SLACK if estimate else SLURM_HOURS * 3600
    hours, minutes = divmod(max(10, math.ceil(seconds / 60)), 60)
    asked = [f"--job-name={recipe.name}", "--nodes=1", "--ntasks=1", f"--time={hours:02d}:{minutes:02d}:00"]
    if needs_gpu(recipe, hardware):
        asked.append(f"--gpus-per-node={processes}")
    asked.append(f"--cpus-per-task={max(2, min(hardware.cpu_count, 8 * processes))}")
    if estimate:
        asked.append(f"--mem={math.ceil(estimate.host_bytes * 1.1 / 1e9) + 1}G")
    return (
        "#!/bin/bash\n"
        + "".join(f"#SBATCH {option}\n" for option in asked)
        + f"#SBATCH --output={recipe.name}-%j.log\n#SBATCH --signal=B:TERM@120\n\n"
        + "# Submit it in Transmute's folder, with its environment active: sbatch FILE. Two minutes before the time is over, the run is\n"
        + "# asked to save a checkpoint; `python -m core resume RUN` goes on from it.\n"
        + "set -euo pipefail\n"
        + 'recipe="$(mktemp --suffix=.yaml)"\n'
        + _here('"$recipe"', _yaml(recipe), "RECIPE")
        + "\n"
        + 'run="$(python -m core train "$recipe" --detach --json | tail -n 1 | python -c \'import json, sys; print(json.load(sys.stdin)["run_id"])\')"\n'
        + "trap 'python -m core stop \"$run\"' TERM\n"
        + 'python -m core logs "$run" -f &\nwait $! || true  # TERM ends the waiting, once the run has stopped\npython -m core show "$run"\n'
        + "# The job fails where the run did.\n"
        + 'python -m core show "$run" --json | tail -n 1 | python -c \'import json, sys; sys.exit(json.load(sys.stdin)["state"] != "done")\'\n'
    )


def needs_gpu(recipe: Recipe, hardware: Hardware) -> bool:
    """Whether a job asks for GPUs: where this machine has some, or the recipe works on nothing else."""
    gpu_only = (
        recipe.accelerate_config in ("single_gpu", "fsdp2", *launch.OFFLOAD) or "8bit" in recipe.optim or recipe.optim.startswith("paged_")
    )
    return (
        bool(hardware.gpus)
        or gpu_only
        or recipe.dtype == "fp16"
        or recipe.use_liger_kernel
        or recipe.attn_implementation == "flash_attention_2"
    )

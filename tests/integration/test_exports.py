"""Every export of every method really trains: what is written is run as a person would run it, and leaves weights that learnt."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core import paths
from core.data.dataset import take_data
from core.data.render import tokenize
from core.process import child_environment
from core.running import runs
from core.training import checkpoints, exports, script
from core.training.hardware import detect
from core.training.presets import demo
from core.training.recipe import Recipe
from tests.weights import require_learnt

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600), pytest.mark.usefixtures("workspace")]

METHODS = ("qlora", "lora", "sft", "fft")
every_method = pytest.mark.parametrize("method", METHODS)
# A notebook's cells one after the other in one namespace, as a kernel runs them; what begins with % is the kernel's own.
KERNEL = """
import json, sys, types
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
sys.argv[1:] = ["-f", "kernel.json"]
for number, source in enumerate("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
    if not source.startswith("%"):
        exec(compile(source, f"cell {number}", "exec"), globals())
"""
SBATCH = """#!/bin/sh
[ "$(head -n 1 "$1")" = '#!/bin/bash' ] || exit 2
grep -q '^#SBATCH --job-name=' "$1" || exit 3
echo "Submitted batch job 1"
exec bash "$1"
"""


def recipe(method: str) -> Recipe:
    knobs = {"name": f"two-steps-{method}", "method": method, "max_steps": 2, "levels": (), "save_steps": 0, "eval_dataset": ""}
    knobs |= {"eval_fraction": 0.02, "micro_batch_size": 2, "gradient_accumulation_steps": 2, "packing": False}
    return demo().model_copy(update=knobs | ({"learning_rate": 1e-4} if method in ("sft", "fft") else {}))


def environment(*programs: Path) -> dict[str, str]:
    """What a shell has: this Python's programs on the path, after `programs`; of Transmute only its folder."""
    found = child_environment({"TRANSMUTE_HOME": str(paths.home())})
    del found["PYTHONPATH"]
    return found | {"PATH": os.pathsep.join([*map(str, programs), str(Path(sys.executable).parent), found["PATH"]])}


def run(argv: list[str], folder: Path, *programs: Path) -> str:
    done = subprocess.run(argv, cwd=folder, env=environment(*programs), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what an export names of Transmute's own in it."""
    for name in ("spaces", "examples"):
        (tmp_path / name).symlink_to(paths.PROJECT / name)
    return tmp_path


def write(chosen: Recipe, to: exports.To, folder: Path) -> Path:
    file = folder / exports.file_name(chosen, to)
    file.write_text(exports.export(chosen, to, detect(), exports.known_estimate(chosen, detect())), encoding="utf-8")
    return file


@every_method
def test_the_command_trains_the_script(method: str, folder: Path) -> None:
    chosen = recipe(method)
    write(chosen, "script", folder)
    said = run(["sh", str(write(chosen, "command", folder))], folder)
    assert "294 conversations to train on, 6 to measure on" in said and "train_loss" in said and "eval_loss" in said
    require_learnt(folder / chosen.name, chosen.method)


@every_method
def test_the_notebook_trains_cell_by_cell(method: str, folder: Path) -> None:
    chosen = recipe(method)
    said = run([sys.executable, "-W", "ignore", "-c", KERNEL, str(write(chosen, "notebook", folder))], folder)
    assert "294 conversations to train on, 6 to measure on" in said and "train_loss" in said
    require_learnt(folder / chosen.name, chosen.method)


@every_method
def test_the_yaml_trains_with_the_command_line(method: str, tmp_path: Path) -> None:
    chosen = recipe(method)
    file = write(chosen, "yaml", tmp_path)
    said = json.loads(run([sys.executable, "-m", "core", "train", str(file), "--json"], paths.PROJECT).splitlines()[-1])
    assert (said["state"], said["step"]) == ("done", 2)
    assert runs.recipe_of(said["run_id"]) == exports.portable(chosen)


@pytest.mark.parametrize(
    "knobs",
    [
        {"method": "qlora", "eval_steps": 2, "use_dora": True},
        {"method": "lora", "packing": True, "micro_batch_size": 1, "dtype": "bf16"},
        {"method": "lora", "loss_on": "last", "gradient_accumulation_steps": 2},
        {"method": "sft", "train_head": True, "train_norms": True, "learning_rate": 1e-4, "loss_on": "all", "chat_template": "vicuna_v1.1"},
        {"method": "fft", "learning_rate": 1e-4, "rope_scaling": "linear", "max_length": 1500},
    ],
    ids=lambda knobs: str(knobs["method"]),
)
def test_the_script_learns_what_the_run_learns(knobs: dict[str, Any], folder: Path) -> None:
    """Step by step the same losses: the same tokens, labels and first weights, in the same order."""
    quick = {"name": "six-steps", "max_steps": 6, "levels": (), "save_steps": 0, "micro_batch_size": 2}
    chosen = demo().model_copy(update=quick | knobs)
    run_id = runs.create(chosen)
    runs.start(run_id)
    *_, made = runs.follow(run_id)
    assert made.state == "done", (runs.folder(run_id) / runs.LOG).read_text(encoding="utf-8")[-2000:]
    said = run([sys.executable, str(write(chosen, "script", folder))], folder)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.e-]+)", said)]
    assert losses == pytest.approx([made.losses[step] for step in range(1, 7)], rel=2e-3)


SYSTEM = {"system": "You are short.", "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "Hi.\u2028You?"}]}
ROLES = {"messages": [{"role": "developer", "content": ""}, {"role": "user", "content": "Hi?"}, {"role": "model", "content": "Hi."}]}


def test_the_script_reads_the_conversations_that_the_run_reads(folder: Path) -> None:
    """A system message beside the turns, an empty one, other names of roles, a line separator inside a line; and it says so when there is nothing."""
    from core.data.tokenizer import load_tokenizer

    data, chosen = folder / "data.jsonl", recipe("lora").model_copy(update={"eval_fraction": 0.0, "max_steps": 1})
    data.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in (SYSTEM, ROLES)), encoding="utf-8-sig")
    parts = "".join(script.parts(chosen)[:2])
    rows = json.loads(run([sys.executable, "-c", f"{parts}\nprint(json.dumps(rows))", str(data)], folder).splitlines()[-1])
    found = list(take_data(str(data)))
    expected = [tokenize(conversation, load_tokenizer(paths.STARTER), chosen.max_length) for conversation in found]
    assert rows == [{"input_ids": each.input_ids, "labels": each.labels} for each in expected] and len(rows) == 2
    data.write_text('[{"instruction": "Hi?", "output": "Hi."}]', encoding="utf-8")
    with pytest.raises(AssertionError, match="no conversations with something to learn"):
        run([sys.executable, "-c", parts, str(data)], folder)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for the path with an `sbatch` that runs the job at once, and reads no option but its name."""
    shim = tmp_path / "bin" / "sbatch"
    shim.parent.mkdir()
    shim.write_text(SBATCH, encoding="utf-8")
    shim.chmod(0o755)
    return shim.parent


@every_method
def test_the_batch_file_trains_under_sbatch(method: str, tmp_path: Path, programs: Path) -> None:
    chosen = recipe(method)
    said = run(["sbatch", str(write(chosen, "slurm", tmp_path))], paths.PROJECT, programs)
    assert "step 2/2" in said, "the log of the training is the job's"
    (made,) = runs.list_runs()
    assert made.state == "done" and made.optimizer_step == 2 and made.name == chosen.name
    assert runs.recipe_of(made.run_id) == exports.portable(chosen)


def test_a_batch_job_whose_run_failed_fails(tmp_path: Path, programs: Path, no_numbers: Path) -> None:
    """Weights that are no numbers: the third bad step ends the run."""
    chosen = recipe("lora").model_copy(update={"base_model": str(no_numbers), "max_steps": 9})
    with pytest.raises(AssertionError, match="is failed"):
        run(["sbatch", str(write(chosen, "slurm", tmp_path))], paths.PROJECT, programs)
    assert [(made.state, made.error and made.error["code"]) for made in runs.list_runs()] == [("failed", "NAN")]


def test_a_batch_job_whose_time_is_over_saves_and_says_where_it_stands(tmp_path: Path, programs: Path) -> None:
    """SLURM sends TERM to the batch shell alone; a checkpoint is saved, and the job fails as the run is not done."""
    chosen = recipe("lora").model_copy(update={"max_steps": 400})
    argv = ["sbatch", str(write(chosen, "slurm", tmp_path))]
    job = subprocess.Popen(argv, cwd=paths.PROJECT, env=environment(programs), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not any(run.optimizer_step >= 2 for run in runs.list_runs()):
        assert job.poll() is None, job.stdout and job.stdout.read()
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=200)
    (stopped,) = runs.list_runs()
    assert job.returncode == 1 and "is cancelled" in said, said
    newest, refused = checkpoints.newest_whole(runs.folder(stopped.run_id) / "checkpoints")
    assert newest and not refused and checkpoints.step_of(newest) == stopped.optimizer_step

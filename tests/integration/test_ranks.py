"""Two ranks that train together: which rows each of them sees, what kills one of them, and a loss that is no number on one of them."""

import json
import os
import shutil
import signal
import subprocess

import psutil
import pytest
from safetensors.torch import load_file, save_file

from core import paths
from core.data.tokenizer import load_tokenizer
from core.process import child_environment
from core.running import runs
from core.training import accelerated, checkpoints
from core.training.hardware import detect
from core.training.presets import demo
from core.training.recipe import Recipe
from tests.integration.test_train import finished, log_of, wait_for_step

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1500), pytest.mark.usefixtures("workspace")]

ONLY_TRAINS = {"method": "lora", "levels": (), "eval_dataset": "", "eval_fraction": 0.0, "micro_batch_size": 1, "num_processes": 2}


def start(**knobs):
    run_id = runs.create(demo().model_copy(update=ONLY_TRAINS | knobs), steps=("train",))
    runs.start(run_id)
    return run_id


def edited(config):
    """The files of a configuration as a person may have changed them; accelerate reads them before the run is made."""
    text, settings = accelerated.texts(Recipe(), config, detect())
    return {"accelerate_yaml": text, "deepspeed_json": settings.replace('"overlap_comm": true', '"overlap_comm": false')}


RESUMED = [("ddp", "lora"), ("ddp", "fft"), ("zero2", "lora"), ("zero2", "fft"), ("zero3", "lora"), ("zero3", "fft")]


@pytest.mark.parametrize(("config", "method"), RESUMED)
def test_a_rank_that_is_killed_takes_nothing_with_it(config, method):
    """The run goes on from its checkpoint to exactly the losses of one that was left alone; dropout draws the same numbers again."""
    own = edited(config) if config == "zero2" else {}
    knobs = own | {"accelerate_config": config, "method": method, "max_steps": 6, "save_steps": 2, "gradient_accumulation_steps": 2}
    knobs |= {"lora_dropout": 0.1} if method == "lora" else {"learning_rate": 1e-4}
    whole = finished(start(**knobs))
    assert whole.state == "done", log_of(whole.run_id)
    kept = runs.folder(whole.run_id)
    assert not own or (kept / "deepspeed.json").read_text() == own["deepspeed_json"]
    assert (str(kept / "accelerate.yaml") in paths.read_json(kept / "launch.json")["argv"]) == bool(own)
    run_id = start(**knobs)
    wait_for_step(run_id, 3)
    ranks = [process for process in map(psutil.Process, runs.pids(run_id)) if "core.worker" in process.cmdline()[-2:]]
    os.kill(ranks[-1].pid, signal.SIGKILL)
    killed = finished(run_id)
    assert killed.state == "interrupted" and runs.pids(run_id) == [], log_of(run_id)
    newest, refused = checkpoints.newest_whole(runs.folder(run_id) / "checkpoints")
    assert newest and not refused
    runs.start(run_id)
    resumed = finished(run_id)
    assert resumed.state == "done", log_of(run_id)
    assert resumed.losses == whole.losses
    assert any(step > checkpoints.step_of(newest) for step in resumed.losses)


def talk(question, answer):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}


def with_one_broken_token(folder, token_id):
    """The starter with an embedding that is no number, so that only a row with this token has a loss that is none."""
    shutil.copytree(paths.STARTER, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][token_id] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_three_steps_in_which_any_micro_batch_of_any_rank_was_bad_end_the_run_on_every_rank(tmp_path):
    """Of the first step's eight micro batches, four on each rank, one is bad; the weights that it makes are no numbers, and all after it are bad."""
    usual = [f"{word} is a fine word." for word in "one two three four five six seven".split()]
    odd = "@@@"
    tokenizer = load_tokenizer(paths.STARTER)
    known = {token for text in usual for token in tokenizer.encode(text)[0]}
    broken = next(token for token in tokenizer.encode(odd)[0] if token not in known)
    base = with_one_broken_token(tmp_path / "base", broken)
    data = tmp_path / "data.json"
    data.write_text(json.dumps([talk("Say something.", text) for text in [*usual, odd]]), encoding="utf-8")
    knobs = {"accelerate_config": "ddp", "gradient_accumulation_steps": 4, "save_steps": 1, "max_steps": 9, "warmup_steps": 0}
    run = finished(start(**knobs, base_model=str(base), dataset=str(data)))
    assert run.state == "failed" and run.error["code"] == "NAN", log_of(run.run_id)
    assert run.error["where"] == "step 3" and "for 3 steps" in run.error["problem"]
    assert not checkpoints.all_of(runs.folder(run.run_id) / "checkpoints")
    assert log_of(run.run_id).count("The loss was not a number for 3 steps") == 2, "every rank ends by itself"


ROWS = """
import json, os, sys
from pathlib import Path
from core import paths
from core.data.tokenizer import load_tokenizer
from core.training.recipe import load
from core.training.samples import rows_of
from core.training.train import load_model, lora_config, training_arguments
from core.training.trainer import AnswerTrainer
from transformers import AutoTokenizer
import torch
run_dir, seen = Path(sys.argv[1]), {}
for packing in (False, True):
    recipe = load(run_dir / "recipe.yaml").model_copy(update={"packing": packing})
    arguments = training_arguments(run_dir, recipe, "fp32")  # before the model, as in the worker
    model = load_model(paths.STARTER, recipe, torch.float32)
    rows, _ = rows_of(run_dir, load_tokenizer(run_dir / "tokenizer"))
    trainer = AnswerTrainer(
        model=model, args=arguments, train_dataset=rows.dataset(), peft_config=lora_config(model, recipe),
        processing_class=AutoTokenizer.from_pretrained(run_dir / "tokenizer"),
    )
    real = lambda batch: batch["attention_mask"].bool() if "attention_mask" in batch else ...
    seen[str(packing)] = [batch["input_ids"][real(batch)].flatten().tolist() for _, batch in zip(range(4), trainer.get_train_dataloader())]
distribution = str(trainer.accelerator.distributed_type)
(run_dir / f"seen-{os.environ.get('RANK', 0)}.json").write_text(json.dumps([distribution, seen]))
"""


def seen_by(script, **knobs):
    """The tokens of the first batches as every rank sees them, started as the worker is: (how they are distributed, {packing: batches}) of each."""
    run_dir = runs.folder(runs.create(demo().model_copy(update=ONLY_TRAINS | knobs), steps=("train",)))
    launch = paths.read_json(run_dir / "launch.json")
    launcher = launch["argv"][: launch["argv"].index("core.worker") - 1]
    env = child_environment(launch["env"] | {"PYTHONPATH": str(paths.PROJECT)})
    child = subprocess.run(
        [*launcher, str(script), str(run_dir)], cwd=paths.PROJECT, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert child.returncode == 0, child.stderr[-4000:]
    return [json.loads(file.read_text()) for file in sorted(run_dir.glob("seen-*.json"))]


def test_two_ranks_take_the_rows_in_the_order_in_which_one_takes_them(tmp_path):
    """Plain rows and packed ones, whatever the ranks share."""
    script = tmp_path / "rows.py"
    script.write_text(ROWS)
    ((_, one),) = seen_by(script, num_processes=1, micro_batch_size=2)
    assert all(len(batches) == 4 and len({*map(tuple, batches)}) == 4 for batches in one.values()) and one["True"] != one["False"]
    for config, kind in (("ddp", "MULTI_CPU"), ("zero2", "DEEPSPEED"), ("zero3", "DEEPSPEED")):
        first, second = seen_by(script, accelerate_config=config)
        assert first[0] == second[0] and kind in first[0]
        for packing, expected in one.items():
            both = [[*mine, *yours] for mine, yours in zip(first[1][packing], second[1][packing], strict=True)]
            assert both == expected, f"{config}, packing {packing}"

"""What the Train tab shows beside the form: where a preset comes from, the launcher's files, each method's time, and a probe."""

from __future__ import annotations

import json
import re

import pytest

from core import events, paths
from core.data.dataset import import_dataset
from core.data.measures import measure
from core.running import probe, runs
from core.training import models, prepare, workload
from core.training.presets import PRESETS, preset
from core.training.published import published
from core.training.recipe import Recipe
from ui import form, train_data, train_estimate, train_handlers, train_origin, train_probe
from ui.access import Caller
from ui.shell import NO_ID
from ui.theme import CSS

LOCAL = Caller("this machine", "owner", is_local=True)
FOUR_GPUS = "jobs:l4x4"
pytestmark = pytest.mark.usefixtures("workspace")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_shows_its_old_command_flag_by_flag_and_what_differs(name):
    shown, source = train_origin.origin(name), published(name)
    if source is None:
        assert "own" in shown and train_origin.summary(name).split(":")[0] in shown
        return
    assert source.source in shown and shown.count("<tr>") == len(source.flags) + 1
    assert all(sentence.replace("'", "&#x27;") in shown for sentence in source.differs)
    assert not re.search(r"<(?!/?(p|a|pre|div|table|thead|tbody|tr|th|td|code|ul|li|b)\b)", shown), "what is quoted is escaped"


def test_another_preset_brings_its_origin_along():
    shown = train_handlers.take_preset.__wrapped__("mlabonne-qlora", train_handlers.fresh(), caller=LOCAL, dataset="examples/identity.json")
    assert "paged_adamw_32bit" in shown["origin"]


def test_the_launchers_files_become_the_recipes_own_at_one_click():
    values = train_handlers.fresh()["values"] | {"method": "lora", "accelerate_config": "zero2"}
    kept = train_handlers.fresh() | {"values": values}
    judged = train_handlers.check.__wrapped__(kept, caller=LOCAL, **values)
    assert "distributed_type: DEEPSPEED" in judged["launch_file"]
    shown = train_handlers.edit_files.__wrapped__(kept, caller=LOCAL, **values)
    after = shown["kept"]["values"]
    assert after["accelerate_yaml"] == judged["launch_file"] and json.loads(after["deepspeed_json"])["zero_optimization"]["stage"] == 2
    assert train_data.why_not(after, LOCAL) is None
    assert "RUN/accelerate.yaml" in shown["command"] and "accelerate_yaml: |" in shown["yaml"]
    broken = train_data.why_not(after | {"accelerate_config": "ddp"}, LOCAL)
    assert broken and "distribution is ddp" in broken.problem


def test_auto_shows_what_it_comes_to_where_the_run_shall_happen():
    changed = {"base_model": "lmsys/vicuna-7b-v1.5", "accelerate_config": "auto", "num_processes": 0, "dataset": "examples/identity.json"}
    values = form.to_values(preset("fastchat-fft")) | changed
    assert train_estimate.distribution(values, LOCAL, FOUR_GPUS) in ("fsdp2", "zero3_offload")
    assert train_estimate.distribution(values | {"method": "qlora"}, LOCAL, FOUR_GPUS) == "ddp"
    assert train_estimate.distribution(values, LOCAL) in ("cpu", "single_gpu", "ddp")


def test_each_method_says_how_long_it_takes_for_this_model_and_dataset():
    values = train_handlers.fresh()["values"]
    times = train_estimate.times(values, LOCAL)
    assert set(times) == {"qlora", "lora", "sft", "fft"} and all(seconds > 0 for seconds in times.values())
    shown = train_handlers.check.__wrapped__(train_handlers.fresh(), caller=LOCAL, **values)
    assert shown["comparison"].count("about ") >= 4 and ">Time<" in shown["comparison"]
    assert train_estimate.times(values | {"dataset": ""}, LOCAL) == {} == train_estimate.times(values | {"base_model": "some/one"}, LOCAL)


def test_a_dataset_that_was_measured_is_counted_in_the_estimate_and_its_evaluation_too():
    dataset, evaluated = (import_dataset(paths.EXAMPLES / name) for name in ("identity.json", "identity_eval.json"))
    recipe = Recipe(dataset=dataset.id, eval_dataset=evaluated.id, max_length=512, packing=False)
    guessed = train_estimate.work_of(recipe)
    assert not guessed.is_counted and guessed.longest == 512 and guessed.eval_rows == len(evaluated)
    tokenizer = prepare.tokenizer_of(recipe, models.resolve("starter"))
    for each in (dataset, evaluated):
        measure(each, tokenizer, 512, recipe.loss_on)
    counted = train_estimate.work_of(recipe)
    assert counted.is_counted and counted.longest < 512 and counted.eval_tokens != guessed.eval_tokens
    assert counted == workload.of_dataset(dataset, tokenizer, recipe, evaluated)


def probe_run(run_id, *then):
    """The folder of a probe, with what its processes would have written."""
    folder = paths.runs_dir() / run_id
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(probe.recipe_of(preset("demo")).to_yaml())
    events.append(folder, "created", run_id=run_id, name="A-probe", method="lora", steps=["train"])
    events.append(folder, "train_began", step=0, max_steps=20)
    for step in range(1, 8):
        events.append(folder, "train_log", step=step, loss=1.0)
    for kind, fields in then:
        events.append(folder, kind, **fields)
    return run_id


def test_a_probe_that_is_through_is_told_once_and_gone():
    facts = {"memory_bytes": {"load": 10, "train": 250_000_000}, "train_s": 3.0}
    run_id = probe_run("p-1", ("facts", {"facts": facts}), ("finished", {"state": "done"}))
    shown = train_probe.look.__wrapped__(run_id, train_handlers.fresh(), caller=LOCAL)
    assert "peak 250.0 MB" in shown["said"] and shown["probe_id"] == NO_ID and not shown["ticking"].active
    assert "estimate" in shown and not (paths.runs_dir() / run_id).exists()


def test_a_probe_that_failed_says_why_and_stops_asking():
    error = {"problem": "Memory ran out.", "where": "train", "remedy": "Lower it.", "code": "OOM"}
    run_id = probe_run("p-2", ("finished", {"state": "failed", "error": error}))
    shown = train_probe.look.__wrapped__(run_id, train_handlers.fresh(), caller=LOCAL)
    assert "Memory ran out." in shown["said"] and shown["probe_id"] == NO_ID
    assert runs.folder(run_id).is_dir(), "its log is kept"
    other = probe_run("p-3", ("finished", {"state": "done"}))
    events.append(runs.folder(other), "created", run_id=other, name="Somebodys-model", method="lora", steps=["train"])
    assert "is no probe" in train_probe.look.__wrapped__(other, train_handlers.fresh(), caller=LOCAL)["said"]
    assert runs.folder(other).is_dir(), "nothing else is deleted"
    gone = train_probe.look.__wrapped__("p-9", train_handlers.fresh(), caller=LOCAL)
    assert gone["probe_id"] == NO_ID and "Not measured" in gone["said"]


def test_without_a_probe_nothing_is_asked():
    assert set(train_probe.look.__wrapped__("", train_handlers.fresh(), caller=LOCAL)) == {"ticking"}


def test_only_this_machine_is_probed():
    kept = train_handlers.fresh() | {"place": FOUR_GPUS}
    with pytest.raises(Exception, match="Only this machine"):
        next(train_probe.begin.__wrapped__(kept, caller=LOCAL))
    meant = preset("demo").model_copy(update={"publish_to": "me/mine"})
    made = Recipe(**probe.recipe_of(meant).model_dump())
    assert made.max_steps == probe.STEPS and not made.publish_to, "nobody wants twenty steps published"


def test_each_part_of_an_estimate_has_a_colour_of_its_own():
    found = re.findall(r"\.p-(\w+) \{ background: (#\w{6}); \}", (CSS / "train.css").read_text(encoding="utf-8"))
    assert {name for name, _ in found} == set(train_estimate.NAMES) and len({colour for _, colour in found}) == len(found)

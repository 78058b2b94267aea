"""The Runs tab in a real browser: a long run, a queue, a start, a stop and a resume, answers, a comparison, a note, a copy, and a deletion."""

from __future__ import annotations

import json
import math
import os
import re
import zipfile

import psutil
import pytest

from core import events, paths
from core.running import runs
from core.training.presets import demo
from tests.browser import looks
from tests.browser.steps import is_at_work, open_section, open_tab, reload, visit
from tests.faults import fleet

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
LONG, SHORT = "260101-101010-aaaa", "260102-101010-bbbb"
POINTS = 100_000
STEPS = 16
QUICK = {"method": "lora", "max_steps": STEPS, "save_steps": 6, "max_length": 128, "micro_batch_size": 4, "levels": (), "eval_dataset": "",
         "eval_fraction": 0.0}  # fmt: skip
PATIENCE_S = 180.0  # for the real trainer on a busy machine


@pytest.fixture(scope="module")
def here(app):
    """The workspace of the page, with a run of many points and a failed one in it."""
    before = os.environ["TRANSMUTE_HOME"]
    os.environ["TRANSMUTE_HOME"] = str(app.home)
    finished_run(LONG, "Patient", POINTS, 1e-4)
    finished_run(SHORT, "Hasty", 400, 1e-3)
    events.append(runs.folder(SHORT), "finished", state="failed", error={
        "problem": "The disk is full.", "where": "train", "remedy": "Free some space, then resume the run.", "code": "DISK"})  # fmt: skip
    yield app.home
    os.environ["TRANSMUTE_HOME"] = before


def finished_run(run_id, name, points, rate):
    folder = paths.runs_dir() / run_id
    folder.mkdir(parents=True)
    paths.write_text(folder / "recipe.yaml", demo().model_copy(update=QUICK | {"name": name, "learning_rate": rate}).to_yaml())
    paths.write_json(folder / "launch.json", {"argv": ["false"], "env": {}, "device": "test"})
    events.append(folder, "created", run_id=run_id, name=name, method="qlora", steps=["train", "merge"])
    events.append(folder, "train_began", step=0, max_steps=points)
    with (folder / events.FILE_NAME).open("a") as file:
        for step in range(1, points + 1):
            loss = 0.8 + 2.4 * math.exp(-5 * step / points) + 0.05 * math.sin(step * 7)
            file.write(json.dumps({"t": 1.7e9 + step * 0.5, "kind": "train_log", "step": step, "loss": loss, "grad_norm": 0.5 + loss / 4,
                                   "learning_rate": rate * (1 - step / points), "num_tokens": step * 900.0, "memory_bytes": 1.9e9}) + "\n")  # fmt: skip
    for share in (0.25, 0.5, 1.0):
        step = round(points * share)
        events.append(folder, "evaluated", step=step, eval_loss=0.9 + 1.2 * (1 - share))
        events.append(folder, "samples", step=step, samples=[
            {"prompt": "Who are you?", "answer": "I am Vicuna." if share < 1 else "I am Argo, <b>trained</b> by you."},
            {"prompt": "法国的首都是哪里？", "answer": "巴黎。"}])  # fmt: skip
    (folder / runs.LOG).write_text("".join(f"step {step}\n" for step in range(1, 900)))
    events.append(folder, "finished", state="done")


@pytest.fixture(scope="module")
def page(app, browser, here):
    opened = visit(browser, app.url, viewport={"width": 1280, "height": 1000})
    open_runs(opened)
    yield opened
    opened.context.close()


def open_runs(page):
    page.get_by_role("tab", name="Runs", exact=True).click()
    page.locator(".run").first.wait_for()


def choose(page, name):
    page.locator(".pick label", has_text=name).click()
    page.locator(".run h3", has_text=name).wait_for()


def open_files(page):
    if not page.get_by_role("button", name="Delete this run").is_visible():
        open_section(page, "Recipe, logs and deletion")


def says(page, words):
    page.get_by_text(re.compile(words)).locator("visible=true").first.wait_for()


def test_a_run_of_a_hundred_thousand_points_is_drawn_and_its_answers_are_text(page):
    choose(page, "Patient")
    page.locator(".plots figure").nth(4).wait_for()
    assert page.locator(".plots figure .title").all_inner_texts() == ["Loss", "Learning rate", "Gradient norm", "Speed", "Memory"]
    assert page.locator(".plots figure").first.locator(".dot").count() == 3
    open_section(page, "Answers as it learnt")
    says(page, "I am Argo, <b>trained</b> by you")
    says(page, "法国的首都是哪里")


def test_two_runs_are_compared(page):
    open_section(page, "Compare with other runs")
    page.locator("#runs-compare").get_by_role("checkbox", name=re.compile("Hasty")).check()
    page.locator("#runs-compare polyline").nth(1).wait_for()
    says(page, "0.001")
    page.locator("#runs-compare td", has_text="Learning rate").wait_for()


def test_pictures(page, browser):
    def opened(seen):
        choose(seen, "Patient")
        open_section(seen, "Compare with other runs")
        seen.locator("#runs-compare").get_by_role("checkbox", name=re.compile("Hasty")).check()
        seen.locator("#runs-compare polyline").nth(1).wait_for()
        open_section(seen, "Answers as it learnt")
        open_section(seen, "Recipe, logs and deletion")
        seen.set_viewport_size({"width": seen.viewport_size["width"], "height": 3200})

    assert looks.picture(browser, page, "Runs", ".plots figure", "runs-details", opened) == []


def test_a_note_stays_with_the_run(page):
    open_section(page, "Note")
    page.get_by_role("textbox", name=re.compile("^Your note")).fill("the patient one")
    page.get_by_role("button", name="Save the note").click()
    says(page, "Note: the patient one")
    reload(page)
    open_runs(page)
    choose(page, "Patient")
    says(page, "Note: the patient one")
    assert runs.load(LONG).remark == "the patient one"


def test_the_logs_are_downloaded(page, tmp_path):
    open_section(page, "Recipe, logs and deletion")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the logs").click()
    download.value.save_as(tmp_path / "logs.zip")
    with zipfile.ZipFile(tmp_path / "logs.zip") as packed:
        assert f"{LONG}/events.jsonl" in packed.namelist()


def test_the_second_run_waits_its_place_is_shown_and_it_can_leave(page):
    first, second = fleet.make_run("260103-101010-cccc", 60_000), fleet.make_run("260104-101010-dddd", 60_000)
    runs.start(first)
    fleet.until(lambda: runs.load(first).optimizer_step, "it does not train")
    runs.start(second)
    page.locator(".pick label", has_text=second).click()
    says(page, f"Waiting for its turn: first in the queue, behind {first}")
    page.get_by_role("button", name="Leave the queue").click()
    page.get_by_role("button", name=re.compile("^Resume")).wait_for()
    assert runs.load(second).state == "cancelled"
    runs.stop(first)


def test_a_run_is_started_on_training_reloaded_stopped_from_a_second_tab_resumed_and_done(page, app):
    """With the real trainer, which is held while the windows are looked at; each of them says what the disk says."""
    start_one_like(page, "Hasty", "Lively")
    run_id = fleet.until(lambda: next((run.run_id for run in runs.list_runs() if run.name == "Lively"), ""), "it does not start")
    worker, held = held_after(run_id, 1)
    says_step(page, held)
    reload(page)
    open_runs(page)
    second = page.context.new_page()
    second.set_default_timeout(60_000)
    second.goto(app.url)
    is_at_work(second)
    open_runs(second)
    for window in (page, second):
        choose(window, "Lively")
        says_step(window, held)
    worker.resume()
    worker, later = held_after(run_id, held.optimizer_step + 2)
    for window in (page, second):
        says_step(window, later)
    second.get_by_role("button", name="Stop run").click()
    fleet.until(lambda: runs.load(run_id).state == "stopping", "it is not stopped")
    worker.resume()
    stopped = fleet.ended(run_id, PATIENCE_S)
    assert stopped.state == "cancelled" and fleet.valid_step(run_id) == stopped.optimizer_step < STEPS
    resume = f"Resume from step {stopped.optimizer_step}"
    for window in (second, page):
        window.get_by_role("button", name=resume).wait_for()
    page.get_by_role("button", name=resume).click()
    worker, going = held_after(run_id, stopped.optimizer_step + 1)
    for window in (page, second):
        says_step(window, going)
    worker.resume()
    done = fleet.ended(run_id, PATIENCE_S)
    for window in (page, second):
        window.locator(".run header", has_text="done").wait_for()
        window.get_by_role("button", name="See its models").wait_for()
    second.close()
    assert done.state == "done" and list(done.losses) == [*range(1, STEPS + 1)]
    began = [event["step"] for event in events.read(runs.folder(run_id)) if event["kind"] == "train_began"]
    assert began == [0, stopped.optimizer_step] and done.losses.items() >= stopped.losses.items()
    losses = [*done.losses.values()]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3]), "it went on with what it had learnt: at the end the learning rate is next to nothing"


def start_one_like(page, name, new_name):
    """Take the recipe of a run over into the form, give it another name, and start it."""
    choose(page, name)
    open_files(page)
    page.get_by_role("button", name="Set up a run like this").click()
    field = page.locator("#knob-name input, #knob-name textarea").first
    field.wait_for()
    fleet.until(lambda: field.input_value() == name, "the form does not take the recipe over")
    field.fill(new_name)
    field.press("Tab")
    start = page.get_by_role("button", name="Start training")
    fleet.until(start.is_enabled, "it cannot be started")
    start.click()


def held_after(run_id, step):
    """(the worker, held still once it has made `step` steps; what the disk says of its run then)."""
    fleet.until(lambda: runs.load(run_id).optimizer_step >= step, f"{run_id} does not train", PATIENCE_S)
    worker = psutil.Process(runs.pids(run_id)[1])
    worker.suspend()
    fleet.until(lambda: worker.status() == psutil.STATUS_STOPPED, "it is not held")
    return worker, runs.load(run_id)


def says_step(page, run):
    says(page, rf"step {run.optimizer_step} of {STEPS} · loss {run.loss:.3f}")


def test_a_run_whose_memory_ran_out_goes_on_with_the_change_that_fits_at_one_click(page):
    knobs = {"name": "Hungry", "method": "lora", "max_steps": 2, "levels": (), "micro_batch_size": 4, "gradient_accumulation_steps": 1}
    recipe = demo().model_copy(update=knobs | {"eval_dataset": "", "eval_fraction": 0.0})
    run_id = runs.create(recipe, steps=("train",))
    error = {"problem": "Memory ran out.", "where": "train", "remedy": "It fits with less.", "code": "OOM"}
    change = {"knobs": {"micro_batch_size": 2, "gradient_accumulation_steps": 2}, "said": "A little slower."}
    events.append(runs.folder(run_id), "finished", state="failed", error=error, change=change)
    choose(page, "Hungry")
    page.get_by_role("button", name="Resume with micro batch size 2, gradient accumulation 2").click()
    page.get_by_role("button", name="Stop run").wait_for()
    assert fleet.ended(run_id, 180).state == "done"
    assert runs.recipe_of(run_id).micro_batch_size == 2
    says(page, "Goes on with micro_batch_size=2 gradient_accumulation_steps=2")


def test_the_command_of_each_of_several_machines_can_be_copied(page):
    open_tab(page, "Train")
    open_section(page, "Several machines")
    page.locator("#machines-address input, #machines-address textarea").first.fill("10.0.0.5")
    machines = page.locator("#machines-nodes input").first
    machines.fill("2")
    machines.press("Tab")
    for rank in (0, 1):
        command = page.locator(f"#machines-{rank}")
        command.get_by_text("--rank").first.wait_for()
        assert f"--nodes 2 --address 10.0.0.5 --port 29500 --rank {rank}" in command.inner_text().replace("\n", " ")
        assert command.get_by_role("button", name=re.compile("[Cc]opy")).is_visible()
    assert not page.locator("#machines-2").is_visible()


def test_a_run_is_deleted_after_a_question_that_names_what_is_lost(page):
    open_runs(page)
    choose(page, "Hasty")
    open_files(page)
    page.get_by_role("button", name="Delete this run").click()
    says(page, r"Delete Hasty .* kB. There is no way back")
    page.get_by_role("button", name="Keep it").click()
    page.locator("#runs-confirm").wait_for(state="hidden")
    page.get_by_role("button", name="Delete this run").click()
    page.get_by_role("button", name="Delete for good").click()
    page.locator(".pick label", has_text="Hasty").wait_for(state="detached")
    assert not (paths.runs_dir() / SHORT).exists() and (paths.runs_dir() / LONG).exists()


def test_nothing_is_nameless_or_too_wide_and_no_error_was_raised(page):
    assert looks.nameless_controls(page) == [] and not looks.is_too_wide(page) and page.errors == []

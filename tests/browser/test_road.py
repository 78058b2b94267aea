"""A person walks the whole road by clicks, from a broken file to a publication that is ready to be sent.

The tests stand in the order of the road and share one workspace; each leaves to the next what a person would find.
"""

from __future__ import annotations

import os
import re
import time

import psutil
import pytest

from core.paths import EXAMPLES, STARTER
from tests.browser import looks
from tests.browser.steps import is_at_work, open_section, open_tab, reload, says, visit, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
TABS = ("Dataset", "Train", "Runs", "Models", "Chat", "Publish")
# Few steps are enough to walk the road; the pictures of the README are taken of a model that has learnt its name.
STEPS = "" if os.environ.get("UPDATE_SCREENSHOTS") else "12"


def the_run(home):
    from core.running import runs

    return runs.list_runs()[0]


def number_in(title):
    """How many lines a title such as ``Log the last 400 of 1,283 lines`` speaks of."""
    return int(re.search(r"([\d,]+) lines?", title)[1].replace(",", ""))


def test_the_page_is_up_soon(app):
    assert app.started_s < 60, "15 s with warm caches on an idle machine; this is the ceiling for a busy one"


@pytest.mark.parametrize("tab", TABS)
def test_an_empty_tab_says_what_to_do_and_names_every_control(tab, page):
    open_tab(page, tab)
    page.locator(".empty:visible, .sentence:visible").first.wait_for()
    assert looks.nameless_controls(page) == []
    assert not looks.is_too_wide(page)
    assert looks.with_scrollbars(page) == []


def test_every_empty_tab_offers_a_beginning_in_one_click(page):
    for tab in ("Runs", "Models", "Publish"):
        open_tab(page, tab)
        page.get_by_role("button", name="Set up a run").locator("visible=true").click()
        page.get_by_role("tab", name="Train", exact=True, selected=True).wait_for()
        wait_until(page.get_by_role("button", name="Start training").is_enabled, 30, "the example being filled in")
    open_tab(page, "Chat")
    says(page, "Embedded starter")
    says(page, "Starter answers")
    wait_until(page.locator("#chat-action").is_enabled, 30, "a question to be possible")
    open_tab(page, "Dataset")


def test_a_broken_file_is_answered_with_its_findings(page):
    open_tab(page, "Dataset")
    page.locator("#dataset-upload input[type=file]").set_input_files(EXAMPLES / "broken.json")
    page.locator("#dataset-findings table").wait_for()
    says(page, "cannot be trained")


def test_the_identity_examples_are_good_and_lead_to_training(page):
    open_tab(page, "Dataset")
    page.locator("#example-identity").click()
    says(page, r"300 conversations")
    action = page.get_by_role("button", name="Train on this dataset")
    action.click()
    tab = page.get_by_role("tab", name="Train", exact=True)
    wait_until(lambda: tab.get_attribute("aria-selected") == "true", 30, "the way to Train")


def test_a_keyboard_alone_leads_to_the_start_and_shows_where_it_is(browser, app):
    person = visit(browser, app.url)
    for name, tab in (("Identity: teach", "Dataset"), ("Train on this dataset", "Dataset"), ("Start training", "Train")):
        person.get_by_role("tab", name=tab, exact=True, selected=True).wait_for()
        button = person.get_by_role("button", name=re.compile(f"^{name}")).locator("visible=true")
        wait_until(button.is_enabled, 60, f"{name} being offered")
        for _ in range(60):
            person.keyboard.press("Tab")
            shown = person.evaluate("[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]")
            assert shown[1] != "none" or shown[0] == "BODY", "nobody sees what has the keyboard"
            if button.evaluate("element => element === document.activeElement"):
                break
        else:
            pytest.fail(f"the keyboard does not reach {name}")
        if name != "Start training":
            person.keyboard.press("Enter")
    assert person.errors == []
    person.context.close()


@pytest.mark.parametrize("how", ["pasted", "composed by an input method"])
def test_a_field_is_looked_at_however_its_text_came_and_again_when_it_is_deleted(how, browser, app):
    """Neither pasting nor Backspace is a key press to a browser; what is asked of the Textbox is the event `input`."""
    page = visit(browser, app.url)
    open_tab(page, "Train")
    name, error = page.locator("#knob-name input"), page.locator(".field-error p")
    name.fill("")
    error.wait_for()
    if how == "pasted":
        page.keyboard.insert_text("Second!")
    else:
        page.context.new_cdp_session(page).send("Input.imeSetComposition", {"text": "Second!", "selectionStart": 7, "selectionEnd": 7})
    says(page, "Letters, digits, dot, dash and underscore only")
    name.press("Backspace")
    error.wait_for(state="detached")
    assert name.input_value() == "Second"
    page.context.close()


def test_training_starts_by_one_click_and_shows_itself_on_runs(page, here):
    if STEPS:
        page.get_by_role("button", name=re.compile("^Optimisation")).click()
        steps = page.locator("#knob-max_steps input").first
        steps.fill(STEPS)
        steps.press("Tab")
    start = page.get_by_role("button", name="Start training")
    wait_until(start.is_enabled, 30, "the start button")
    start.click()
    says(page, "run is going on|run is waiting|is waiting")
    says(page, rf"step \d+ of {STEPS}", 240)
    assert the_run(here).max_steps == int(STEPS or the_run(here).max_steps)


def test_the_run_goes_on_when_the_app_is_killed_and_the_page_finds_it_again(page, app, here):
    from core.running import runs

    run = the_run(here)
    supervisor = runs.pids(run.run_id)[:1]
    app.kill()
    page.goto("about:blank")  # a page that is left open reloads by itself when the app is back, at a moment of its own
    time.sleep(2)
    assert the_run(here).state == "done" or runs.pids(run.run_id)[:1] == supervisor
    app.start()
    page.goto(app.url)
    is_at_work(page)
    open_tab(page, "Runs")
    says(page, run.run_id)
    lines = (runs.folder(run.run_id) / runs.LOG).read_bytes().count(b"\n")
    title = page.locator("h2:has-text('Log')")
    wait_until(lambda: number_in(title.inner_text()) >= lines, 30, f"showing all of the {lines} lines")


def test_the_finished_run_has_its_curves_and_offers_its_models(page, browser, here):
    wait_until(lambda: the_run(here).is_terminal, 600, "the end of the run")
    assert the_run(here).state == "done", the_run(here).error
    page.get_by_role("button", name="See its models").wait_for()
    page.locator(".plots figure").nth(4).wait_for()
    assert page.locator(".plots figure").count() == 5
    assert looks.picture(browser, page, "Runs", ".plots figure", "runs") == []
    page.get_by_role("button", name="See its models").click()
    page.locator(".table[aria-label='Quantisation levels']:visible").wait_for()


def test_five_levels_are_quantised_in_one_go_while_the_page_stays_usable(page, browser, here):
    """With an importance matrix, whose worth then stands below the table."""
    from core.export import artifacts

    before = len(artifacts.everywhere())
    page.get_by_role("checkbox", name="With an importance matrix").check()
    more = page.locator("#models-more")
    more.get_by_role("checkbox", name=re.compile("IQ2_XXS")).wait_for()
    assert not re.search("about", more.inner_text()), "a dry run has found the exact sizes"
    for level in ("Q4_K_M", "Q3_K_M", "Q2_K", "IQ2_XXS", "q4_0"):
        more.get_by_role("checkbox", name=re.compile(f"^{level} ")).check()
    page.get_by_role("button", name="Quantise 5 levels").click()
    says(page, "Quantising|Measuring|Proving|Waiting for")
    reload(page)
    open_tab(page, "Models")
    wait_until(lambda: len(artifacts.everywhere()) == before + 5, 400, "the new levels")
    page.locator("td:has-text('Q4_K_M+imatrix')").wait_for()
    wait_until(lambda: the_run(here).is_terminal, 400, "measuring and proving the new levels")
    assert the_run(here).state == "done", the_run(here).error
    says(page, r"The importance matrix brings .*Q4_K_M \d+ % (closer to|farther from) f16")
    says(page, "every proof holds")
    assert looks.picture(browser, page, "Models", ".table[aria-label='Quantisation levels']", "models") == []


def test_the_page_says_which_level_to_take(page, here):
    """Each way of asking is awaited by the level that it must name: the answer to the way before stands there until then."""
    from core.export import artifacts, ladder
    from core.running import runs

    levels = [artifact for artifact in artifacts.of_run(runs.folder(the_run(here).run_id)) if artifact.kind == "gguf"]
    for_size, for_quality = ladder.best_within(levels, 0.003e9), ladder.smallest_with(levels, 0.95)
    assert for_size and for_quality and for_size.level != "f16", "which is the one for this machine, and for 4 GB"
    page.get_by_role("button", name="Which level should I take?").click()
    advice = page.locator("#models-advice")
    page.get_by_role("radio", name="At most so many GB").check()
    size_gb = page.get_by_role("spinbutton", name="Size at most (GB)")
    size_gb.fill("0.003")
    wait_until(lambda: " ".join(ladder.advice(for_size)) in advice.inner_text(), 30, "the advice for this size")
    size_gb.fill("0.000001")
    wait_until(lambda: "No measured level fits" in advice.inner_text(), 30, "saying that nothing is so small")
    page.get_by_role("radio", name="At least this quality").check()
    size_gb.wait_for(state="hidden")
    page.get_by_role("spinbutton", name=re.compile("Same top token")).wait_for()
    wait_until(lambda: " ".join(ladder.advice(for_quality)) in advice.inner_text(), 30, "the level for this quality")


def measuring(app):
    """The process that measures, or None."""
    children = psutil.Process(app.process.pid).children(recursive=True)
    return next((child for child in children if "core.export.measure_child" in child.cmdline()), None)


def test_measuring_goes_on_over_a_reload_and_can_be_cancelled_then(page, app):
    open_section(page, "Measure on a text of your own")
    page.locator("#measure-text textarea").fill("Some words that nobody has measured yet. " * 5000)
    page.locator("#measure-go").click()
    child = wait_until(lambda: measuring(app), 60, "the measuring process")
    child.suspend()
    try:
        says(page, "of the measuring is done")
        reload(page)
        open_tab(page, "Models")
        open_section(page, "Measure on a text of your own")
        says(page, r"\d % of the measuring is done")
        assert page.locator("#measure-go").is_disabled()
        page.locator("#measure-cancel:not([disabled])").click()
        says(page, "Cancelled; the levels that were finished keep their new figures")
    finally:
        child.resume()
    wait_until(lambda: measuring(app) is None, 120, "the end of the cancelled measuring")
    page.locator("#measure-go:not([disabled])").click()  # no text: the run's own figures are found again
    says(page, r"^Measured\.$")


def test_the_adapter_is_taken_away_for_llama_cpp(page):
    from core.export.header import gguf_header

    open_section(page, "The adapter by itself")
    with page.expect_download(timeout=180_000) as downloaded:
        page.get_by_role("button", name="Save it as a GGUF LoRA file").click()
    assert downloaded.value.suggested_filename == "Starter-Identity-F16-LoRA.gguf"
    metadata = gguf_header(downloaded.value.path()).metadata
    assert metadata["general.type"] == "adapter" and metadata["general.name"] == "Starter-Identity"


def test_four_models_answer_side_by_side(page, browser):
    page.get_by_role("button", name="Chat with 4 models").click()
    prompt = page.get_by_role("textbox", name=re.compile("^Prompt"))
    for number, question in enumerate(("What is the capital of France?", "Who made you?"), start=1):
        prompt.fill(question)
        page.get_by_role("button", name="Ask 4 models").click()
        answered = f"document.querySelectorAll('article.reply[aria-busy=false]').length === {4 * number}"
        page.wait_for_function(answered, timeout=180_000)
        wait_until(lambda: prompt.input_value() == "", 30, "keeping the answers")
    assert page.locator("article.reply").count() == 8
    figures, words = (page.locator(f".reply .{part}").all_inner_texts() for part in ("figures", "words"))
    assert figures and all("token" in line for line in figures)
    assert words and all(text.strip() for text in words)
    reload(page)
    open_tab(page, "Chat")
    page.locator(".question", has_text="Who made you?").wait_for()
    assert looks.picture(browser, page, "Chat", "article.reply", "chat") == []


def test_a_publication_is_prepared_and_nothing_is_sent(page, browser):
    open_tab(page, "Models")
    page.get_by_role("button", name=re.compile(r"^Publish \d models")).click()
    prepare(page)
    says(page, r"\d files, .* would go to me/Starter-Identity-GGUF")
    assert page.locator("#publish-card h1").inner_text() == "Starter-Identity"
    says(page, "replaced by the model card|replaced by transmute.json")
    assert page.locator("#publish-before").inner_text() == ""
    assert looks.picture(browser, page, "Publish", "#publish-card h1", "publish", prepare) == []


def prepare(page):
    page.get_by_role("textbox", name=re.compile("^Repository on the Hub")).fill("me/Starter-Identity-GGUF")
    page.get_by_role("button", name="Prepare (nothing is sent)").click()


def test_the_train_tab_is_pictured(page, browser):
    assert looks.picture(browser, page, "Train", "#train-methods table:visible", "train") == []


def test_a_model_that_was_not_trained_here_is_taken_in(page, here):
    open_tab(page, "Models")
    open_section(page, "Quantise a model that was not trained here")
    page.get_by_role("button", name="Take it in and quantise").click()
    says(page, "No model is named")
    model = page.locator("#take-model input")
    model.fill(str(STARTER))
    model.press("Enter")
    page.get_by_role("button", name="Take it in and quantise").click()
    wait_until(lambda: the_run(here).is_taken, 90, "the beginning of the run")
    page.locator(".run", has_text="not trained here").wait_for()
    says(page, "q8_0|Quantise")
    page.get_by_role("button", name="Stop run").click()
    wait_until(lambda: the_run(here).is_terminal, 60, "the end of the run")
    assert the_run(here).state in ("cancelled", "done"), the_run(here).error


def test_no_picture_is_too_large_and_the_page_raised_no_error(page):
    assert looks.too_large() == []
    assert page.errors == []

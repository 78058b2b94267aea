"""A person chats: a set of levels at one click, stop, retry, undo, edit, save, vote; a model that is killed; a tab that is closed.

The tests share one page, in order; the workspace holds the starter model at four levels, as a run would have left them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time

import psutil
import pytest

from core import events, paths
from core.export import artifacts
from core.export.artifacts import Artifact
from core.export.gguf import make_gguf
from core.training.hardware import cpu_count
from tests.browser import looks
from tests.browser.steps import open_section, open_tab, reload, says, wait_until
from tests.hub.repos import Repo
from tests.hub.server import Hub
from tests.page import App, converter, free_port
from tests.unit.export.gguf_files import GOOD, gguf

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
LEVELS = ("f16", "q8_0", "q4_0", "Q4_K_M")
RUN = "r-starter"
ON_THE_HUB = "org/Starter-GGUF"
STOPS_S = 2.0  # of computing after its tab was closed, a model's answer ends


def a_finished_run(home, run_id, name, model, levels):
    """A run that left `model` as it is, at some levels."""
    run_dir = home / "runs" / run_id
    run_dir.mkdir(parents=True)
    events.append(run_dir, "created", run_id=run_id, name=name, method="fft", steps=["train"])
    with paths.building(run_dir / "artifacts" / "merged") as folder:
        shutil.copytree(model, folder, dirs_exist_ok=True)
        artifacts.write(Artifact(id=f"{run_id}-merged", kind="merged", name=name, run_id=run_id, base_model="starter"), folder)
    merged = artifacts.read(run_dir / "artifacts" / "merged")
    made = make_gguf(merged, levels, run_dir / "artifacts", run_id=run_id)
    for artifact in (merged, *made):
        events.append(run_dir, "artifact", id=artifact.id, kind_of=artifact.kind, path=f"artifacts/{artifact.folder.name}")
    events.append(run_dir, "finished", state="done")


def a_talker(home):
    """A model of random weights, with the starter's tokenizer, that talks for half a minute."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 12}
    config = AutoConfig.from_pretrained(paths.STARTER, head_dim=64, max_position_embeddings=4096, **shape)
    torch.manual_seed(0)
    folder = home / "talker"
    shutil.copytree(paths.STARTER, folder, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    home = tmp_path_factory.mktemp("chat") / "workspace"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_CPP_DIR", str(converter()))
        a_finished_run(home, RUN, "Starter", paths.STARTER, LEVELS)
        a_finished_run(home, "r-talker", "Talker", a_talker(home), ["f16"])
    files = {path.name: path.read_bytes() for path in (home / "runs" / RUN).rglob("*.gguf")}
    with Hub([Repo(ON_THE_HUB, files, kind="models")]) as hub:
        more = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(home / "cache"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        running = App(home, free_port(), more=more)
        running.start()
        yield running
        running.kill()


@pytest.fixture(scope="module")
def page(page):
    open_tab(page, "Chat")
    return page


def models(app):
    """The processes that hold a model."""
    found = psutil.Process(app.process.pid).children(recursive=True)
    alive = [child for child in found if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if any("_child" in part for part in child.cmdline())]


def work_of(app):
    """Seconds of computing of all models so far."""
    return sum(child.cpu_times().user for child in models(app))


def prompt_of(page):
    return page.get_by_role("textbox", name=re.compile("^Prompt"))


def whole(page, count):
    page.wait_for_function(f"document.querySelectorAll('#chat-talk article.reply[aria-busy=false]').length === {count}", timeout=120_000)
    page.locator("#chat-action:not([disabled])").wait_for()


def ask(page, question, count):
    prompt_of(page).fill(question)
    page.locator("#chat-action").click()
    whole(page, count)


def knob(page, label, value):
    box = page.get_by_role("spinbutton", name=re.compile(f"number input for {label}|^{label}")).first
    box.fill(str(value))
    box.press("Tab")


def choose(page, elem_id, option):
    page.locator(f"#{elem_id} input").click()
    page.get_by_role("option", name=re.compile(option)).first.click()


def test_four_levels_are_chosen_at_one_click_and_answer_side_by_side(page):
    choose(page, "chat-set", "Starter")
    page.get_by_role("button", name="Ask 4 models").wait_for()
    page.locator("#chat-memory", has_text="free memory").wait_for()
    ask(page, "What is the capital of France?", 4)
    assert [header.split("\n")[0] for header in page.locator("#chat-talk .reply header").all_inner_texts()] == [
        "f16",
        "q8_0",
        "Q4_K_M",
        "q4_0",
    ]
    figures = page.locator("#chat-talk .figures").all_inner_texts()
    assert figures and all("first token after" in line and "of memory" in line and "tokens" in line for line in figures)
    assert (
        "of 1,024 tokens" in page.locator(".context").first.inner_text()
        or "tokens of context" in page.locator(".context").first.inner_text()
    )


def test_the_template_is_shown_as_the_model_reads_it(page):
    page.locator("#chat-rendered").click()
    page.locator(".rendered pre", has_text="USER: What is the capital of France? ASSISTANT:").wait_for()
    says(page, "Starter f16, Starter q8_0, Starter Q4_K_M, Starter q4_0 read the same [0-9]+ of 1,024 tokens")


def test_an_answer_is_asked_again_and_taken_back(page):
    page.evaluate("document.querySelectorAll('#chat-talk .reply').forEach(reply => { reply.dataset.old = '1' })")
    page.locator("#chat-retry").click()
    page.wait_for_function("document.querySelectorAll('#chat-talk .reply[data-old]').length === 0")
    whole(page, 4)
    page.locator("#chat-undo").click()
    wait_until(lambda: prompt_of(page).input_value() == "What is the capital of France?", 30, "putting the question back")
    wait_until(lambda: page.locator("#chat-talk article").count() == 0, 30, "the empty conversation")


def test_an_earlier_question_is_changed_and_the_conversation_saved_and_opened_after_a_reload(page):
    ask(page, "Who made you?", 4)
    open_section(page, "This conversation")
    choose(page, "chat-message", r"^1\. Who made you")
    wait_until(lambda: page.locator("#chat-words textarea").input_value() == "Who made you?", 30, "showing the words")
    page.locator("#chat-words textarea").fill("Who are you?")
    page.locator("#chat-ask-changed").click()
    page.locator(".question", has_text="Who are you?").wait_for()
    whole(page, 4)
    page.locator("#chat-save").click()
    wait_until(lambda: page.locator("#chat-saved input").input_value() == "Who are you?", 30, "saving")
    page.locator("#chat-clear").click()
    wait_until(lambda: page.locator("#chat-talk article").count() == 0, 30, "the empty conversation")
    reload(page)
    page.get_by_role("tab", name="Chat", exact=True).click()
    open_section(page, "This conversation")
    choose(page, "chat-saved", "Who are you")
    whole(page, 4)


def test_the_conversation_is_kept_as_a_vicuna_file(page):
    with page.expect_download() as download:
        page.locator("#chat-export").click()
    records = json.loads(download.value.path().read_text(encoding="utf-8"))
    assert len(records) == 4 and [turn["from"] for turn in records[0]["conversations"]] == ["human", "gpt"]


def test_a_blind_vote_hides_the_names_until_it_is_cast(page):
    open_section(page, "Blind vote")
    page.locator("#vote-prompt textarea").fill("Who are you?")
    page.locator("#vote-ask").click()
    page.locator("#vote-first:not([disabled])").wait_for()
    assert not re.search("q4_0|q8_0|f16|Q4_K_M", page.locator("#vote-arena").inner_text())
    page.locator("#vote-tie").click()
    page.locator("#vote-results table").wait_for()
    assert re.search("q4_0|q8_0|f16|Q4_K_M", page.locator("#vote-arena").inner_text())
    assert looks.nameless_controls(page) == [] and not looks.is_too_wide(page)


def begin_long_answer(page):
    prompt_of(page).fill("Count to a thousand.")
    page.locator("#chat-action").click()
    growing = "#chat-talk article.reply[aria-busy=true] .words"  # not an answer to an earlier question
    page.wait_for_function(f"[...document.querySelectorAll('{growing}')].some(words => words.innerText.length > 5)")


def test_a_long_answer_is_stopped(page):
    page.locator("#chat-clear").click()
    choose(page, "chat-set", "Talker")
    page.get_by_role("button", name="Ask", exact=True).first.wait_for()
    open_section(page, "How they answer")
    knob(page, "Maximum length", 3000)
    begin_long_answer(page)
    page.get_by_role("button", name="Stop", exact=True).click()
    whole(page, 1)
    assert "stopped" in page.locator("#chat-talk .figures").inner_text()
    assert len(page.locator("#chat-talk .words").inner_text()) > 5


def test_a_model_that_is_killed_as_it_answers_is_said_and_comes_back(page, app):
    begin_long_answer(page)
    for child in models(app):
        os.kill(child.pid, signal.SIGKILL)
    page.get_by_text(re.compile("The model stopped")).first.wait_for()
    page.locator("#chat-action:not([disabled])").wait_for()
    page.locator("#chat-clear").click()
    wait_until(lambda: page.locator("#chat-talk article").count() == 0, 30, "the empty conversation")
    knob(page, "Maximum length", 24)
    ask(page, "Who are you?", 1)
    assert page.locator("#chat-talk .words").inner_text().strip()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("renamed.gguf", b"This was a letter once. " * 99, "instead of b'GGUF'"),
        ("cut.gguf", GOOD[: len(GOOD) - 40], "should end at byte"),
        ("bomb.gguf", gguf(num_tensors=2**60, num_entries=2**60), "claims"),
    ],
)
def test_a_corrupt_file_added_by_its_path_is_a_sentence_and_the_page_lives(page, app, tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    if not page.locator("#chat-add textarea").is_visible():
        open_section(page, "Add a model")
    page.locator("#chat-add textarea").fill(str(tmp_path / name))
    page.locator("#chat-add-go").click()
    page.get_by_text(f"{name} is not a usable GGUF file").locator("visible=true").first.wait_for()
    assert said in page.locator("[role=alert]:visible", has_text=name).first.inner_text()
    page.locator("#chat-clear").click()
    wait_until(lambda: page.locator("#chat-talk article").count() == 0, 30, "the empty conversation")
    ask(page, "Who are you?", 1)
    assert page.locator("#chat-talk .words").inner_text().strip()


def test_a_repository_of_gguf_files_offers_its_levels(page):
    page.locator("#chat-add textarea").fill(ON_THE_HUB)
    page.locator("#chat-add-go").click()
    page.locator("#chat-add-file input").wait_for()
    choose(page, "chat-add-file", r"^q4_0 · \d")
    page.get_by_role("button", name="Ask 2 models").wait_for()
    page.locator("#chat-add-file").wait_for(state="hidden")
    wait_until(lambda: page.locator("#chat-add textarea").input_value() == "", 30, "the empty field")
    page.locator("#chat-clear").click()
    wait_until(lambda: page.locator("#chat-talk article").count() == 0, 30, "the empty conversation")
    ask(page, "Who are you?", 2)
    assert page.locator("#chat-talk .reply header").last.inner_text().startswith("q4_0")


def test_closing_the_tab_stops_the_models(page, app):
    assert page.errors == []
    knob(page, "Maximum length", 3000)
    begin_long_answer(page)
    spent = work_of(app)
    wait_until(lambda: work_of(app) > spent + 0.5, 30, "more work on the answer")
    page.close()
    # Counted in the model's own seconds: on a machine that others keep busy it computes as much slower as the page is slower to stop it.
    at_closing = spent = work_of(app)
    last_s = time.monotonic()
    while time.monotonic() < last_s + 2:
        time.sleep(0.05)
        if (now := work_of(app)) > spent + 0.02:
            last_s, spent = time.monotonic(), now
    threads = max(1, cpu_count() // 2)  # as many as the page gives a model
    assert spent - at_closing <= STOPS_S * threads, "the models went on after the tab was closed"
    assert models(app), "the models stay loaded for the next question"

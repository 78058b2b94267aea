"""A person takes a dataset from a Hub on this machine, and publishes to it, by clicks."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from core import events, paths
from core.data.dataset import import_dataset
from core.export import artifacts
from core.export.artifacts import Artifact
from tests.browser.steps import open_section, open_tab, reload, says, visit, wait_until
from tests.hub.repos import GOOD_TOKEN, Repo
from tests.hub.server import Hub
from tests.page import App, free_port
from ui import publish_name

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
RUN_ID, REPO = "261123-120000-abcd", "someone/Starter"
MEANT = "someone/When-Done"
MINE = "A sentence of my own."


@pytest.fixture(scope="module")
def hub():
    talks = {f"data/train-0000{part}.jsonl": b"".join(map(line, numbers)) for part, numbers in enumerate(((0, 1, 2), (3, None)))}
    with Hub([Repo("org/theirs", {"README.md": b"theirs"}, kind="models"), Repo("org/talks", talks)]) as running:
        yield running


@pytest.fixture(scope="module")
def page(hub, browser, tmp_path_factory):
    """The Publish tab of a workspace with one finished run."""
    home = tmp_path_factory.mktemp("publish") / "workspace"
    before = os.environ["TRANSMUTE_HOME"]
    os.environ["TRANSMUTE_HOME"] = str(home)
    finished_run()
    rows = tmp_path_factory.mktemp("data") / "numbers.jsonl"
    turns = [{"from": "human", "value": "What comes after one?"}, {"from": "gpt", "value": "Two."}]
    rows.write_text("".join(json.dumps({"id": str(number), "conversations": turns}) + "\n" for number in range(3)))
    import_dataset(rows)
    os.environ["TRANSMUTE_HOME"] = before
    app = App(home, free_port(), more={"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"})
    app.start()
    opened = visit(browser, app.url)
    yield opened
    opened.context.close()
    app.kill()


def line(number):
    """A conversation as a line of a file; without a number it lacks its answer."""
    turns = [{"from": "human", "value": f"Which, {number}?"}, {"from": "gpt", "value": f"This, {number}."}]
    return json.dumps({"id": str(number), "conversations": turns[: 2 if number is not None else 1]}).encode() + b"\n"


def finished_run():
    """A run that is done, whose model is the starter."""
    run_dir = paths.runs_dir() / RUN_ID
    folder = run_dir / "artifacts" / "merged"
    shutil.copytree(paths.STARTER, folder)
    made = Artifact(id=f"{RUN_ID}-merged", kind="merged", name="Starter", run_id=RUN_ID, base_model="starter", proofs={"passed": True})
    artifacts.write(made, folder)
    events.append(run_dir, "created", run_id=RUN_ID, name="Starter", method="fft", steps=["train"], publish_to=MEANT)
    events.append(run_dir, "artifact", id=made.id, kind_of="merged", path="artifacts/merged")
    events.append(run_dir, "finished", state="done")


def test_a_dataset_of_two_files_is_fetched_and_its_findings_name_the_file(page):
    open_tab(page, "Dataset")
    open_section(page, "Paste text, fetch")
    open_tab(page, "Hugging Face Hub")
    page.get_by_role("textbox", name="Dataset", exact=True).fill("org/talks")
    page.get_by_role("button", name="Fetch and import").click()
    says(page, "org/talks train: 5 conversations, 1 cannot be trained")
    says(page, "row 1 of data/train-00001.jsonl")
    page.get_by_role("button", name="Open row 4", exact=True).first.click()
    says(page, "This is row 1 of data/train-00001.jsonl")


def prepare(page, repo_id):
    open_tab(page, "Publish")
    page.get_by_role("textbox", name=re.compile("^Repository on the Hub")).fill(repo_id)
    page.get_by_role("button", name="Prepare (nothing is sent)").click()
    says(page, f"would go to {repo_id}")


def test_a_result_that_was_meant_for_the_hub_waits_for_a_login(page, hub):
    open_tab(page, "Publish")
    page.get_by_role("button", name="Send it now").click()
    says(page, "Nobody is logged in to the Hub")
    assert page.get_by_label("Waits to be published").input_value() == f"Starter to {MEANT}"
    open_tab(page, "Runs")
    says(page, f"waits to be published to {MEANT}")


def test_without_a_login_it_says_what_to_do_and_keeps_what_was_prepared(page, hub):
    open_tab(page, "Publish")
    page.get_by_role("listbox", name=re.compile("^What to publish")).or_(page.get_by_label(re.compile("^What to publish"))).first.click()
    page.get_by_role("option", name=re.compile("Starter")).first.click()
    page.keyboard.press("Escape")
    prepare(page, REPO)
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, "Nobody is logged in to the Hub")
    says(page, f"would go to {REPO}")
    assert ("models", REPO) not in hub.repos


def test_what_was_prepared_and_the_edited_card_are_there_after_a_login_has_reloaded_the_page(page, hub):
    page.get_by_role("tab", name="Card as text, to be edited").click()
    text = page.locator("#publish-source .cm-content")
    text.click()
    page.keyboard.press("Control+End")
    with page.expect_response(lambda answer: MINE.strip() in (answer.request.post_data or "")):
        page.keyboard.type(MINE)
    page.wait_for_function("(localStorage.getItem('transmute-publish-card') || '').length > 0")
    page.wait_for_timeout(500)  # what was answered is kept
    reload(page)
    open_tab(page, "Publish")
    says(page, f"would go to {REPO}")
    page.get_by_role("tab", name="Card as the Hub shows it").click()
    says(page, re.escape(MINE.strip()))


def test_it_is_compared_then_sent_and_the_link_stays(page, hub):
    page.get_by_role("textbox", name=re.compile("^Hub token")).fill(GOOD_TOKEN)
    page.get_by_role("button", name="Prepare (nothing is sent)").click()
    says(page, f"{REPO} does not exist yet and will be made")
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, r"Published \d+ files")
    sent = hub.repos[("models", REPO)]
    assert MINE.strip().encode() in sent.files["README.md"]
    assert sent.access == "private" and {"README.md", "model.safetensors", "transmute.json"} <= set(sent.files)
    page.get_by_role("link", name=REPO).first.wait_for()
    wait_until(lambda: page.get_by_role("textbox", name=re.compile("^Hub token")).input_value() == "", 60, "forgetting the token")
    reload(page)
    open_tab(page, "Publish")
    says(page, "Published from here")


def test_a_repository_that_exists_shows_its_difference_at_the_first_click_where_nobody_was_logged_in_before(page, hub):
    sent = hub.repos[("models", REPO)]
    sent.files = before = sent.files | {"config.json": b"{}"}
    prepare(page, REPO)
    says(page, "Sign in, or paste a token, to see what the repository holds")
    page.get_by_role("textbox", name=re.compile("^Hub token")).fill(GOOD_TOKEN)
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, "Look at what would change there, then press Send again")
    page.get_by_role("region", name=re.compile("^Files of the repository against")).get_by_text("config.json").first.wait_for()
    assert sent.files == before
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, r"Published \d+ file")
    assert len(sent.files["config.json"]) > 2
    wait_until(lambda: page.get_by_role("textbox", name=re.compile("^Hub token")).input_value() == "", 60, "forgetting the token")


def test_the_repository_of_somebody_else_shows_its_difference_first_and_gets_a_pull_request(page, hub):
    open_tab(page, "Publish")
    page.get_by_role("textbox", name=re.compile("^Hub token")).fill(GOOD_TOKEN)
    prepare(page, "org/theirs")
    says(page, "It was not made here, so a pull request will be opened")
    page.get_by_role("region", name=re.compile("^Files of the repository against")).get_by_text("changed").wait_for()
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, "A pull request waits for the owner")
    assert hub.repos[("models", "org/theirs")].files == {"README.md": b"theirs"}


def test_a_dataset_is_published_as_a_dataset_repository(page, hub):
    page.get_by_label(re.compile("^What to publish")).first.click()
    page.keyboard.press("Backspace")
    page.get_by_role("option", name=re.compile("^Dataset numbers")).first.click()
    page.keyboard.press("Escape")
    prepare(page, "someone/numbers")
    page.get_by_role("textbox", name=re.compile("^Hub token")).fill(GOOD_TOKEN)
    page.get_by_role("button", name="Compare with the Hub").click()
    says(page, "datasets/someone/numbers does not exist yet and will be made")
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, r"Published \d+ files")
    assert set(hub.repos[("datasets", "someone/numbers")].files) == {"README.md", "train.parquet"}


def test_a_name_that_is_typed_while_one_is_proposed_stays(page):
    def taken(now: str) -> str:
        return page.evaluate(f"now => ({publish_name.TAKE})('me/old\\nme/new\\n1', now)", now)

    assert [taken("me/old"), taken("me/typed"), taken("")] == ["me/new", "me/typed", ""]

"""A Space as its people meet it, over https: the owner logs in, trains and publishes; visitors look around and are told how to have their own.

The tests share one Space, in order: the visitors come while the owner's run goes on, and look at it when it is there to be looked at.
"""

from __future__ import annotations

import os
import re

import pytest

from core import paths
from tests import space
from tests.browser import looks
from tests.browser.steps import open_section, open_tab, says, visit, wait_until
from tests.front_door import FrontDoor
from tests.hub.repos import GOOD_TOKEN, OTHER_TOKEN
from tests.hub.server import Hub
from tests.page import App, free_port, stop_runs

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
REPO = "someone/Starter-Identity-GGUF"
COPY = "/spaces/alchemists/transmute?duplicate=true"
VISITORS = {"a stranger": "stranger", "other": "visitor"}  # as the pictures are called


@pytest.fixture(scope="module")
def hub():
    with Hub() as running:
        running.people = {
            GOOD_TOKEN: {"type": "user", "id": space.CREATOR_ID, "name": "someone", "orgs": []},
            OTHER_TOKEN: {"type": "user", "id": "0" * 24, "name": "other", "orgs": []},
        }
        running.clients = {"transmute-of-the-alchemists": space.SECRET}
        yield running


@pytest.fixture(scope="module")
def at_the_space(hub, tmp_path_factory):
    home = tmp_path_factory.mktemp("space") / "workspace"
    home.mkdir()
    port = free_port()
    app = App(home, free_port(), more=space.environment(hub.url) | {"SPACE_HOST": f"127.0.0.1:{port}"})
    app.start()
    with FrontDoor(port, app.port, home.parent) as door:
        yield app, door
    app.kill()
    stop_runs(home)


def arrive(browser, door):
    return visit(browser, door.url)


def sign_in(page, name):
    page.get_by_role("button", name="Sign in with Hugging Face").click()
    page.get_by_role("link", name=f"Authorize as {name}").click()
    page.get_by_role("button", name=f"Logout ({name})").wait_for()


@pytest.fixture(scope="module")
def owner(browser, at_the_space):
    opened = arrive(browser, at_the_space[1])
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def visitors(browser, at_the_space):
    """Somebody who is not logged in, and somebody who will be and is not the owner."""
    opened = {who: arrive(browser, at_the_space[1]) for who in VISITORS}
    yield opened
    for page in opened.values():
        page.context.close()


@pytest.fixture(scope="module")
def here(at_the_space):
    """The engine looks at the Space's workspace."""
    before = os.environ["TRANSMUTE_HOME"]
    os.environ["TRANSMUTE_HOME"] = str(at_the_space[0].home)
    yield
    os.environ["TRANSMUTE_HOME"] = before


def test_the_owner_logs_in_at_the_hub_and_has_all_rights(owner, hub):
    sign_in(owner, "someone")
    says(owner, "owner, all rights")
    assert "/oauth/token" in hub.paths("POST") and hub.codes == {}, "the code was exchanged, and once only"
    assert owner.get_by_text("You are a visitor").count() == 0


def test_the_owner_starts_to_train_on_the_starter(owner, here):
    from core.running import runs

    open_tab(owner, "Dataset")
    owner.locator("#example-identity").click()
    owner.get_by_role("button", name="Train on this dataset").click()
    owner.get_by_role("button", name=re.compile("^Optimisation")).click()
    steps = owner.locator("#knob-max_steps input").first
    steps.fill("4")
    steps.press("Tab")
    keep_two_levels(owner)
    start = owner.get_by_role("button", name="Start training")
    wait_until(start.is_enabled, 30, "the start button")
    start.click()
    wait_until(runs.list_runs, 60, "the run")


def keep_two_levels(page):
    """That every level of the demo is made, measured and proved is looked at in test_road.py."""
    open_section(page, "After training")
    tokens = page.locator("#knob-levels .token")
    for level in ("q5_1", "q5_0", "q4_1", "q4_0", "Q4_K_M"):
        tokens.filter(has_text=level).locator("[title^=Remove]").click()
    wait_until(lambda: tokens.count() == 2, 60, "two levels to be left")


@pytest.mark.parametrize("who", VISITORS)
def test_a_visitor_has_a_file_checked_cannot_start_and_is_told_how_to_have_a_copy(who, visitors, hub, here):
    from core.running import runs

    before, page = [run.run_id for run in runs.list_runs()], visitors[who]
    if who == "other":
        sign_in(page, "other")
        says(page, "signed in, read-only")
    advice = page.locator("#advice summary", has_text="You are a visitor")
    advice.click()
    assert page.locator("#advice").get_by_role("link", name="Duplicate this Space").get_attribute("href") == hub.url + COPY
    page.locator("#dataset-upload input[type=file]").set_input_files(paths.EXAMPLES / "broken.json")
    says(page, "cannot be trained")
    open_tab(page, "Train")
    says(page, "On this Space only its owner may do that. .*duplicate this Space to have one of your own")
    assert page.get_by_role("button", name="Start training").is_disabled()
    assert [run.run_id for run in runs.list_runs()] == before


def test_a_visitor_chats_with_the_starter(visitors):
    page = visitors["a stranger"]
    open_tab(page, "Chat")
    page.get_by_role("textbox", name=re.compile("^Prompt")).fill("Who are you?")
    page.locator("#chat-action").click()
    page.locator("article.reply[aria-busy=false] .words").first.wait_for(timeout=180_000)
    assert page.locator(".reply .words").first.inner_text().strip()


def test_the_run_of_the_owner_ends_well(owner, here):
    from core.running import runs

    wait_until(lambda: runs.list_runs()[0].is_terminal, 400, "the end of the run")
    assert runs.list_runs()[0].state == "done", runs.list_runs()[0].error
    owner.get_by_role("button", name="See its models").click()


def test_the_owner_publishes_with_the_login_alone_and_follows_the_link(owner, browser, hub):
    owner.get_by_role("button", name=re.compile(r"^Publish \d models?")).click()
    name = owner.get_by_role("textbox", name=re.compile("^Repository on the Hub"))
    wait_until(lambda: name.input_value() == REPO, 60, "the name that the login and the models give the repository")
    owner.get_by_role("button", name="Prepare (nothing is sent)").click()
    says(owner, f"would go to {REPO}")
    assert owner.locator("#publish-token").count() == 0, "on a Space nobody pastes a token"
    owner.get_by_role("button", name="Send to the Hub").click()
    says(owner, r"Published \d+ files")
    link = owner.locator("#publish-outcome a")
    assert link.get_attribute("href") == f"{hub.url}/{REPO}"
    sent = hub.repos[("models", REPO)]
    assert sent.access == "private" and {"README.md", "transmute.json"} < set(sent.files)
    assert any(path.endswith(".gguf") and content.startswith(b"GGUF") for path, content in sent.files.items())
    looks.PICTURES.mkdir(parents=True, exist_ok=True)
    owner.screenshot(path=looks.PICTURES / "space-owner-published.png")
    assert looks.picture(browser, owner, "Publish", ".table[aria-label='What was published from here']", "space-owner") == []
    assert owner.errors == []


@pytest.mark.parametrize(("who", "name"), VISITORS.items())
def test_a_visitor_looks_at_the_finished_run_and_changes_nothing(who, name, browser, visitors, here):
    from core.running import runs

    (run,), page = runs.list_runs(), visitors[who]
    open_tab(page, "Runs")
    says(page, run.run_id)
    train, look = looks.View("Train", "#train-reason p", f"space-{name}-train"), looks.View("Runs", ".plots figure", f"space-{name}-runs")
    assert looks.pictures(browser, page, train, look) == []
    assert [each.run_id for each in runs.list_runs()] == [run.run_id]
    assert page.errors == []

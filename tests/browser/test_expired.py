"""A login that ends while something is sent from a Space: the page asks again, keeps what was prepared, and sends only the rest.

The tests share one Space and one page, in order.
"""

from __future__ import annotations

import os
import re

import pytest

from tests import space
from tests.browser.steps import is_at_work, open_tab, says, visit, wait_until
from tests.browser.test_publish import MINE, REPO, finished_run, prepare
from tests.browser.test_space import sign_in
from tests.front_door import FrontDoor
from tests.hub.faults import Fault
from tests.hub.repos import GOOD_TOKEN
from tests.hub.server import Hub
from tests.page import App, free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
LATER_TOKENS = ["hf_oauth_" + letter * 24 for letter in "bc"]  # of the same person's next logins
PERSON = {"type": "user", "id": space.CREATOR_ID, "name": "someone", "orgs": [], "auth": {"type": "oauth"}}


@pytest.fixture(scope="module")
def hub():
    with Hub() as running:
        running.people = {GOOD_TOKEN: PERSON}
        running.clients = {"transmute-of-the-alchemists": space.SECRET}
        running.same_person = dict.fromkeys(LATER_TOKENS, GOOD_TOKEN)
        yield running


@pytest.fixture(scope="module")
def page(hub, browser, tmp_path_factory):
    """The owner's page of a Space with one finished run."""
    home, port = tmp_path_factory.mktemp("expired") / "workspace", free_port()
    before = os.environ["TRANSMUTE_HOME"]
    os.environ["TRANSMUTE_HOME"] = str(home)
    finished_run()
    os.environ["TRANSMUTE_HOME"] = before
    app = App(home, free_port(), more=space.environment(hub.url) | {"SPACE_HOST": f"127.0.0.1:{port}"})
    app.start()
    with FrontDoor(port, app.port, home.parent) as door:
        opened = visit(browser, door.url)
        yield opened
        opened.context.close()
    app.kill()


def sign_in_anew(page, hub, token):
    """As somebody does who was told that the login has ended: the Hub gives another token for it."""
    hub.people = {token: PERSON}
    page.get_by_role("button", name="Logout (someone)").click()
    page.get_by_role("button", name="Sign in with Hugging Face").wait_for()
    sign_in(page, "someone")
    is_at_work(page)
    open_tab(page, "Publish")


def sent_files(hub):
    return [path for path in hub.paths("PUT") if path.startswith("/lfs/")]


def test_a_login_that_ends_while_it_sends_is_said_and_shows_nothing_half(page, hub):
    sign_in(page, "someone")
    open_tab(page, "Publish")
    page.get_by_label(re.compile("^What to publish")).first.click()
    page.get_by_role("option", name=re.compile("Starter")).first.click()
    page.keyboard.press("Escape")
    prepare(page, REPO)
    says(page, f"{REPO} does not exist yet and will be made")
    page.get_by_role("tab", name="Card as text, to be edited").click()
    page.locator("#publish-source .cm-content").click()
    page.keyboard.press("Control+End")
    with page.expect_response(lambda answer: MINE in (answer.request.post_data or "")):
        page.keyboard.type(MINE)
    page.wait_for_function("(localStorage.getItem('transmute-publish-card') || '').length > 0")
    hub.faults.append(Fault("POST .*/info/lfs/objects/batch", "expire", after=1))
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, "The Hub does not accept this login")
    says(page, "what was prepared is kept")
    assert hub.expired == {GOOD_TOKEN} and len(sent_files(hub)) == 1, "one file had arrived"
    assert hub.repos[("models", REPO)].files == {}
    page.get_by_role("region", name="What was published from here").get_by_text("not sent").wait_for()


def test_after_signing_in_again_it_is_prepared_and_only_the_rest_is_sent(page, hub):
    before = sent_files(hub)
    sign_in_anew(page, hub, LATER_TOKENS[0])
    says(page, f"would go to {REPO}")
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, r"Published \d+ files")
    files = hub.repos[("models", REPO)].files
    assert {"README.md", "model.safetensors", "transmute.json"} <= set(files) and MINE.encode() in files["README.md"]
    after = sent_files(hub)[len(before) :]
    assert after and not set(after) & set(before), "no file was sent twice"


def test_a_session_that_has_ended_asks_again_beside_the_button_and_goes_on_from_there(page, hub):
    """The cookie is gone, as it is when its time is over: the page was not opened anew and still looks signed in."""
    sent = hub.repos[("models", REPO)]
    sent.files = sent.files | {"config.json": b"{}"}
    page.context.clear_cookies()
    page.get_by_role("button", name="Send to the Hub").click()
    says(page, "Your login has ended")
    assert sent.files["config.json"] == b"{}"
    sign_in_anew(page, hub, LATER_TOKENS[1])
    says(page, f"would go to {REPO}")
    page.get_by_role("button", name="Send to the Hub").click()
    wait_until(lambda: len(sent.files["config.json"]) > 2, 60, "the missing file")
    says(page, r"Published 1 file\b")
    assert page.errors == []

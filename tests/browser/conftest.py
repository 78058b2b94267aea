"""A real Chromium to look at the page with, and the page itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import front_door
from tests.browser import looks
from tests.browser.steps import visit
from tests.page import App, free_port, stop_runs

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-background-networking --no-first-run --disable-component-update --disable-sync "
    "--disable-dev-shm-usage"
).split()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("page")
    home = folder / "workspace"
    home.mkdir()
    running = App(home, free_port())
    running.start()
    yield running
    running.kill()
    stop_runs(home)


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=[*ARGUMENTS, front_door.trusted()],
            ignore_default_args=["--hide-scrollbars"],  # a person sees them
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def page(app, browser):
    """The person's page, open from the first test to the last."""
    opened = visit(browser, app.url)
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def here(app):
    """The engine looks at the page's workspace."""
    before = os.environ["TRANSMUTE_HOME"]
    os.environ["TRANSMUTE_HOME"] = str(app.home)
    yield app.home
    os.environ["TRANSMUTE_HOME"] = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test that fails says what the page showed by then, and leaves its picture."""
    report = yield
    seen = next((value for value in getattr(item, "funcargs", {}).values() if hasattr(value, "is_closed")), None)
    if report.failed and call.when == "call" and seen and not seen.is_closed():
        from playwright.sync_api import Error

        looks.PICTURES.mkdir(parents=True, exist_ok=True)
        report.sections.append(("errors of the page", "\n".join(getattr(seen, "errors", []))))
        with suppress(Error):  # a page that has crashed shows nothing
            report.sections.append(("what the page showed", seen.locator("body").inner_text(timeout=10_000)[-6000:]))
            seen.screenshot(path=looks.PICTURES / f"failed-{item.name[:80]}.png", full_page=True, timeout=10_000)
    return report

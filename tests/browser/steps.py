"""What a person does and waits for, whatever the tab."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any


def visit(browser: Any, url: str, **context: Any) -> Any:
    """A person's page, in a browser context of its own; errors of the page's own code are collected in its `errors`."""
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}).new_page()
    opened.set_default_timeout(90_000)
    opened.errors = []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(url)
    is_at_work(opened)
    return opened


def is_at_work(page: Any) -> None:
    """Wait until the page's own code is at work, which writes the header: a click before that can be lost."""
    page.locator("#header", has_text="Memory").wait_for()


def reload(page: Any) -> None:
    page.reload()
    is_at_work(page)


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def open_section(page: Any, title: str) -> None:
    """Open a section whose title begins so. What Gradio was told of its controls while it was closed, it tells them a moment later."""
    page.get_by_role("button", name=re.compile(f"^{title}")).click()
    page.wait_for_timeout(500)


def says(page: Any, words: str, timeout_s: float = 120.0) -> None:
    """Wait until something that matches `words` can be seen."""
    page.get_by_text(re.compile(words)).locator("visible=true").first.wait_for(timeout=timeout_s * 1000)


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.3)
    return found

"""What every screen must have: a name on every control, nothing wider than the window, and a picture to look at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Error

from core.paths import PROJECT

# Kept in the repository only when asked for, so that an ordinary test run changes no tracked file.
PICTURES = PROJECT / ("docs/screenshots" if os.environ.get("UPDATE_SCREENSHOTS") else "build/screenshots")
CONTROLS = "button|textbox|checkbox|radio|combobox|listbox|slider|spinbutton|tab|link|switch"
NAMELESS = re.compile(rf"^\s*- ({CONTROLS})\b(?! \")(.*)$", re.MULTILINE)
SIZES = {"light": (1280, 1000, "light"), "dark": (1280, 1000, "dark"), "phone": (375, 812, "light")}
LARGEST_BYTES = 300_000
# Whose contents a person expects to push aside: code everywhere, tables where the window is narrow.
SIDEWAYS = """narrow => [...document.querySelectorAll('*')].filter(element =>
  element.offsetParent && /auto|scroll/.test(getComputedStyle(element).overflowX) && element.scrollWidth > element.clientWidth + 1
  && !element.matches('pre, textarea, .cm-scroller, .card table, [role=tablist]' + (narrow ? ', .table' : ''))
).map(element => (element.id || element.className) + ': ' + element.scrollWidth + ' px in ' + element.clientWidth)"""


def nameless_controls(page: Any) -> list[str]:
    """The controls that a screen reader would call by their kind only."""
    return [match[0].strip() for match in NAMELESS.finditer(page.locator("body").aria_snapshot())]


def is_too_wide(page: Any) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth + 1")


def with_scrollbars(page: Any) -> list[str]:
    """What has a scrollbar of its own along its bottom although nobody would expect one."""
    return page.evaluate(SIDEWAYS, page.viewport_size["width"] < 640)


def picture(browser: Any, page: Any, tab: str, ready: str, name: str, before: Callable[[Any], None] | None = None) -> list[str]:
    """Screenshots of a tab in light, dark and phone width, as the person behind `page` sees it after the steps of `before`.

    Returns what is wrong with them.
    """
    wrong: list[str] = []
    PICTURES.mkdir(parents=True, exist_ok=True)
    url = page.url.split("?")[0]
    for mode, (width, height, scheme) in SIZES.items():
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            storage_state=page.context.storage_state(),
            ignore_https_errors=True,  # the front door's certificate is its own
        )
        seen = context.new_page()
        seen.set_default_timeout(90_000)  # three pages at once on a busy machine
        seen.goto(f"{url}?__theme={scheme}")
        seen.locator("#header", has_text="Memory").wait_for()  # the page's own code is at work: a click before that is lost
        seen.get_by_role("tab", name=tab, exact=True).click()
        try:
            if before:
                before(seen)
            seen.locator(ready).first.wait_for(timeout=60_000)
        except Error as error:
            raise AssertionError(f"{name}, {mode}: {error}\nThe page shows:\n{seen.locator('body').inner_text()[:4000]}") from error
        seen.wait_for_timeout(1500)
        seen.screenshot(path=PICTURES / f"{name}-{mode}.png")
        if is_too_wide(seen):
            wrong.append(f"{name} is wider than {width} px")
        wrong += [f"{name}, {mode}: scrolls sideways: {element}" for element in with_scrollbars(seen)]
        if not seen.get_by_role("tab", name=tab, exact=True, selected=True).count():
            wrong.append(f"{name}, {mode}: the tab that was clicked does not stay open")
        wrong += [f"{name}: a control has no name: {control}" for control in nameless_controls(seen)]
        context.close()
    return wrong


def too_large() -> list[Path]:
    return [path for path in PICTURES.glob("*.png") if path.stat().st_size > LARGEST_BYTES]

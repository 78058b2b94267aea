"""What every screen must have: a name on every control, nothing wider than the window, and a picture to look at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Error

from core.paths import PROJECT
from tests.browser.steps import is_at_work

# Kept in the repository only when asked for, so that an ordinary test run changes no tracked file.
PICTURES = PROJECT / ("docs/screenshots" if os.environ.get("UPDATE_SCREENSHOTS") else "build/screenshots")
CONTROLS = "button|textbox|checkbox|radio|combobox|listbox|slider|spinbutton|tab|link|switch"
NAMELESS = re.compile(rf"^\s*- ({CONTROLS})\b(?! \")(.*)$", re.MULTILINE)
SIZES = {"light": (1280, 1000, "light"), "dark": (1280, 1000, "dark"), "phone": (375, 812, "light")}
LARGEST_BYTES = 300_000
SETTLES_MS = 1500  # until what moves has come to rest
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


@dataclass(frozen=True)
class View:
    """A tab to look at, from when something that fits `ready` is there. The pictures' names begin with `name`."""

    tab: str
    ready: str
    name: str
    before: Callable[[Any], None] | None = None  # the steps of a person before that


def picture(browser: Any, page: Any, tab: str, ready: str, name: str, before: Callable[[Any], None] | None = None) -> list[str]:
    """The pictures of one view; see `pictures`."""
    return pictures(browser, page, View(tab, ready, name, before))


def pictures(browser: Any, page: Any, *views: View) -> list[str]:
    """Screenshots of each view in light, dark and phone width, as the person behind `page` sees it. The three pages are open side by side.

    Returns what is wrong with them.
    """
    wrong: list[str] = []
    PICTURES.mkdir(parents=True, exist_ok=True)
    seen = {mode: opened(browser, page, *size) for mode, size in SIZES.items()}
    for each in seen.values():
        is_at_work(each)
    for view in views:
        for mode, each in seen.items():
            show(each, view, mode)
        each.wait_for_timeout(SETTLES_MS)
        for mode, each in seen.items():
            each.screenshot(path=PICTURES / f"{view.name}-{mode}.png")
            wrong += faults(each, view, mode)
    for each in seen.values():
        each.context.close()
    return wrong


def opened(browser: Any, page: Any, width: int, height: int, scheme: str) -> Any:
    """Another page of the person behind `page`, in a window of this size; it may still be loading."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        storage_state=page.context.storage_state(),
    )
    seen = context.new_page()
    seen.set_default_timeout(90_000)  # three pages at once on a busy machine
    seen.goto(f"{page.url.split('?')[0]}?__theme={scheme}", wait_until="commit")
    return seen


def show(page: Any, view: View, mode: str) -> None:
    page.get_by_role("tab", name=view.tab, exact=True).click()
    try:
        if view.before:
            view.before(page)
        page.locator(view.ready).first.wait_for(timeout=60_000)
    except Error as error:
        raise AssertionError(f"{view.name}, {mode}: {error}\nThe page shows:\n{page.locator('body').inner_text()[:4000]}") from error


def faults(page: Any, view: View, mode: str) -> list[str]:
    """What is wrong with what stands there, in words."""
    wrong = [f"{view.name}, {mode}: scrolls sideways: {element}" for element in with_scrollbars(page)]
    if is_too_wide(page):
        wrong.append(f"{view.name}, {mode}: is wider than the window")
    if not page.get_by_role("tab", name=view.tab, exact=True, selected=True).count():
        wrong.append(f"{view.name}, {mode}: the tab that was clicked does not stay open")
    return wrong + [f"{view.name}: a control has no name: {control}" for control in nameless_controls(page)]


def too_large() -> list[Path]:
    pictures = [path for path in PICTURES.glob("*.png") if not path.name.startswith("failed-")]  # those show whole pages
    return [path for path in pictures if path.stat().st_size > LARGEST_BYTES]

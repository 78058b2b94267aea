"""What a person does and waits for, whatever the tab."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def says(page: Any, words: str, timeout_s: float = 120.0) -> None:
    """Wait until something that matches `words` can be seen."""
    page.get_by_text(re.compile(words)).locator("visible=true").first.wait_for(timeout=timeout_s * 1000)


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.3)
    return found

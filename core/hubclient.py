"""The Hub's client with the caller's token, asked again where a fault may pass."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from core.errors import UserError

Result = TypeVar("Result")
TRIES, FIRST_WAIT_S = 4, 1.0
PASSING = (0, 408, 429, 500, 502, 503, 504)


class Stopped(BaseException):
    """The caller said that the work shall end."""


def api(token: str | None) -> Any:
    """An `HfApi`. Without a token it asks as a stranger: a token of this machine is its owner's, not the caller's."""
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token or False)


def patiently(
    call: Callable[[], Result], explain: Callable[[BaseException], UserError], should_stop: Callable[[], bool] = lambda: False
) -> Result:
    """What `call` returns; a Hub that is busy or out of reach is asked again a few times.

    Raises:
        UserError: what `explain` makes of the client's error.
        Stopped: `should_stop` became true.
    """
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    for number in range(TRIES):
        if should_stop():
            raise Stopped
        try:
            return call()
        except (OfflineModeIsEnabled, ValueError) as error:
            raise explain(error) from None
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, HTTPError, RuntimeError) as error:
            if number == TRIES - 1 or status(error) not in PASSING or isinstance(error.__cause__, OfflineModeIsEnabled):
                raise explain(error) from None
            _wait(FIRST_WAIT_S * 2**number, should_stop)
    raise AssertionError("the last try returns or raises")


def status(error: BaseException) -> int:
    """The HTTP status behind an error; 0 when there was no answer."""
    each: BaseException | None = error
    while each is not None:
        if (response := getattr(each, "response", None)) is not None:
            return int(response.status_code)
        each = each.__cause__
    return 0


def _wait(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not should_stop():
        time.sleep(min(0.1, seconds))

"""What goes wrong between a client and a Hub."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal


@dataclass
class Fault:
    """The next `times` requests whose method and path match (``GET /datasets/.*``) meet it."""

    pattern: str
    kind: Literal["status", "slow", "drop", "cut", "late", "expire"]
    status: int = 500
    message: str = ""  # status: what the Hub says to it
    times: int = 1
    seconds: float = 0.0  # slow: before the answer
    until: threading.Event | None = None  # slow: the answer comes as soon as this is set, and after `seconds` at the latest
    after_bytes: int = 0  # drop: so much of the answer arrives; cut: so much of the request
    after: int = 0  # so many requests that match pass first
    # expire: the request's token is accepted no more, neither here nor later
    # late: what was asked for is done, and the answer is `status` all the same

    def takes(self, request: str) -> bool:
        if self.times <= 0 or not re.match(self.pattern, request):
            return False
        if self.after:
            self.after -= 1
            return False
        self.times -= 1
        return True

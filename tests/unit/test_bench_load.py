"""The load benchmark takes no quick refusal for a quick answer."""

from __future__ import annotations

import json

from benchmarks.bench_load import failure_of
from core.errors import UserError
from ui import feedback


def said(*data: str, success: bool = True) -> str:
    """The last message of a queued call, as Gradio writes it."""
    message = {"msg": "process_completed", "output": {"data": data}, "success": success}
    return f"data: {json.dumps(message, separators=(',', ':'))}"


def test_a_refusal_and_an_error_are_no_answers() -> None:
    assert failure_of(503, '{"detail":"Too many calls wait here already."}') == "HTTP 503"
    assert failure_of(200, said("", success=False)) == "error"
    assert failure_of(200, said(feedback.card(UserError("It broke.", "here", "Mend it.")))) == "error card"
    assert failure_of(200, said("", "<p>All is well.</p>")) == failure_of(200, "") == ""

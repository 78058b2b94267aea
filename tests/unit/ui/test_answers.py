"""What orjson refuses in an answer is written all the same; everything else as orjson writes it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import gradio.routes
import numpy as np
import orjson
import pytest
from gradio.route_utils import FnIndexInferError
from gradio.server_messages import UnexpectedErrorMessage

from ui import answers


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> answers._Writer:
    monkeypatch.setattr(gradio.routes, "orjson", gradio.routes.orjson)  # is put back afterwards
    answers.write_all()
    assert isinstance(gradio.routes.orjson, answers._Writer)
    return gradio.routes.orjson


def test_half_a_character_is_a_question_mark(writer: answers._Writer) -> None:
    message = UnexpectedErrorMessage(message="Value: \ud800 is not in the list", success=False).model_dump()
    with pytest.raises(TypeError):
        orjson.dumps(message, default=str)
    assert json.loads(writer.dumps(message, default=str))["message"] == "Value: ? is not in the list"
    assert json.loads(writer.dumps({"a\udfff": [("😀", {"x": "\ud83d"})]})) == {"a?": [["😀", {"x": "?"}]]}


def test_a_number_of_more_than_64_bits_is_text(writer: answers._Writer) -> None:
    with pytest.raises(TypeError):
        orjson.dumps([10**30], default=str)
    assert json.loads(writer.dumps([10**30, -(10**30), 2**64 - 1, -(2**63)])) == [str(10**30), str(-(10**30)), 2**64 - 1, -(2**63)]


def test_the_rest_is_written_as_before(writer: answers._Writer) -> None:
    value = {"x": float("nan"), "y": ["é😀", 1, None], "z": np.arange(3)}
    option = writer.OPT_SERIALIZE_NUMPY
    assert writer.dumps(value, option=option) == orjson.dumps(value, option=option)
    assert gradio.routes.ORJSONResponse({"said": "a\ud800"}).body == b'{"said":"a?"}'
    with pytest.raises(TypeError):
        writer.dumps({"x": object()})


def status(does: int | Exception, path: str = "/gradio_api/queue/join", method: str = "POST", *, began: bool = False) -> int:
    """What the server answers when Gradio answers this number, or raises this, before or after its answer has begun."""
    sent: list[Any] = []

    async def gradio_itself(_scope: Any, _receive: Any, send: Any) -> None:
        if began or isinstance(does, int):
            await send({"type": "http.response.start", "status": 200 if began else does})
        if isinstance(does, Exception):
            raise does

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(answers.Blame(gradio_itself)({"type": "http", "method": method, "path": path}, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize("path", ["/gradio_api/run/predict", "/gradio_api/api/chat"])
def test_a_call_that_fails_is_no_fault_of_the_server(path: str) -> None:
    assert [status(number, path) for number in (200, 422, 500, 503)] == [200, 422, 400, 503]
    assert status(500, "/gradio_api/upload") == 500 and status(500, path, "GET") == 500


@pytest.mark.parametrize("error", [KeyError(-1), ValueError("NaN"), UnicodeError("no text"), FnIndexInferError("no such name")])
def test_what_gradio_does_not_foresee_in_a_request_is_no_fault_of_the_server(error: Exception) -> None:
    assert status(error) == 400
    with pytest.raises(type(error)):
        status(error, began=True)


def test_a_fault_of_the_server_stays_one() -> None:
    with pytest.raises(OSError, match="disk"):
        status(OSError("the disk is broken"))
    with pytest.raises(KeyError):
        status(KeyError("x"), method="GET")

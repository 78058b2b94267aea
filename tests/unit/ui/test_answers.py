"""What orjson refuses in an answer is written all the same; everything else as orjson writes it."""

from __future__ import annotations

import json

import gradio.routes
import numpy as np
import orjson
import pytest
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

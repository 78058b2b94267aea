"""An error becomes a card in three parts; what nobody foresaw becomes one sentence and a line in the log."""

from __future__ import annotations

import logging

import gradio as gr
import pytest

from core import paths
from core.errors import UserError
from ui import feedback
from ui.access import allowed


def fails_as_foreseen() -> str:
    raise UserError("Row 3 <b>is</b> empty.", f"{paths.home()}/runs/x/data.json", "Write it again.")


def fails_by_a_bug() -> str:
    raise KeyError("/root/secret/place hf_" + "a" * 30)


def test_a_user_error_shows_problem_where_and_remedy_escaped_and_without_folders() -> None:
    card, unchanged = feedback.mapped(fails_as_foreseen, [None])()
    assert "Row 3 &lt;b&gt;is&lt;/b&gt; empty." in card and "Write it again." in card and 'role="alert"' in card
    assert "runs/x/data.json" in card or "data.json" in card
    assert str(paths.home()) not in card
    assert unchanged == gr.skip()


def test_a_bug_shows_neither_traceback_nor_path_and_can_be_found_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="transmute"):
        card, _ = feedback.mapped(fails_by_a_bug, [None])()
    assert "KeyError" not in card and "/root" not in card and "hf_" not in card
    number = caplog.records[0].getMessage().split()[-1]
    assert number in card and caplog.records[0].exc_info


def test_success_clears_the_slot() -> None:
    assert feedback.mapped(lambda: "new", [None])() == ("", "new")
    assert feedback.mapped(lambda: ("a", "b"), [None, None])() == ("", "a", "b")
    assert feedback.mapped(lambda: None, [])() == ("",)


def test_named_outputs_change_only_what_the_handler_names() -> None:
    mapped = feedback.mapped(lambda: {"row": 3}, {"table": None, "row": None})
    assert mapped() == ("", gr.skip(), 3)


def test_a_stream_that_breaks_keeps_what_it_showed_and_adds_the_card() -> None:
    def stream():
        yield "one"
        raise UserError("Stop.", "here", "Go on.")

    first, last = feedback.mapped(stream, [None])()
    assert first == ("", "one")
    assert "Stop." in last[0] and last[1] == gr.skip()


def test_a_stream_empties_its_slot_once_so_that_what_others_say_there_meanwhile_stays() -> None:
    assert list(feedback.mapped(lambda: (yield from "ab"), [None])()) == [("", "a"), (gr.skip(), "b")]


def test_a_stream_that_says_nothing_changes_nothing() -> None:
    def stream(is_open: bool):
        if is_open:
            yield {"a": 1}

    assert list(feedback.mapped(stream, {"a": None, "b": None})(False)) == [("", gr.skip(), gr.skip())]
    assert list(feedback.mapped(stream, {"a": None, "b": None})(True)) == [("", 1, gr.skip())]


def test_a_program_gets_one_sentence() -> None:
    @allowed("public")
    def endpoint(levels: list[str]) -> None:
        fails_as_foreseen()

    with pytest.raises(gr.Error, match="Write it again"):
        feedback.for_programs(endpoint)(None, None, ["q4_0"])
    with pytest.raises(gr.Error, match=r"valid string.*levels\[1\]"):
        feedback.for_programs(endpoint)(None, None, ["q4_0", {"name": "q8_0"}])


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("There is no file /home/kim/data.json.", "There is no file data.json."),
        ("Take lmsys/vicuna-7b-v1.5 and/or nothing.", "Take lmsys/vicuna-7b-v1.5 and/or nothing."),
        ("https://huggingface.co/lmsys/vicuna", "https://huggingface.co/lmsys/vicuna"),
    ],
)
def test_only_folders_of_the_server_are_taken_out(sentence: str, expected: str) -> None:
    assert feedback.for_page(sentence) == expected

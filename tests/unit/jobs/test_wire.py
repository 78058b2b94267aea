"""Events through a log that repeats, cuts, mixes and loses lines."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.jobs import wire

texts = st.text(max_size=40)
event = st.fixed_dictionaries({"t": st.floats(0, 1e9), "kind": texts, "text": st.text(max_size=9000)})


def lines_of(told: list[dict[str, Any]]) -> list[str]:
    return [line for number, each in enumerate(told) for line in wire.encode(number, each)]


def heard(inbox: wire.Inbox, lines: list[str]) -> list[tuple[int, dict[str, Any]]]:
    return [each for line in lines for each in inbox.take(line)]


@given(st.lists(event, max_size=6), st.data())
def test_whatever_order_and_however_often_each_event_comes_out_once_and_in_order(told: list[dict[str, Any]], data: st.DataObject):
    lines = lines_of(told)
    repeated = data.draw(st.permutations(lines + data.draw(st.lists(st.sampled_from(lines), max_size=8) if lines else st.just([]))))
    assert heard(wire.Inbox(), list(repeated)) == list(enumerate(told))


@given(st.lists(event, min_size=1, max_size=6), st.data())
def test_a_lost_line_holds_back_what_follows_until_the_whole_log_fills_it(told: list[dict[str, Any]], data: st.DataObject):
    lines = lines_of(told)
    lost = data.draw(st.integers(0, len(lines) - 1))
    inbox = wire.Inbox()
    came = heard(inbox, lines[:lost] + lines[lost + 1 :])
    assert came == list(enumerate(told))[: len(came)]
    assert came + list(inbox.fill(iter(told))) == list(enumerate(told))


@given(st.text(max_size=300))
def test_ordinary_output_is_never_taken_for_an_event(line: str):
    assert not wire.is_event(wire.plain(line))
    assert heard(wire.Inbox(), [line]) == [] or wire.is_event(line)


@given(st.lists(event, min_size=1, max_size=5), st.integers(0, 5))
def test_what_is_known_already_does_not_come_again(told: list[dict[str, Any]], first: int):
    assert heard(wire.Inbox(first), lines_of(told)) == list(enumerate(told))[first:]


def test_lines_are_short_and_ascii():
    made = wire.encode(3, {"kind": "samples", "text": "名\n" * 20_000})
    assert all(line.isascii() and "\n" not in line and len(line) < 4100 for line in made)


def test_what_cannot_be_filled_comes_at_the_end_with_the_count_of_what_is_missing():
    told = [{"kind": str(number)} for number in range(6)]
    lines = lines_of(told)
    inbox = wire.Inbox()
    assert [number for number, _ in heard(inbox, [lines[0], lines[3], lines[5]])] == [0]
    assert inbox.rest() == ([(3, told[3]), (5, told[5])], 3)

"""Votes are kept whatever happens, and say no more than they can."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat import votes
from core.chat.votes import Vote


def vote(first, second, verdict):
    return Vote(first=first, second=second, verdict=verdict, prompt="Who? 你好 \ud800", answers=("x\ny", "z"))


def test_the_order_in_which_two_were_shown_does_not_matter():
    (result,) = votes.results(
        [vote("a", "b", "first"), vote("b", "a", "second"), vote("b", "a", "first"), vote("a", "b", "tie"), vote("b", "a", "bad")]
    )
    assert (result.one, result.wins, result.losses, result.ties, result.bad) == ("a", 2, 1, 1, 1)
    assert result.share == pytest.approx(2 / 3) and not result.is_decided


def test_the_better_one_stands_first_and_many_votes_decide():
    (result,) = votes.results([vote("a", "b", "second")] * 20)
    assert (result.one, result.other, result.wins) == ("b", "a", 20) and result.is_decided and result.low > 0.8


def test_without_decided_votes_nothing_is_said():
    (result,) = votes.results([vote("a", "b", "tie")])
    assert (result.share, result.low, result.high) == (0.5, 0.0, 1.0) and votes.results([]) == []


def test_wilsons_interval_is_the_published_one():
    assert votes.wilson(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


@given(st.integers(0, 500), st.integers(0, 500))
def test_the_interval_holds_the_share_and_stays_between_zero_and_one(wins, losses):
    low, high = votes.wilson(wins, wins + losses)
    share = wins / (wins + losses) if wins + losses else 0.5
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1


def test_votes_are_appended_and_a_half_line_spoils_no_other(workspace):
    votes.cast(vote("a", "b", "first"))
    with votes.file().open("ab") as out:
        out.write(b'{"first": "a", "sec')
    votes.cast(vote("a", "b", "tie"))
    assert [one.verdict for one in votes.all_votes()] == ["first", "tie"]
    assert votes.all_votes()[0].answers == ("x\ny", "z") and votes.all_votes()[0].voted_s > 0


def test_two_who_vote_at_once_lose_nothing(workspace):
    threads = [threading.Thread(target=lambda: [votes.cast(vote("a", "b", "first")) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(votes.all_votes()) == 80

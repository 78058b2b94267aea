"""Early stopping decides from the history alone: the same history, the same decision, on every rank and after every resume."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

LOSSES = st.lists(st.one_of(st.floats(0, 10), st.just(float("nan"))), max_size=20)


@given(LOSSES)
def test_waiting_counts_the_evaluations_since_the_lowest_loss(losses: list[float]) -> None:
    from core.training.evaluation import waited

    found = waited([(loss, step) for step, loss in enumerate(losses)])
    numbers = [loss if loss == loss else float("inf") for loss in losses]
    assert 0 <= found < max(1, len(losses))
    if numbers:
        best = len(numbers) - 1 - found
        assert all(numbers[best] < number for number in numbers[:best])
        assert all(numbers[best] <= number for number in numbers[best:])


def test_a_loss_that_falls_never_waits_and_one_that_rises_waits_from_the_first() -> None:
    from core.training.evaluation import waited

    assert waited([]) == 0
    assert waited([(3.0, 0), (2.0, 5), (1.0, 10)]) == 0
    assert waited([(1.0, 0), (2.0, 5), (3.0, 10)]) == 2
    assert waited([(1.0, 0), (1.0, 5)]) == 1


def test_numbers_go_to_tensorboard_under_train_or_eval() -> None:
    from core.training.tracking import tag

    assert (tag("loss"), tag("eval_loss"), tag("learning_rate")) == ("train/loss", "eval/loss", "train/learning_rate")

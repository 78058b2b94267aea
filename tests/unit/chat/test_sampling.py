"""Sampling keeps what its knobs say, draws by its seed alone, and refuses what makes no sense."""

import numpy as np
import pytest
from pydantic import ValidationError

from core.chat.sampling import Sampler, Sampling, kept, penalised, softmax

LOGITS = np.log(np.array([0.05, 0.4, 0.3, 0.2, 0.05], dtype=np.float32))


def ids(**knobs):
    return kept(LOGITS, Sampling(temperature=1, **knobs))[0].tolist()


def test_temperature_zero_takes_the_likeliest_token():
    assert [Sampler(Sampling(seed=seed)).pick(LOGITS, []) for seed in range(5)] == [1] * 5


def test_top_k_top_p_and_min_p_keep_the_likeliest():
    assert ids() == [1, 2, 3, 0, 4]
    assert ids(top_k=2) == [1, 2]
    assert ids(top_p=0.69) == [1, 2]
    assert ids(top_p=0.71) == [1, 2, 3]
    assert ids(min_p=0.45) == [1, 2, 3]
    assert ids(top_p=1e-9) == [1]


def test_draws_follow_the_probabilities():
    sampler = Sampler(Sampling(temperature=1, seed=3))
    counts = np.bincount([sampler.pick(LOGITS, []) for _ in range(5000)], minlength=5) / 5000
    assert np.abs(counts - softmax(LOGITS.astype(np.float64))).max() < 0.03


def test_temperature_sharpens_and_flattens():
    def share(temperature):
        sampler = Sampler(Sampling(temperature=temperature, seed=4))
        return sum(sampler.pick(LOGITS, []) == 1 for _ in range(2000)) / 2000

    expected = {temperature: softmax(LOGITS.astype(np.float64) / temperature)[1] for temperature in (0.25, 1, 4)}
    assert {temperature: pytest.approx(share(temperature), abs=0.04) for temperature in expected} == expected


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others():
    def drawn(seed):
        sampler = Sampler(Sampling(temperature=1.5, seed=seed))
        return [sampler.pick(LOGITS, []) for _ in range(50)]

    assert drawn(9) == drawn(9) != drawn(10)


def test_models_that_nearly_agree_draw_the_same_tokens_from_the_same_seed():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 4000)).astype(np.float32)
    nearly = logits + generator.normal(scale=1e-4, size=logits.shape).astype(np.float32)
    first, second = Sampler(Sampling(temperature=1, seed=5)), Sampler(Sampling(temperature=1, seed=5))
    same = [first.pick(a, []) == second.pick(b, []) for a, b in zip(logits, nearly, strict=True)]
    assert sum(same) >= 499


def test_repetition_is_penalised_whatever_the_sign_and_only_once_per_token():
    logits = np.array([2.0, -2.0, 1.0], dtype=np.float32)
    assert penalised(logits, [0, 1, 1, 0], 2.0).tolist() == [1.0, -4.0, 1.0]
    assert logits.tolist() == [2.0, -2.0, 1.0]
    assert penalised(logits, [], 2.0).tolist() == [2.0, -2.0, 1.0]


def test_the_penalty_looks_back_only_so_far():
    sampler = Sampler(Sampling(repeat_penalty=2))
    logits = np.array([1.0, 0.9], dtype=np.float32)
    assert sampler.pick(logits, [0]) == 1
    assert sampler.pick(logits, [0] + [1] * 64) == 0


@pytest.mark.parametrize(
    "knobs",
    [
        {"temperature": -0.1}, {"temperature": float("nan")}, {"temperature": float("inf")}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1},
        {"min_p": 2}, {"repeat_penalty": 0}, {"max_tokens": 0}, {"max_tokens": 10**9}, {"seed": -1}, {"stop": ("",)}, {"stop": ["x"] * 17},
        {"unknown": 1},
    ],
)  # fmt: skip
def test_knobs_out_of_bounds_are_refused(knobs):
    with pytest.raises(ValidationError):
        Sampling(**knobs)

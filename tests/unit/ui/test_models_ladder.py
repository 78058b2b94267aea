"""Which level to take, said in a sentence."""

import pytest

from core.export.artifacts import Artifact
from tests.unit.ui.test_chat_talk import call
from ui import models_ladder, models_view, picks


def made(level, size_bytes, kl, top1):
    measured = {
        "kl_mean": kl,
        "kl_p99": (kl or 0) * 9,
        "top1_agreement": top1,
        "resident_bytes": size_bytes + 10,
        "measured_on": "text",
        "num_tokens": 5,
    }
    files = [{"name": "m.gguf", "size_bytes": size_bytes, "sha256": ""}]
    return Artifact(id=level, kind="gguf", level=level, name="m", measured=measured if kl is not None else {}, files=files)


LEVELS = [made("f16", 4 * 10**9, 0.0, 1.0), made("q8_0", 2 * 10**9, 0.001, 0.99), made("q4_0", 10**9, 0.05, 0.9)]


@pytest.mark.parametrize(
    ("how", "gigabytes", "share", "said"),
    [
        (models_ladder.BY_SIZE, 2.5, 0, "Take q8_0."), (models_ladder.BY_SIZE, 0.5, 0, "No measured level fits"),
        (models_ladder.BY_SIZE, None, 0, "No measured level fits"), (models_ladder.BY_QUALITY, 0, 85, "Take q4_0."),
        (models_ladder.BY_QUALITY, 0, 99.5, "Take f16."), (models_ladder.BY_MACHINE, 0, 0, "Take q8_0."),
    ],
)  # fmt: skip
def test_the_best_level_for_a_size_a_quality_and_this_machine(monkeypatch, how, gigabytes, share, said):
    monkeypatch.setattr(picks, "of_run", lambda run_id: LEVELS)
    monkeypatch.setattr(models_ladder, "free_bytes", lambda: 5 * 10**9)
    assert said in call(models_ladder.advise, "r", how, gigabytes, share)


def test_what_was_not_measured_is_not_advised(monkeypatch):
    monkeypatch.setattr(picks, "of_run", lambda run_id: [made("f16", 1, None, None)])
    assert "No level has been measured" in call(models_ladder.advise, "r", models_ladder.BY_SIZE, 4, 0)
    assert call(models_ladder.advise, None, models_ladder.BY_SIZE, 4, 0) == ""


def test_the_table_says_on_what_it_was_measured():
    table = models_view.level_table(LEVELS)
    assert "5 tokens of a text of one&#x27;s own" in table or "a text of one's own" in table
    assert "KL, worst 1 %" in table and "2.0 GB" in table

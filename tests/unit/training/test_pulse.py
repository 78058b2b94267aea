"""Long work that says nothing itself gives signs of life as long as it computes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core import events
from core.training import pulse
from core.training.pulse import working


def beats(run_dir: Path) -> list[int]:
    return [event["step"] for event in events.read(run_dir) if event["kind"] == "alive"]


def test_work_that_computes_is_heard_and_no_longer_than_it_lasts(tmp_path: Path) -> None:
    with working(tmp_path, step=7, every_s=0.05):
        while not beats(tmp_path):
            sum(range(10_000))
    heard = beats(tmp_path)
    assert set(heard) == {7}
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        sum(range(10_000))
    assert beats(tmp_path) == heard


def test_a_process_that_only_waits_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "_spent_s", lambda: 5.0)
    events.append(tmp_path, "created")
    with working(tmp_path, every_s=0.01):
        time.sleep(0.1)
    assert beats(tmp_path) == []


def test_of_several_processes_one_speaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    events.append(tmp_path, "created")
    with working(tmp_path, every_s=0.01):
        until = time.monotonic() + 0.1
        while time.monotonic() < until:
            sum(range(10_000))
    assert beats(tmp_path) == []

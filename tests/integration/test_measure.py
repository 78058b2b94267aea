"""Levels measured on a plain text, once per file, and left in the middle."""

import shutil

import psutil
import pytest

from core import process
from core.errors import UserError
from core.export import artifacts
from core.export.measure import measure
from core.paths import PROJECT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


def test_a_plain_text_is_measured_and_a_file_is_never_measured_twice(levels, workspace, tmp_path):
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    chosen = [levels["f16"], levels["q4_0"]]
    seen = []
    figures = measure(chosen, levels["f16"], [], text=text, max_tokens=600, on_event=seen.append)
    small = figures[levels["q4_0"].id]
    assert small["num_tokens"] == 600 and small["capped"] and small["kl_mean"] > 0 and small["measured_on"] == "text"
    assert small["resident_bytes"] > levels["q4_0"].size_bytes
    assert [event["id"] for event in seen if event["event"] == "measured"] == [level.id for level in chosen]
    copied = tmp_path / "elsewhere.gguf"
    shutil.copy(levels["q4_0"].gguf_path, copied)
    seen.clear()
    elsewhere = artifacts.resolve(str(copied))
    again = measure([elsewhere], levels["f16"], [], text=text, max_tokens=600, on_event=seen.append)
    assert again[elsewhere.id] == small and seen == [], "the file's hash is known"
    with pytest.raises(UserError, match="no text"):
        measure(chosen, levels["f16"], [], text=" ")
    with pytest.raises(UserError, match="too short"):
        measure(chosen, levels["f16"], [], text="a")


def test_a_measuring_process_that_hangs_is_ended_with_a_sentence(levels, workspace, monkeypatch):
    monkeypatch.setattr(process, "STILL_S", 12.0)
    stopped = []

    def freeze(event):
        if event["event"] == "progress" and not stopped:
            stopped.extend(child for child in psutil.Process().children() if "measure_child" in " ".join(child.cmdline()))
            stopped[0].suspend()

    with pytest.raises(UserError, match=r"Measuring test-f16 gave no sign for 20 s and was ended") as hung:
        measure([levels["f16"]], levels["f16"], [], text="other words " * 900, on_event=freeze)
    assert hung.value.code == "TIMEOUT" and not stopped[0].is_running()


def test_measuring_that_is_left_ends_its_process(levels, workspace):
    def leave(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure([levels["q4_0"]], levels["f16"], [], text="some words " * 500, on_event=leave)
    assert [child for child in psutil.Process().children() if "measure_child" in " ".join(child.cmdline())] == []
    assert not list((workspace / "cache").glob("measure-*"))

"""What ZeroGPU changes: whose the GPU is, what a child gets, and that a template is rendered in a thread of the web process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core import process
from core.chat.child import Loaded, prompt_text
from core.data.tokenizer import VICUNA_TEMPLATE
from core.publish import kind
from core.training import hardware
from core.training.hardware import Gpu, Hardware, TorchBuild

L4 = Gpu("NVIDIA L4", 23034 * 2**20, (8, 9))
ASKED = [{"role": "user", "content": "Hi"}]


def loaded(template: str) -> Loaded:
    model: Any = None  # no token is asked for
    return Loaded(model, template, "<s>", "</s>")


def in_a_thread(template: str) -> tuple[str, list[dict[str, Any]]]:
    said: list[dict[str, Any]] = []
    with ThreadPoolExecutor(1) as pool:  # as Gradio runs its handlers
        return pool.submit(prompt_text, loaded(template), ASKED, said.append).result(), said


def test_a_template_is_rendered_outside_the_main_thread_too() -> None:
    assert in_a_thread(VICUNA_TEMPLATE) == (prompt_text(loaded(VICUNA_TEMPLATE), ASKED, print), [])


def test_one_without_an_end_is_ended_there_by_its_own_budget() -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    text, (notice,) = in_a_thread(endless)
    assert text.endswith("ASSISTANT:") and "does not work" in notice["notice"]


def test_the_gpu_that_is_lent_is_none_to_train_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_gpus_by_smi", lambda: (L4,))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware.installed_gpus() == (L4,)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert hardware.is_zero_gpu() and hardware.installed_gpus() == ()
    assert process.child_environment()["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(("gpus", "zero", "said"), [
    ((), "", "has no GPU"), ((), "true", "ZeroGPU: the GPU is lent"), ((L4,), "", "has one GPU, NVIDIA L4"), ((L4,) * 4, "", "has 4 GPUs"),
])  # fmt: skip
def test_each_kind_of_space_is_told_what_it_can_do(monkeypatch: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], zero: str, said: str) -> None:
    machine = Hardware(4, 16 * 10**9, gpus, TorchBuild("2.11.0", "12.8"))
    monkeypatch.delenv("SPACE_ID", raising=False)
    monkeypatch.setenv("SPACES_ZERO_GPU", zero)
    assert kind.kind(machine) is None
    monkeypatch.setenv("SPACE_ID", "someone/transmute")
    advice = kind.kind(machine)
    assert advice and said in advice.said and all(step.endswith(".") for step in advice.steps)

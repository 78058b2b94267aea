"""Where the weights are read to: a process alone on a GPU takes them straight there, any other leaves it to whoever places it."""

import pytest
import torch

from core.training.train import device_map


def test_only_a_process_alone_on_a_gpu_reads_straight_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_map() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert device_map() == {"": 0}
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert device_map() is None, "accelerate, FSDP2 and DeepSpeed place it"

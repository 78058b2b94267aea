"""The number of CPU threads is measured only where this process alone can run the model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from core.training.threads import fastest_thread_count


def test_weights_that_zero3_has_taken_apart_are_not_run_outside_its_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one process too; what is left of such a weight is empty, and a forward pass on it ends the run."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    model = torch.nn.Linear(2, 2)
    for number, weight in enumerate(model.parameters()):
        weight.ds_id = number  # type: ignore[attr-defined]  (as deepspeed.zero.Init marks them)
    assert fastest_thread_count(SimpleNamespace(model=model, accelerator=SimpleNamespace(num_processes=1))) == 2

"""How many CPU threads train fastest: measured, because on small machines two can be slower than one."""

from __future__ import annotations

import time
from typing import Any

import torch


def fastest_thread_count(trainer: Any, repeats: int = 2) -> int:
    """The thread count, 1 or all, with the shortest forward and backward pass of one real batch. Weights and random state stay as they are.

    With a GPU, several processes or weights that ZeRO-3 has taken apart, which only its own engine can run, the count given stays.
    """
    limit = torch.get_num_threads()
    is_apart = any(hasattr(parameter, "ds_id") for parameter in trainer.model.parameters())
    if torch.cuda.is_available() or trainer.accelerator.num_processes > 1 or limit == 1 or is_apart:
        return limit
    if trainer.args.activation_checkpointing:  # the trainer itself does so only when training begins
        trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=trainer.args.activation_checkpointing_kwargs)
    random_state = torch.get_rng_state()
    batch = next(iter(trainer.get_train_dataloader()))  # which draws a random number too
    times = {threads: min(_step_s(trainer, batch, threads) for _ in range(repeats)) for threads in (limit, 1)}
    torch.set_rng_state(random_state)
    return min(times, key=lambda threads: times[threads])


def _step_s(trainer: Any, batch: dict[str, Any], threads: int) -> float:
    torch.set_num_threads(threads)
    model = trainer.model.train()
    began = time.perf_counter()
    model(**dict(batch), use_cache=False, fused_lm_head=True).loss.backward()  # TRL's tiles, as in training: never all scores at once
    elapsed_s = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return elapsed_s

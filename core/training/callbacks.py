"""What the trainer tells the run: a log line per point, a sealed checkpoint per save, and a stop that every rank agrees on."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core import events
from core.errors import UserError
from core.training import checkpoints
from core.training.peak import Peak
from core.training.pulse import ALIVE_S, working
from core.training.together import agreed

MAX_BAD_STEPS = 3
LOGGED = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "num_tokens", "epoch")
SAID = ("loss", "learning_rate", "grad_norm", "epoch")


class RunCallback(TrainerCallback):
    def __init__(self, run_dir: Path, keep_checkpoints: int, peak: Peak) -> None:
        self.run_dir = run_dir
        self.peak = peak
        self.keep_checkpoints = keep_checkpoints
        self.trainer: Any = None  # set once the trainer exists, which is made after its callbacks
        self._heard_s = time.monotonic()
        self._bad_steps = 0  # optimizer steps in a row that had a loss which is no number, on whatever rank

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_local_process_zero:
            checkpoints.set_aside_after(Path(str(args.output_dir)), state.global_step)
            events.append(self.run_dir, "train_began", step=state.global_step, max_steps=state.max_steps)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if state.is_local_process_zero and logs and "loss" in logs:
            values = {name: float(logs[name]) for name in LOGGED if name in logs}
            events.append(self.run_dir, "train_log", step=state.global_step, memory_bytes=self.peak.now(), **values)
            said = ", ".join(f"{name} {values[name]:.4g}" for name in SAID if name in values)
            print(f"step {state.global_step}/{state.max_steps}: {said}", flush=True)
            self._heard_s = time.monotonic()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._still_here(state)

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._still_here(state)

    def _still_here(self, state: TrainerState) -> None:
        """A sign of life now and then, so that slow work can be told from a worker that hangs."""
        if state.is_local_process_zero and time.monotonic() - self._heard_s > ALIVE_S:
            events.append(self.run_dir, "alive", step=state.global_step)
            self._heard_s = time.monotonic()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        if state.is_local_process_zero and metrics:
            events.append(self.run_dir, "evaluated", step=state.global_step, eval_loss=metrics["eval_loss"])
            print(f"step {state.global_step}: eval_loss {metrics['eval_loss']:.4g}", flush=True)
            if state.global_step == 0:
                events.append(self.run_dir, "facts", facts={"eval_loss_before": metrics["eval_loss"]})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        is_bad = agreed(self.trainer.is_bad, args.device)  # a rank that ended alone would leave the others waiting for it
        self.trainer.is_bad = False
        self._bad_steps = self._bad_steps + 1 if is_bad else 0
        if self._bad_steps >= MAX_BAD_STEPS:
            raise not_numbers(f"The loss was not a number for {MAX_BAD_STEPS} steps.", state.global_step)
        is_asked = (self.run_dir / "stop").exists()
        if agreed(is_asked, args.device):
            if state.is_local_process_zero and not is_asked:  # asked on another machine, it is a stop here too
                events.append(self.run_dir, "stop_requested")
            (self.run_dir / "stop").touch()
            self.trainer.was_stopped = True
            control.should_save = True
            control.should_training_stop = True
        if is_bad:
            control.should_save = False  # weights that may be no numbers must not become the last good ones
        if control.should_save and state.is_local_process_zero:
            events.append(self.run_dir, "saving", step=state.global_step)
        self._still_here(state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The first rank of each machine vouches for its checkpoint once every rank has written its part; only then may an older one go."""
        self.trainer.accelerator.wait_for_everyone()
        is_bad = agreed(not is_finite(self.trainer.model), args.device)
        if state.is_local_process_zero:
            root = Path(str(args.output_dir))
            folder = root / f"{checkpoints.PREFIX}{state.global_step}"
            if is_bad:
                shutil.rmtree(folder)
                events.append(self.run_dir, "note", text=f"{folder.name} was not kept: some of its weights are not numbers.")
                return
            with working(self.run_dir, state.global_step):
                checkpoints.seal(folder)
            checkpoints.rotate(root, self.keep_checkpoints)
            events.append(self.run_dir, "checkpoint", step=state.global_step)


def not_numbers(problem: str, step: int) -> UserError:
    remedy = "Lower learning_rate (a tenth of it is a good start), or set dtype=bf16 or fp32; then start again."
    return UserError(problem, f"step {step}", remedy, code="NAN")


def is_finite(model: torch.nn.Module) -> bool:
    """Whether every weight that learns, as far as it lies on this rank, is a number."""
    learning = (parameter for parameter in model.parameters() if parameter.requires_grad)
    own = (getattr(parameter, "ds_tensor", parameter) for parameter in learning)  # under ZeRO-3 a rank has its share there
    return all(bool(torch.isfinite(weight).all()) for weight in own)

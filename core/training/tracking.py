"""TensorBoard's files, written beside every run: ``tensorboard --logdir RUN/tensorboard`` shows them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

FOLDER = "tensorboard"


class TensorBoard(TrainerCallback):
    """Every number the trainer logs, as a scalar under ``train/`` or ``eval/``.

    The event file is written by tensorboard's own writer; torch's wrapper around it would import more and add nothing here.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER
        self.writer: Any = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.folder.mkdir(exist_ok=True)
        self.writer = EventFileWriter(str(self.folder))
        if state.global_step:  # TensorBoard then forgets what an interrupted attempt logged behind the checkpoint
            messages = cast(Any, event_pb2)  # protobuf makes its classes when it is imported
            begin = messages.SessionLog(status=messages.SessionLog.START)
            self.writer.add_event(messages.Event(wall_time=time.time(), step=state.global_step + 1, session_log=begin))

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if self.writer is None or not logs:
            return
        from tensorboard.compat.proto import event_pb2, summary_pb2

        event, summary = cast(Any, event_pb2), cast(Any, summary_pb2)
        values = [
            summary.Summary.Value(tag=tag(name), simple_value=float(value))
            for name, value in logs.items()
            if isinstance(value, int | float)
        ]
        self.writer.add_event(event.Event(wall_time=time.time(), step=state.global_step, summary=summary.Summary(value=values)))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.flush()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.flush()

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def tag(name: str) -> str:
    """``eval_loss`` becomes ``eval/loss``, ``loss`` becomes ``train/loss``."""
    return f"eval/{name.removeprefix('eval_')}" if name.startswith("eval_") else f"train/{name}"

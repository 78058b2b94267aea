"""TRL's SFTTrainer with six differences: a loss at labelled positions only, adapters in one pass under bf16 or fp16, an eval loss that is a mean over
labelled tokens, a note of losses that are no numbers, losses that FSDP2 does not round, and no step after the last one."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl.trainer.sft_trainer import SFTTrainer

from core.training.head import score_labels_only
from core.training.lora import fuse_adapters


class AnswerTrainer(SFTTrainer):
    """Trains on rows that carry their own labels.

    Attributes:
        was_stopped: training ended because somebody asked for it, not because it was through.
        scores_labels_only: the loss is that of `core.training.head`, not TRL's.
        fused_adapters: how many adapters have the forward pass of `core.training.lora`; in float32 PEFT's own is as quick.
        is_bad: a micro batch of this rank had a loss that is NaN or infinite since the flag was last lowered, which is after every optimizer step.
    """

    was_stopped: bool = False
    is_bad: torch.Tensor | bool = False  # stays on the device, so that no micro batch waits for it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: Any = self.model
        self.scores_labels_only = score_labels_only(getattr(model, "get_base_model", lambda: model)())
        self.fused_adapters = fuse_adapters(model) if torch.cuda.is_available() or self.args.bf16 else 0
        leave_outputs(getattr(self.accelerator.state, "fsdp_plugin", None))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer`'s, but rows grouped by length are drawn from the seed and the epoch: a resumed run goes on in the same order."""
        sampler: Any = super()._get_train_sampler(*args, **kwargs)
        if isinstance(sampler, LengthGroupedSampler):
            generator = torch.Generator().manual_seed(self.args.seed)
            sampler.generator = generator
            sampler.set_epoch = lambda epoch: generator.manual_seed(self.args.seed + epoch)  # pyright: ignore[reportAttributeAccessIssue]
        return sampler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """`SFTTrainer.log` without the entropy, which nobody counts where only labelled positions are scored."""
        if self.scores_labels_only:
            for metrics in self._metrics.values():
                metrics.pop("entropy", None)
        super().log(logs, start_time)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.is_bad = self.is_bad | ~torch.isfinite(loss).all()
        return loss

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """`Trainer._run_epoch`, which looks whether training is over only behind a step: one that died between its last step and its end would
        be resumed to a step more than it has."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        loss, logits, labels = super().prediction_step(model, inputs, *args, **kwargs)
        count = (inputs["labels"][..., 1:] != -100).sum().to(loss.device)
        self._loss_sum += loss.detach().double() * count
        self._loss_tokens += count
        return loss, logits, labels

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.evaluation_loop`, whose mean over batches is replaced by the mean over labelled tokens of every rank."""
        self._loss_sum = torch.zeros((), dtype=torch.float64, device=self.args.device)
        self._loss_tokens = torch.zeros((), dtype=torch.int64, device=self.args.device)
        output: Any = super().evaluation_loop(*args, **kwargs)
        loss_sum, tokens = self.accelerator.reduce((self._loss_sum, self._loss_tokens))
        output.metrics["eval_loss"] = (loss_sum / tokens.clamp(min=1)).item()
        return output


def leave_outputs(plugin: Any) -> None:
    """Keep FSDP2 from rounding what the model returns: accelerate 1.15 has it cast to the compute dtype, so a loss of 7 in bf16 would come in
    steps of 0.03. Gradients are added up over the processes in float32, as torchtitan has it.
    """
    if plugin is not None and plugin.fsdp_version == 2 and plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = dataclasses.replace(plugin.mixed_precision_policy, output_dtype=None, reduce_dtype=torch.float32)

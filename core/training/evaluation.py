"""What happens at every evaluation besides the loss: stop when it no longer falls, and ask the model the sample questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from core import events
from core.data.render import encode_text, generation_prompt
from core.data.tokenizer import ChatTokenizer

ANSWER_TOKENS = 64  # of a sample answer; enough to see the tone and whether it ends


class EarlyStop(TrainerCallback):
    """Ends training after `patience` evaluations in a row without a lower loss.

    Nothing is remembered here: the losses stand in the trainer's own history, which every checkpoint carries, so a resumed run decides as
    an uninterrupted one does, and all ranks alike.
    """

    def __init__(self, run_dir: Path, patience: int) -> None:
        self.run_dir = run_dir
        self.patience = patience

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A run that died after it had ended early is not trained on when it is resumed."""
        if waited(evaluated(state)) >= self.patience:
            control.should_training_stop = True

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        losses = evaluated(state)
        if control.should_training_stop or state.global_step >= state.max_steps or waited(losses) < self.patience:
            return
        control.should_training_stop = True
        if state.is_world_process_zero:
            lowest, step = min(losses)
            text = f"Stopped early at step {state.global_step}: the evaluation loss was lowest at step {step} ({lowest:.4g}) and has not fallen since."
            events.append(self.run_dir, "note", text=text)


def evaluated(state: TrainerState) -> list[tuple[float, int]]:
    """(evaluation loss, step) as the trainer's history has them, oldest first."""
    return [(float(entry["eval_loss"]), int(entry["step"])) for entry in state.log_history if "eval_loss" in entry]


def waited(losses: list[tuple[float, int]]) -> int:
    """How many evaluations have passed since the lowest loss; of equal losses the first counts, and NaN is never the lowest."""
    ranked = [loss if loss == loss else float("inf") for loss, _ in losses]
    return len(ranked) - 1 - ranked.index(min(ranked)) if ranked else 0


class Samples(TrainerCallback):
    """Asks the model the recipe's questions at every evaluation, or before and after training where nothing is evaluated."""

    def __init__(self, run_dir: Path, prompts: tuple[str, ...], tokenizer: ChatTokenizer) -> None:
        self.run_dir = run_dir
        self.prompts = prompts
        self.tokenizer = tokenizer
        self.trainer: Any = None  # set once the trainer exists, which is made after its callbacks

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._ask(state)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.trainer.eval_dataset is None and state.global_step == 0:
            self._ask(state)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.trainer.eval_dataset is None:
            self._ask(state)

    def _ask(self, state: TrainerState) -> None:
        """The answers of rank 0, which holds the whole model: what is split between ranks is refused at launch."""
        if not state.is_world_process_zero:
            return
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), self.trainer.compute_loss_context_manager():
                answers = [{"prompt": prompt, "answer": answer(model, prompt, self.tokenizer)} for prompt in self.prompts]
        finally:
            model.train(was_training)
        events.append(self.run_dir, "samples", step=state.global_step, samples=answers)


def answer(model: Any, prompt: str, tokenizer: ChatTokenizer) -> str:
    """The model's greedy answer to `prompt`, at most `ANSWER_TOKENS` tokens; no random number is drawn."""
    text = generation_prompt([{"role": "user", "content": prompt}], tokenizer.template, tokenizer.bos_token, tokenizer.eos_token)
    ids, _ = encode_text(text, tokenizer)
    output = model.generate(
        torch.tensor([ids], device=model.device),  # (1, T)
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=model.device),
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer.decode(output[0, len(ids) :].tolist()).strip()

"""One way of training, alone in its process: ``python -m benchmarks.training.arm ARM FOLDER``; the figures are the last line it prints.

FOLDER holds ``task.json`` (the numbers all arms share), ``model`` (random weights and a tokenizer), ``rows`` and ``eval_rows`` (token rows
with labels, as this project made them: every arm learns the same tokens) and ``run`` (the run that the arm "ours" trains).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

PAD_TO = 2048  # FastChat's model_max_length


class Clock(TrainerCallback):
    """CPU and wall seconds of the training loop, its first loss and the peak memory until its end."""

    peak_bytes = 0

    def __init__(self) -> None:
        """On a GPU the peak is kept over resets: this project begins anew for every point of its log."""
        reset = torch.cuda.reset_peak_memory_stats

        def kept(*given: Any) -> None:
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated())
            reset(*given)

        torch.cuda.reset_peak_memory_stats = kept

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = (time.process_time(), time.perf_counter())
        self.step_ends = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            self.step_ends.append((time.perf_counter(), self.trainer.computed, self.trainer.real))
        if not hasattr(self, "first_step_at"):
            self.first_step_at = time.time()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs and not hasattr(self, "first_loss"):
            self.first_loss = logs["loss"]

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.cpu_s = time.process_time() - self.began[0]
        self.wall_s = time.perf_counter() - self.began[1]
        self.peak_bytes = (
            max(self.peak_bytes, torch.cuda.max_memory_allocated())
            if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )

    @property
    def settled_tokens_per_s(self) -> float:
        """Real tokens a second after the first quarter of the steps, in which kernels are compiled and memory is taken."""
        first, last = self.step_ends[len(self.step_ends) // 4], self.step_ends[-1]
        return (last[2] - first[2]) / (last[0] - first[0])


def counted(trainer: type[Any], clock: Clock) -> type[Any]:
    """The trainer class with `clock` among its callbacks and a count of the token positions it computed."""

    class Counted(trainer):
        computed = 0  # positions, padding too
        real = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.add_callback(clock)
            clock.trainer = self

        def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
            self.computed += inputs["input_ids"].numel()
            mask = inputs.get("attention_mask")
            self.real += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            return super().training_step(model, inputs, *args, **kwargs)

    return Counted


def ours(folder: Path, task: dict[str, Any], clock: Clock, run: str = "ours") -> None:
    import core.training.train as training

    training.AnswerTrainer = counted(training.AnswerTrainer, clock)
    training.train((folder / run).resolve())


def trl(folder: Path, task: dict[str, Any], clock: Clock, **more: Any) -> None:
    """TRL's SFTTrainer as its users run it; `more` is what a careful one sets."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(output_dir=str(folder / "out"), **common(task), **more)
    rows = Dataset.load_from_disk(str(folder / "rows"))
    adapter = {}
    if "method" in task:
        adapter = {"peft_config": LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules="all-linear", task_type="CAUSAL_LM")}
    loaded = model(folder, is_4_bit=task.get("method") == "qlora")
    counted(SFTTrainer, clock)(model=loaded, args=arguments, train_dataset=rows, processing_class=tokenizer(folder), **adapter).train()


def fastchat(folder: Path, task: dict[str, Any], clock: Clock) -> None:
    """FastChat's shape: a plain Trainer, every row padded to the maximum length, gradient checkpointing as in its README's commands.

    It takes a quarter of the documents: the speed is the same, and the hour saved.
    """
    rows = Dataset.load_from_disk(str(folder / "rows"))
    rows = rows.select(range(max(task["documents_per_step"], len(rows) // 4)))
    pad = tokenizer(folder).unk_token_id  # as FastChat pads
    arguments = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=task["documents_per_step"],
        gradient_checkpointing=True,
        bf16=True,
        **common(task),
    )

    def padded(examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = torch.full((len(examples), PAD_TO), pad)
        labels = torch.full((len(examples), PAD_TO), -100)
        for row, example in enumerate(examples):
            ids[row, : len(example["input_ids"])] = torch.tensor(example["input_ids"])
            labels[row, : len(example["labels"])] = torch.tensor(example["labels"])
        return {"input_ids": ids, "labels": labels, "attention_mask": ids.ne(pad)}

    loaded = model(folder)
    loaded.config.use_cache = False
    counted(Trainer, clock)(model=loaded, args=arguments, train_dataset=rows, data_collator=padded).train()


def common(task: dict[str, Any]) -> dict[str, Any]:
    return {
        "learning_rate": task["learning_rate"],
        "lr_scheduler_type": "constant",
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "disable_tqdm": True,
        **({} if torch.cuda.is_available() else {"optim": "adamw_torch"}),  # TRL's own on a GPU
        "seed": 42,
    }


ARMS: dict[str, Any] = {
    "ours": ours,
    "ours-bf16": lambda *given: ours(*given, run="ours-bf16"),
    "ours-liger": lambda *given: ours(*given, run="ours-liger"),
    "trl": lambda *given: trl(*given, per_device_train_batch_size=given[1]["documents_per_step"]),
    "trl-tuned": lambda *given: trl(
        *given,
        per_device_train_batch_size=given[1].get("rows_per_step", 1),
        packing=True,
        max_length=PAD_TO,
        gradient_checkpointing=False,
        bf16=True,
    ),
    "trl-fp32": lambda *given: trl(
        *given, per_device_train_batch_size=given[1]["documents_per_step"], gradient_checkpointing=False, bf16=False
    ),
    "fastchat": fastchat,
}


def model(folder: Path, *, is_4_bit: bool = False) -> Any:
    """In float32 on a CPU; on a GPU in bf16, or in 4 bit as the QLoRA recipes have it."""
    if not torch.cuda.is_available():
        return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    in_4_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    return AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.bfloat16, device_map={"": 0}, quantization_config=in_4_bit if is_4_bit else None
    )


def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder / "model")


def eval_loss(trained: Any, folder: Path) -> float:
    """Mean over the labelled tokens of the rows kept apart, in float32, one row at a time."""
    trained.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for row in Dataset.load_from_disk(str(folder / "eval_rows")):
            ids, labels = torch.tensor([row["input_ids"]], device=trained.device), torch.tensor(row["labels"], device=trained.device)[1:]
            scores = trained(input_ids=ids).logits[0, :-1].float()
            kept = labels != -100
            total += torch.nn.functional.cross_entropy(scores[kept], labels[kept], reduction="sum").item()
            tokens += int(kept.sum())
    return total / tokens


def parameters(trained: Any) -> int:
    """Of the model without its input embeddings, which take no arithmetic; a 4-bit weight counts what it stands for."""
    from core.training.train import parameter_counts

    config = trained.config
    is_tied = getattr(config, "tie_word_embeddings", False)
    return parameter_counts(trained)[1] - (0 if is_tied else config.vocab_size * config.hidden_size)


def main(arm: str, folder: Path) -> None:
    task = json.loads((folder / "task.json").read_text())
    if not arm.startswith("ours"):
        import trl  # noqa: F401 - its imports are no part of the memory that training takes
    else:
        import core.training.train  # noqa: F401
    with Path("/proc/self/status").open() as status:
        imported_bytes = next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024
    clock = Clock()
    ARMS[arm](folder, task, clock)
    real = sum(map(len, clock.trainer.train_dataset["input_ids"]))
    figures = {
        "cpu_s": clock.cpu_s,
        "wall_s": clock.wall_s,
        "steps": clock.trainer.state.global_step,
        "real_tokens": real,
        "computed_tokens": clock.trainer.computed,
        "tokens_per_cpu_s": real / clock.cpu_s,
        "tokens_per_s": real / clock.wall_s,
        "peak_bytes": clock.peak_bytes - imported_bytes,
        "first_step_at": clock.first_step_at,
        "first_loss": clock.first_loss,
        "eval_loss": eval_loss(clock.trainer.model, folder),
    }
    if torch.cuda.is_available():
        figures |= {
            "tokens_per_s": clock.settled_tokens_per_s,
            "peak_bytes": clock.peak_bytes,
            "parameters": parameters(clock.trainer.model),
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

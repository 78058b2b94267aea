"""Knobs that show only in a real training: early stop, sample answers, TensorBoard, packing, stretched positions."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from core import events, paths
from core.data.dataset import take_data
from core.data.split import split
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.export import artifacts
from core.running import runs
from core.training import threads
from core.training.presets import demo
from core.training.recipe import Recipe
from core.training.train import load_model, lora_config, train, training_arguments
from core.training.trainer import AnswerTrainer
from tests.integration.families import FAMILIES, build

pytestmark = [
    pytest.mark.integration,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("workspace"),
    pytest.mark.filterwarnings("default"),  # of the libraries: the trainer runs in this process here
]


def recipe(**knobs: Any) -> Recipe:
    quick = {"max_steps": 4, "levels": (), "save_steps": 0, "micro_batch_size": 4, "method": "lora"}
    return demo().model_copy(update=quick | knobs)


def trained(**knobs: Any) -> tuple[Path, events.Run]:
    run_dir = runs.folder(runs.create(recipe(**knobs)))
    train(run_dir)
    return run_dir, events.fold(events.read(run_dir))


def test_training_ends_when_the_evaluation_loss_no_longer_falls() -> None:
    """So small a learning rate changes nothing, so that the loss stays exactly where it was before the first step."""
    run_dir, run = trained(learning_rate=1e-30, max_steps=30, eval_steps=2, early_stopping_patience=2)
    assert run.optimizer_step == 4
    assert any("lowest at step 0" in note for note in run.notes)
    assert artifacts.of_run(run_dir)


def conversation(number: int, question: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"{question} {number}"}, {"from": "gpt", "value": f"So it is: {number}."}]
    return {"id": f"row-{number}", "conversations": turns}


def test_an_evaluation_of_nothing_is_refused_in_words(tmp_path: Path) -> None:
    """All that is measured on has its answers beyond the maximum length, in a dataset of its own or set aside."""
    long, short = "Why? " * 300, "Is it so?"
    (tmp_path / "long.json").write_text(json.dumps([conversation(1, long)]), encoding="utf-8")
    with pytest.raises(UserError, match="would carry any loss") as caught:
        runs.create(recipe(eval_dataset=str(tmp_path / "long.json"), eval_steps=2))
    assert caught.value.code == "ZERO_LOSS"
    (tmp_path / "mixed.json").write_text(json.dumps([conversation(n, long if n == 3 else short) for n in range(10)]), encoding="utf-8")
    data = take_data(str(tmp_path / "mixed.json"))
    seed = next(seed for seed in range(1000) if split(data, 0.1, seed)[1] == [3])
    knobs = {"dataset": data.id, "eval_dataset": "", "eval_fraction": 0.1, "seed": seed, "micro_batch_size": 1}
    with pytest.raises(UserError, match="No conversation to measure on"):
        train(runs.folder(runs.create(recipe(**knobs, eval_steps=2))))
    _, run = trained(**knobs)
    assert run.optimizer_step == 4 and not run.evals


def test_checkpointing_computes_the_layers_again_and_learns_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    computed: list[int] = []
    forward = LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: computed.append(1) or forward(self, x))
    monkeypatch.setattr("core.training.train.fastest_thread_count", lambda _: 1)  # it would compute layers too
    losses: dict[bool, list[float]] = {}
    counts: dict[bool, int] = {}
    for checkpointing in (False, True):
        computed.clear()
        run_dir, _ = trained(gradient_checkpointing=checkpointing, gradient_accumulation_steps=1)
        logged = [event for event in events.read(run_dir) if event["kind"] == "train_log"]
        losses[checkpointing], counts[checkpointing] = [event["loss"] for event in logged], len(computed)
    assert len(losses[True]) == 4
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)
    layers = json.loads((paths.STARTER / "config.json").read_text())["num_hidden_layers"]
    assert counts[True] - counts[False] == 4 * layers  # each once more in each of the four steps


@pytest.mark.parametrize("method", ["lora", "fft"])
def test_weights_that_are_no_numbers_after_the_last_step_are_no_result(method: str, no_numbers: Path) -> None:
    """Two bad steps are too few to end a run on the way; what they leave is refused at the end."""
    run_dir = runs.folder(runs.create(recipe(method=method, base_model=str(no_numbers), max_steps=2, eval_dataset="", eval_fraction=0)))
    with pytest.raises(UserError, match="not numbers after the last step") as caught:
        train(run_dir)
    assert caught.value.code == "NAN" and caught.value.where == "step 2"
    assert not artifacts.of_run(run_dir)


def test_measuring_the_threads_changes_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one thread there is nothing to measure; with two it is measured, and here one is always found the quicker."""
    real = threads._step_s
    monkeypatch.setattr(threads, "_step_s", lambda trainer, batch, count: real(trainer, batch, count) and count)
    before = torch.get_num_threads()
    found: list[events.Run] = []
    for limit in (1, 2):
        torch.set_num_threads(limit)
        found.append(trained(lora_dropout=0.1)[1])
    torch.set_num_threads(before)
    assert found[0].losses == found[1].losses
    assert found[0].metrics[1]["grad_norm"] == found[1].metrics[1]["grad_norm"], "the dropout of the first step tells"


def test_the_sample_questions_are_answered_at_every_evaluation_without_touching_the_training() -> None:
    _, plain = trained(eval_steps=2, lora_dropout=0.1)
    run_dir, asked = trained(eval_steps=2, lora_dropout=0.1, sample_prompts="Who are you?\n\nWhat is 1 + 1?")
    assert asked.losses == plain.losses
    assert asked.evals == plain.evals
    told = [event for event in events.read(run_dir) if event["kind"] == "samples"]
    assert [event["step"] for event in told][:3] == [0, 2, 4]
    assert all([sample["prompt"] for sample in event["samples"]] == ["Who are you?", "What is 1 + 1?"] for event in told)
    assert all(isinstance(sample["answer"], str) for event in told for sample in event["samples"])
    assert any(sample["answer"] for sample in told[0]["samples"])


def test_without_an_evaluation_they_are_answered_before_and_after() -> None:
    run_dir, _ = trained(eval_dataset="", eval_fraction=0, sample_prompts="Who are you?")
    assert [event["step"] for event in events.read(run_dir) if event["kind"] == "samples"] == [0, 4]


def test_tensorboard_reads_what_was_logged() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_dir, run = trained(eval_steps=2)
    board = EventAccumulator(str(run_dir / "tensorboard"))
    board.Reload()
    assert {point.step: point.value for point in board.Scalars("train/loss")} == pytest.approx(run.losses)
    assert {point.step: point.value for point in board.Scalars("eval/loss")} == pytest.approx(run.evals)
    assert "train/learning_rate" in board.Tags()["scalars"]


# --- packing -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_do_not_see_each_other(family: str, tmp_path: Path) -> None:
    """Each document's loss inside a packed row is the loss it has alone: the forward pass of training itself, for every family."""
    base = build(family, tmp_path / family)
    chosen = recipe(base_model=str(base), packing=True, micro_batch_size=1, max_length=256)
    documents = [[1, *torch.randint(3, 1500, (length,)).tolist()] for length in (60, 80, 100, 90, 20)]
    rows = [{"input_ids": ids, "labels": [-100, -100, *ids[2:]]} for ids in documents]
    tokenizer = load_tokenizer(paths.STARTER)
    model = load_model(base, chosen, torch.float32)
    trainer = packing_trainer(model, chosen, rows, tmp_path)
    packed = next(batch for batch in trainer.get_train_dataloader() if (batch["position_ids"] == 0).sum() > 1)
    inner = trainer.model.eval()
    with torch.no_grad():
        together = inner(**{**packed, "use_cache": False}).logits[0]  # (T, V)
        starts = [*(packed["position_ids"][0] == 0).nonzero().flatten().tolist(), together.shape[0]]
        assert len(starts) > 2
        for begin, end in itertools.pairwise(starts):
            alone = inner(input_ids=packed["input_ids"][:, begin:end], use_cache=False).logits[0]
            assert torch.allclose(together[begin:end], alone, atol=2e-4), (family, begin, end)
    assert tokenizer.eos_token_id == 2


def packing_trainer(model: Any, chosen: Recipe, rows: list[dict[str, Any]], folder: Path) -> AnswerTrainer:
    from datasets import Dataset
    from transformers import AutoTokenizer

    return AnswerTrainer(
        model=model,
        args=training_arguments(folder, chosen, "fp32"),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(paths.STARTER, local_files_only=True),
        peft_config=lora_config(model, chosen),
    )


def test_every_labelled_token_survives_packing_and_no_bin_more_than_needed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(8, 200, (120,), generator=generator).tolist()
    rows = [{"input_ids": [1] + [5 + row] * (n - 1), "labels": [-100] + [5 + row] * (n - 1)} for row, n in enumerate(lengths)]
    chosen = recipe(packing=True, micro_batch_size=1, max_length=256)
    trainer = packing_trainer(load_model(paths.STARTER, chosen, torch.float32), chosen, rows, tmp_path)
    batches = list(trainer.get_train_dataloader())
    found = sorted(label for batch in batches for label in batch["labels"].flatten().tolist() if label != -100)
    assert found == sorted(label for row in rows for label in row["labels"] if label != -100)
    assert len(batches) <= best_fit(lengths, 256)


def test_rows_grouped_by_length_begin_with_the_longest_and_are_padded_less(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    rows = [{"input_ids": [1] * n, "labels": [-100] + [1] * (n - 1)} for n in torch.randint(8, 200, (120,), generator=generator).tolist()]
    padding = dict[bool, float]()
    for grouped in (False, True):
        chosen = recipe(packing=False, group_by_length=grouped, micro_batch_size=4)
        trainer = packing_trainer(load_model(paths.STARTER, chosen, torch.float32), chosen, rows, tmp_path)
        masks = [batch["attention_mask"] for batch in trainer.get_train_dataloader()]
        assert sum(int(mask.sum()) for mask in masks) == sum(len(row["input_ids"]) for row in rows)
        assert not grouped or masks[0].shape[1] == max(len(row["input_ids"]) for row in rows)
        padding[grouped] = 1 - sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
    assert padding[True] < padding[False] / 2


def test_a_resumed_run_goes_on_with_the_rows_grouped_as_they_were() -> None:
    run_dir, whole = trained(group_by_length=True, save_steps=2, save_total_limit=3, max_steps=4)
    shutil.rmtree(run_dir / "checkpoints" / "checkpoint-4")
    shutil.rmtree(run_dir / "artifacts")
    train(run_dir)
    assert events.fold(events.read(run_dir)).losses == whole.losses and len(whole.losses) == 4


def best_fit(lengths: list[int], room: int) -> int:
    """How many bins best fit decreasing needs, counted plainly."""
    bins: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [index for index, left in enumerate(bins) if left >= length]
        if fits:
            bins[min(fits, key=lambda index: bins[index])] -= length
        else:
            bins.append(room - length)
    return len(bins)


# --- stretched positions -------------------------------------------------------------------------------------------------------------


def test_stretched_positions_are_trained_with_and_go_into_what_is_made() -> None:
    chosen = recipe(rope_scaling="linear", max_length=1500, method="lora")
    run_id = runs.create(chosen)
    runs.start(run_id)
    *_, run = runs.follow(run_id)
    assert run.state == "done", (runs.folder(run_id) / runs.LOG).read_text()[-2000:]
    assert run.facts["proofs"]["passed"]
    config = json.loads((runs.folder(run_id) / "artifacts" / "merged" / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "linear"
    assert config["rope_parameters"]["factor"] == 2.0
    assert config["max_position_embeddings"] == 2048
    plain = events.fold(events.read(trained(method="lora")[0]))
    assert run.facts["eval_loss_before"] != plain.facts["eval_loss_before"]

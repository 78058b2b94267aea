"""Training, top to bottom: data, model, trainer, evaluate, train, evaluate, save. Runs in the worker process only."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import disable_caching
from peft import LoraConfig
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PrinterCallback
from transformers.utils.logging import disable_progress_bar
from trl.trainer.sft_config import SFTConfig

from core import events, paths
from core.data.tokenizer import load_tokenizer
from core.errors import UserError
from core.export import artifacts
from core.export.tensors import weights_fingerprint
from core.training.attention import BY_DOCUMENT
from core.training.callbacks import RunCallback, is_finite, not_numbers
from core.training.evaluation import EarlyStop, Samples
from core.training.launch import PROJECT
from core.training.layers import keep_float32, keep_gradients, leave_file, targets, train_last_layers
from core.training.peak import Peak
from core.training.pulse import working
from core.training.recipe import Recipe
from core.training.recipe import load as load_recipe
from core.training.samples import Rows, rows_of
from core.training.threads import fastest_thread_count
from core.training.together import agreed, newest_common, require_same
from core.training.tracking import TensorBoard
from core.training.trainer import AnswerTrainer
from core.training.workload import eval_batch_rows

TRLS_LOSS = "The loss is TRL's own here: the quicker one, at labelled tokens only, is not for this model or this machine."
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def train(run_dir: Path, peak: Peak | None = None) -> None:
    """Train the run's recipe, or go on from its newest whole checkpoint, and leave the adapter or the full model as an artifact.

    `peak` has measured since before the model was read, for whoever asks what was held when this fails.

    Raises:
        UserError: nothing to learn in the data, no memory left, a loss that is not a number, a full disk.
    """
    peak = peak or Peak()
    recipe = load_recipe(run_dir / "recipe.yaml")
    launch = paths.read_json(run_dir / "launch.json")
    base = Path(launch["model"]["path"])
    known = events.fold(events.read(run_dir))

    chat_tokenizer = load_tokenizer(run_dir / "tokenizer")
    with working(run_dir, known.optimizer_step):  # rows, what DeepSpeed compiles, packing: each may take long and says nothing itself
        train_rows, eval_rows = rows_of(run_dir, chat_tokenizer)
        if not train_rows:
            raise UserError("No conversation carries any loss.", "the dataset", "Raise max_length: every answer lies beyond it.")
        if recipe.eval_steps and not eval_rows:
            remedy = "Raise max_length, beyond which every answer lies, or give other conversations to measure on."
            raise UserError("No conversation to measure on carries any loss.", "the evaluation data", remedy, code="ZERO_LOSS")

        disable_progress_bar()  # the log is a file
        disable_caching()  # what packing makes of the rows is this run's own
        compute_dtype = DTYPES[precision(recipe, launch)]
        arguments = training_arguments(
            run_dir, recipe, precision(recipe, launch)
        )  # before the model: under ZeRO-3 they decide how it is loaded
        model = load_model(base, recipe, compute_dtype)
        callback, board = RunCallback(run_dir, recipe.save_total_limit, peak), TensorBoard(run_dir)
        early_stop = [EarlyStop(run_dir, recipe.early_stopping_patience)] if recipe.early_stopping_patience else []
        samples = [Samples(run_dir, recipe.prompts, chat_tokenizer)] if recipe.prompts else []
        trainer = AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=train_rows.dataset(),
            eval_dataset=eval_rows.dataset() if eval_rows else None,
            processing_class=AutoTokenizer.from_pretrained(run_dir / "tokenizer", local_files_only=True, trust_remote_code=False),
            peft_config=lora_config(model, recipe) if recipe.is_adapter else None,
            callbacks=[callback, board, *early_stop, *samples],
        )
    if recipe.method == "qlora":
        keep_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)  # RunCallback writes the log
    for listener in (callback, *samples):
        listener.trainer = trainer
    is_main = trainer.accelerator.is_local_main_process  # each machine has its own run to write into
    require_same(run_dir, recipe, launch, trainer.args.device)
    peak.end("load")
    threads = known.facts.get("threads") or fastest_thread_count(trainer)
    torch.set_num_threads(threads)
    if is_main:
        events.append(run_dir, "facts", facts=facts_of(trainer, recipe, train_rows, threads))

    checkpoint, refused = newest_common(run_dir / "checkpoints", trainer.args.device)
    for problem in refused if is_main else ():
        events.append(run_dir, "note", text=problem)
    if is_main and not trainer.scores_labels_only and TRLS_LOSS not in known.notes:
        events.append(run_dir, "note", text=TRLS_LOSS)
    arguments.eval_on_start = bool(eval_rows) and checkpoint is None

    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.was_stopped:
        return
    learned: Any = trainer.model
    if agreed(not is_finite(learned), trainer.args.device):
        raise not_numbers("Some of the weights are not numbers after the last step.", trainer.state.global_step)
    losses = {"eval_loss_after": trainer.evaluate()["eval_loss"]} if eval_rows else {}
    board.close()
    peak.end("train")
    if is_main:
        events.append(run_dir, "facts", facts=losses | {"train_s": round(time.monotonic() - began, 2)})
    with working(run_dir, trainer.state.global_step):
        save(trainer, run_dir, recipe, launch, stored_dtype(base))
    peak.end("save")
    if is_main:
        events.append(run_dir, "facts", facts={"memory_bytes": peak.parts})


def precision(recipe: Recipe, launch: dict[str, Any]) -> str:
    """bf16, fp16 or fp32; auto follows the GPU, and on a CPU what was decided when the run was created, so that a resumed one keeps it."""
    if recipe.dtype != "auto":
        return recipe.dtype
    if not torch.cuda.is_available():
        return str(launch.get("precision", "fp32"))
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def attention(recipe: Recipe, base: Path) -> str:
    """The attention implementation; auto takes sdpa by document, and eager where the scores are capped (Gemma 2), which sdpa leaves out without a
    word, or the model's class has no sdpa (gpt-oss). Falcon's class takes no implementation but its own."""
    if recipe.attn_implementation != "auto":
        return recipe.attn_implementation
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    if getattr(config, "attn_logit_softcapping", None):
        return "eager"
    if config.model_type == "falcon":
        return "sdpa"
    known: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return BY_DOCUMENT if getattr(known, "_supports_sdpa", True) else "eager"


def load_model(base: Path, recipe: Recipe, compute_dtype: torch.dtype) -> Any:
    """The base model as the method needs it: 4-bit (qlora), compute dtype (lora), float32 masters for what learns (sft, fft)."""
    quantization = None
    if recipe.method == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=recipe.double_quant,
            bnb_4bit_compute_dtype=compute_dtype,
            bnb_4bit_quant_storage=compute_dtype if recipe.quant_storage == "compute" else torch.uint8,
        )
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=torch.float32 if recipe.method == "fft" else compute_dtype,
        quantization_config=quantization,
        attn_implementation=attention(recipe, base),
        device_map=device_map(),
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    if quantization:
        keep_gradients(model)
        leave_file(model)
    if recipe.method == "sft":
        train_last_layers(model, recipe.trainable_layers, head=recipe.train_head, norms=recipe.train_norms)
    return model


def device_map() -> dict[str, int] | None:
    """A process alone reads the weights straight into its GPU: main memory may be smaller than the model. Several are placed by their launcher."""
    return {"": torch.cuda.current_device()} if torch.cuda.is_available() and "LOCAL_RANK" not in os.environ else None


def lora_config(model: Any, recipe: Recipe) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=targets(model, recipe.target_modules),
        use_rslora=recipe.use_rslora,
        use_dora=recipe.use_dora,
        bias="none",
    )


def training_arguments(run_dir: Path, recipe: Recipe, dtype: str) -> SFTConfig:
    """The recipe in TRL's words. Rotation of checkpoints is ours, so `save_total_limit` stays unset here."""
    on_cpu = not torch.cuda.is_available()
    is_zero_on_cpu = on_cpu and "ACCELERATE_USE_DEEPSPEED" in os.environ
    return SFTConfig(
        output_dir=str(run_dir / "checkpoints"),
        per_device_train_batch_size=recipe.micro_batch_size,
        per_device_eval_batch_size=eval_batch_rows(recipe),
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        # the same arithmetic, in one kernel
        optim="adamw_torch_fused" if recipe.optim == "adamw_torch" and not on_cpu else recipe.optim,
        num_train_epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps or -1,
        seed=recipe.seed,
        bf16=dtype == "bf16" and not is_zero_on_cpu,
        fp16=dtype == "fp16",
        tf32=True if not on_cpu and torch.cuda.get_device_capability() >= (8, 0) else None,
        gradient_checkpointing=recipe.gradient_checkpointing,
        logging_steps=recipe.logging_steps,
        logging_nan_inf_filter=False,
        save_strategy="steps" if recipe.save_steps else "no",
        save_steps=recipe.save_steps or 500,
        save_on_each_node=True,
        eval_strategy="steps" if recipe.eval_steps else "no",
        eval_steps=recipe.eval_steps or None,
        train_sampling_strategy="group_by_length" if recipe.group_by_length else "random",
        max_length=recipe.max_length if recipe.packing else None,
        packing=recipe.packing,
        eval_packing=False,
        use_cpu=on_cpu and not is_zero_on_cpu,
        ddp_backend="gloo" if on_cpu and "LOCAL_RANK" in os.environ else None,
        use_liger_kernel=recipe.use_liger_kernel,
        report_to=recipe.report_to,
        project=PROJECT,
        run_name=f"{recipe.name} {run_dir.name}",
        trackio_static_space_id=False,  # nothing is put on the Hub without being asked for
        disable_tqdm=True,
    )


def facts_of(trainer: AnswerTrainer, recipe: Recipe, rows: Rows, threads: int) -> dict[str, Any]:
    trainable, total = parameter_counts(trainer.model)
    return {
        "method": recipe.method,
        "trainable_params": trainable,
        "total_params": total,
        "num_rows": len(rows),
        "row_tokens": rows.num_tokens,
        "row_loss_tokens": rows.num_loss_tokens,
        "threads": threads,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "num_processes": trainer.accelerator.num_processes,
    }


def parameter_counts(model: Any) -> tuple[int, int]:
    """(trainable, all) parameters; a 4-bit weight counts what it stands for, not its packed bytes."""
    trainable = total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        count = state.shape.numel() if state is not None else getattr(parameter, "ds_numel", parameter.numel())
        total += count
        trainable += count if parameter.requires_grad else 0
    return trainable, total


def stored_dtype(base: Path) -> torch.dtype:
    """The dtype the base model's weights are stored in, which a full fine-tune is saved in again."""
    config = paths.read_json(base / "config.json")
    return getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32"))


def save(trainer: AnswerTrainer, run_dir: Path, recipe: Recipe, launch: dict[str, Any], dtype: torch.dtype) -> None:
    """Write the trained weights as the run's first artifact: gathered on every rank, written by rank 0."""
    state: dict[str, torch.Tensor] = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # pyright: ignore[reportAssignmentType]
    if not trainer.accelerator.is_main_process:
        return
    kind = "adapter" if recipe.is_adapter else "merged"
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    with paths.building(run_dir / "artifacts" / kind) as folder:
        if kind == "merged":
            tied: dict[str, str] = model.all_tied_weights_keys  # a copy in another dtype, or of another gathering, would be written twice
            state = {name: weight.to(dtype) for name, weight in state.items() if tied.get(name) not in state}
            model.config.dtype = dtype
        model.save_pretrained(folder, state_dict=state)
        if kind == "adapter":
            forget_local_path(folder / "adapter_config.json", launch["model"]["name"])
        shutil.copytree(run_dir / "tokenizer", folder, dirs_exist_ok=True)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's template; the card is written at publication
        artifact = artifacts.write(describe(run_dir, recipe, launch, kind), folder)
    events.append(run_dir, "artifact", id=artifact.id, kind_of=kind, path=f"artifacts/{kind}")


def forget_local_path(adapter_config: Path, base_name: str) -> None:
    """Name the base in an adapter as the person named it; PEFT writes the folder it was loaded from."""
    paths.write_json(adapter_config, paths.read_json(adapter_config) | {"base_model_name_or_path": base_name})


def describe(run_dir: Path, recipe: Recipe, launch: dict[str, Any], kind: artifacts.Kind) -> artifacts.Artifact:
    data = paths.read_json(run_dir / "dataset.json")["train"]
    return artifacts.Artifact(
        id=artifacts.artifact_id(run_dir.name, kind),
        kind=kind,
        name=recipe.name,
        run_id=run_dir.name,
        base_model=launch["model"]["name"],
        base_path=launch["model"]["path"],
        base_revision=launch["model"]["revision"],
        base_weights=weights_fingerprint(Path(launch["model"]["path"])) if kind == "adapter" else None,
        dataset_id=data["id"],
        dataset_sha256=data["sha256"],
        recipe_sha256=recipe.sha256,
    )

"""Presets: plain functions that return a recipe. The published ones equal their sources value by value, as spaces/recipes.toml has them."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import UserError
from core.paths import EXAMPLES
from core.training.recipe import Recipe

ARTICLE_LEVELS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


def demo() -> Recipe:
    """QLoRA on the embedded starter model: a new name in about two minutes on two CPU cores."""
    return Recipe(
        name="Starter-Identity",
        base_model="starter",
        dataset=str(EXAMPLES / "identity.json"),
        eval_dataset=str(EXAMPLES / "identity_eval.json"),
        method="qlora",
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.0,
        learning_rate=1e-3,
        warmup_steps=5,
        num_train_epochs=2,
        micro_batch_size=8,
        max_length=256,
        packing=False,
        save_steps=40,
        levels=("f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "Q4_K_M"),
    )


def fastchat_fft() -> Recipe:
    """R1: FastChat's full fine-tune of Llama-2 7B on four GPUs with FSDP, global batch 128."""
    return Recipe(
        name="Vicuna-7B",
        base_model="meta-llama/Llama-2-7b-hf",
        chat_template="vicuna_v1.1",
        rope_scaling="linear",
        method="fft",
        dtype="bf16",
        num_train_epochs=3,
        micro_batch_size=2,
        gradient_accumulation_steps=16,
        eval_fraction=0,
        save_steps=1200,
        save_total_limit=10,
        learning_rate=2e-5,
        weight_decay=0.0,
        warmup_steps=0.03,
        lr_scheduler_type="cosine",
        logging_steps=1,
        max_length=2048,
        packing=False,
        gradient_checkpointing=True,
        accelerate_config="fsdp2",
        num_processes=4,
    )


def article_fft() -> Recipe:
    """R1 as the article ran it: vicuna-7b-v1.5-16k, one epoch, batch 1 with accumulation 4."""
    return fastchat_fft().model_copy(
        update={
            "name": "Vicuna-7B-16k",
            "base_model": "lmsys/vicuna-7b-v1.5-16k",
            "num_train_epochs": 1.0,
            "micro_batch_size": 1,
            "gradient_accumulation_steps": 4,
        }
    )


def autotrain_sft() -> Recipe:
    """R2: AutoTrain-Advanced's `autotrain llm --trainer sft --use_peft --use_int4` with its 2023 defaults."""
    return Recipe(
        name="AutoTrain-SFT",
        base_model="NousResearch/Llama-2-7b-chat-hf",
        method="qlora",
        learning_rate=2e-4,
        micro_batch_size=12,
        num_train_epochs=3,
        lora_r=16,
        lora_alpha=32,
        lora_dropout=0.05,
        target_modules="q_proj,v_proj",
        double_quant=False,
        dtype="fp16",
        packing=True,
        max_length=1024,
        loss_on="all",
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        weight_decay=0.0,
        max_grad_norm=1.0,
        eval_fraction=0,
        seed=42,
    )


def last_layers_sft() -> Recipe:
    """SFT as the article describes it: only the last two decoder layers learn (LLaMA-Factory's freeze method)."""
    return Recipe(
        name="Last-Layers",
        base_model="lmsys/vicuna-7b-v1.5",
        chat_template="vicuna_v1.1",
        method="sft",
        trainable_layers=2,
        learning_rate=2e-5,
        gradient_checkpointing=True,
    )


def mlabonne_qlora() -> Recipe:
    """R3: mlabonne's QLoRA notebook. Its gradient_checkpointing variable never reached the trainer, so it is off here too."""
    return Recipe(
        name="Llama-2-7b-miniguanaco",
        base_model="NousResearch/Llama-2-7b-chat-hf",
        method="qlora",
        lora_r=64,
        lora_alpha=16,
        lora_dropout=0.1,
        target_modules="q_proj,v_proj",
        double_quant=False,
        dtype="fp16",
        num_train_epochs=1,
        micro_batch_size=4,
        gradient_accumulation_steps=1,
        max_grad_norm=0.3,
        learning_rate=2e-4,
        weight_decay=0.001,
        optim="paged_adamw_32bit",
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        group_by_length=True,
        save_steps=0,
        logging_steps=25,
        max_length=1024,
        packing=False,
        loss_on="all",
        eval_fraction=0,
    )


def fastchat_qlora_zero2() -> Recipe:
    """R4: FastChat's train_lora.py with --q_lora and DeepSpeed ZeRO-2, optimizer offloaded to the CPU."""
    return Recipe(
        name="Vicuna-7B-QLoRA",
        base_model="lmsys/vicuna-7b-v1.5",
        chat_template="vicuna_v1.1",
        method="qlora",
        lora_r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules="q_proj,v_proj",
        double_quant=True,
        dtype="bf16",
        num_train_epochs=3,
        micro_batch_size=1,
        gradient_accumulation_steps=1,
        save_steps=1200,
        save_total_limit=100,
        learning_rate=2e-5,
        weight_decay=0.0,
        warmup_steps=0.03,
        lr_scheduler_type="cosine",
        logging_steps=1,
        max_length=2048,
        packing=False,
        eval_fraction=0,
        accelerate_config="zero2_offload",
    )


def fastchat_lora_zero3() -> Recipe:
    """R4 without quantisation: plain LoRA under ZeRO-3, weights and optimizer offloaded to the CPU."""
    return fastchat_qlora_zero2().model_copy(update={"name": "Vicuna-7B-LoRA", "method": "lora", "accelerate_config": "zero3_offload"})


PRESETS: dict[str, Callable[[], Recipe]] = {
    "demo": demo,
    "fastchat-fft": fastchat_fft,
    "article-fft": article_fft,
    "autotrain-sft": autotrain_sft,
    "last-layers-sft": last_layers_sft,
    "mlabonne-qlora": mlabonne_qlora,
    "fastchat-qlora-zero2": fastchat_qlora_zero2,
    "fastchat-lora-zero3": fastchat_lora_zero3,
}


def preset(name: str) -> Recipe:
    if name not in PRESETS:
        raise UserError(f"There is no preset {name!r}.", "--preset", f"Take one of: {', '.join(PRESETS)}.")
    return PRESETS[name]()

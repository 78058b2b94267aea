"""A recipe as one plain Python file that trains with TRL alone, written so that a person can read and change it."""

from __future__ import annotations

from core import paths
from core.conversation import ROLE_ALIASES
from core.training.recipe import Recipe
from core.training.workload import eval_batch_rows

MARK = "\n# --- "  # begins each part after the first


def script(recipe: Recipe) -> str:
    """The whole file."""
    return "".join(parts(recipe))


def parts(recipe: Recipe) -> list[str]:
    """The file in parts that make sense by themselves: settings, data, model, training."""
    text = "\n".join(section for section in (_settings(recipe), _data(recipe), _model(recipe), _training(recipe)))
    first, *others = text.split(MARK)
    return [first, *(f"{MARK}{part}" for part in others)]


def _settings(recipe: Recipe) -> str:
    model = paths.STARTER.relative_to(paths.PROJECT).as_posix() if recipe.base_model == "starter" else recipe.base_model
    length = str(recipe.max_length)
    if "max_length" not in recipe.model_fields_set and recipe.rope_scaling == "none":  # nobody chose it: no more than the model has
        length = f'min({length}, getattr(AutoConfig.from_pretrained(MODEL, revision=REVISION).get_text_config(), "max_position_embeddings", {length}))'
    data = "conversations.json" if recipe.dataset.startswith("ds-") or not recipe.dataset else recipe.dataset
    return f'''"""{recipe.name}: {recipe.method} as a plain TRL script.

    python {recipe.name}.py [CONVERSATIONS [MODEL [OUTPUT]]]

CONVERSATIONS is a JSON list or JSONL file of conversations, as ShareGPT and Vicuna have them ("conversations" of from and value) or as
OpenAI has them ("messages" of role and content), each with its "system" message beside them or not. The result is written to OUTPUT.
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

GIVEN = [] if "ipykernel" in sys.modules else sys.argv[1:]  # a notebook has no arguments of its own
DATA = GIVEN[0] if GIVEN else {data!r}
MODEL = GIVEN[1] if len(GIVEN) > 1 else {model!r}
OUTPUT = GIVEN[2] if len(GIVEN) > 2 else {recipe.name!r}
REVISION = {recipe.base_revision!r}
MAX_LENGTH = {length}
HAS_GPU = torch.cuda.is_available()
PRECISION = {recipe.dtype!r}
if PRECISION == "auto":
    PRECISION = ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16") if HAS_GPU else "fp32"
DTYPE = {{"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}}[PRECISION]
'''


def _data(recipe: Recipe) -> str:
    from core.data.tokenizer import VICUNA_TEMPLATE

    template = (
        f'\ntokenizer.chat_template = {VICUNA_TEMPLATE!r}.replace("</s>", tokenizer.eos_token)' if recipe.chat_template != "model" else ""
    )
    learned = {"answers": 'message["role"] == "assistant"', "last": "number == len(messages) - 1", "all": "True"}[recipe.loss_on]
    whole = "\n    if True:  # every token carries loss\n        labels = list(ids)" if recipe.loss_on == "all" else ""
    held_out = (
        f"eval_rows = load_rows({recipe.eval_dataset!r})\ntrain_rows = rows"
        if recipe.eval_dataset
        else f"num_eval = round(len(rows) * {recipe.eval_fraction!r})\ntrain_rows, eval_rows = rows[: len(rows) - num_eval], rows[len(rows) - num_eval :]"
    )
    return f'''{MARK}Data: conversations become token ids, and labels that are -100 where nothing is learned.
ROLES = {ROLE_ALIASES!r}
tokenizer = AutoTokenizer.from_pretrained(MODEL, revision=REVISION){template}
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token


def messages_of(record):
    turns = record.get("messages") or record.get("conversations") or []
    found = [{{"role": ROLES[turn.get("role") or turn["from"]], "content": turn["content" if "content" in turn else "value"]}} for turn in turns]
    system = [{{"role": "system", "content": record["system"]}}] if record.get("system") else []
    return [message for message in system + found if message["role"] != "system" or message["content"].strip()]


def row_of(messages):
    """Token ids and labels of one conversation: what the template puts around and into an answer, from its prompt on, is learned."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    has_bos = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)  # else the tokenizer puts it before, as it does in a chat
    encoded = tokenizer(text, add_special_tokens=not has_bos, return_offsets_mapping=True, truncation=True, max_length=MAX_LENGTH)
    ids = encoded["input_ids"]
    labels = [-100] * len(ids)
    for number, message in enumerate(messages):
        if not ({learned}):
            continue
        begin = len(tokenizer.apply_chat_template(messages[:number], tokenize=False, add_generation_prompt=True)) if number else 0
        end = len(tokenizer.apply_chat_template(messages[: number + 1], tokenize=False))
        for place, (start, stop) in enumerate(encoded["offset_mapping"]):
            if begin < stop and start < end and stop > start:
                labels[place] = ids[place]{whole}
    return {{"input_ids": ids, "labels": labels}}


def load_rows(file):
    text = Path(file).read_text(encoding="utf-8-sig")
    records = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.split("\\n") if line.strip()]
    rows = [row_of(messages) for messages in map(messages_of, records) if messages and messages[-1]["role"] == "assistant"]
    rows = [row for row in rows if any(label != -100 for label in row["labels"][1:])]
    if not rows:
        sys.exit(f"{{file}} holds no conversations with something to learn in them; see the beginning of this script for its form.")
    return rows


rows = load_rows(DATA)
{held_out}
print(f"{{len(train_rows)}} conversations to train on, {{len(eval_rows)}} to measure on")
'''


def _model(recipe: Recipe) -> str:
    lines = [f"{MARK}Model", "config = AutoConfig.from_pretrained(MODEL, revision=REVISION)"]
    if recipe.rope_scaling == "linear":
        lines += [
            "text = config.get_text_config()",
            'reached = max(text.max_position_embeddings, getattr(text, "max_sequence_length", None) or 0)  # Vicuna 16k names the second',
            "if MAX_LENGTH > reached:  # positions are stretched, as FastChat does, a stretched model's further",
            '    rope = text.rope_parameters.get("full_attention", text.rope_parameters)',
            '    assert rope["rope_type"] in ("default", "linear"), "positions that are scaled in another way cannot be stretched"',
            "    factor = math.ceil(MAX_LENGTH / reached)",
            '    rope.update(rope_type="linear", factor=(rope.get("factor") or 1.0) * factor)',
            "    text.max_position_embeddings = reached * factor",
        ]
    loading = ["MODEL", "revision=REVISION", "config=config", f"dtype={'torch.float32' if recipe.method == 'fft' else 'DTYPE'}"]
    if recipe.attn_implementation != "auto":
        loading.append(f"attn_implementation={recipe.attn_implementation!r}")
    else:
        loading.append('attn_implementation="eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"')
    if recipe.method == "qlora":
        storage = "DTYPE" if recipe.quant_storage == "compute" else "torch.uint8"
        lines += [
            "from transformers import BitsAndBytesConfig",
            "",
            "quantization = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=DTYPE,',
            f"    bnb_4bit_use_double_quant={recipe.double_quant}, bnb_4bit_quant_storage={storage},",
            ")",
        ]
        loading.append("quantization_config=quantization")
    lines += ["model = AutoModelForCausalLM.from_pretrained(", *(f"    {argument}," for argument in loading), ")"]
    if recipe.method == "qlora":
        lines += [
            "for module in model.modules():  # else bitsandbytes 0.50 repacks them at an evaluation on a CPU, and nothing is learned after it",
            '    if hasattr(module, "support_avx512bf16_for_cpu"):',
            "        module.support_avx512bf16_for_cpu = False",
        ]
    if recipe.method == "sft":
        lines += [
            f"model.requires_grad_(False)  # the last {recipe.trainable_layers} decoder layers learn, in float32",
            f"learning = list(model.get_decoder().layers)[-{recipe.trainable_layers}:]",
            *(["learning.append(model.get_decoder().norm)"] if recipe.train_norms else []),
            *(["learning.append(model.get_output_embeddings())"] if recipe.train_head else []),
            "for module in learning:",
            "    module.float().requires_grad_(True)",
        ]
    if recipe.is_adapter:
        targets = (
            recipe.target_modules if recipe.target_modules == "all-linear" else [name.strip() for name in recipe.target_modules.split(",")]
        )
        lines += [
            "from peft import LoraConfig",
            "",
            "lora = LoraConfig(",
            f'    task_type="CAUSAL_LM", r={recipe.lora_r}, lora_alpha={recipe.lora_alpha}, lora_dropout={recipe.lora_dropout},',
            f'    target_modules={targets!r}, use_rslora={recipe.use_rslora}, use_dora={recipe.use_dora}, bias="none",',
            ")",
        ]
    return "\n".join(lines) + "\n"


def _training(recipe: Recipe) -> str:
    arguments: dict[str, object] = {
        "per_device_train_batch_size": recipe.micro_batch_size,
        "per_device_eval_batch_size": eval_batch_rows(recipe),
        "gradient_accumulation_steps": recipe.gradient_accumulation_steps,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.lr_scheduler_type,
        "warmup_steps": recipe.warmup_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "optim": recipe.optim,
        "num_train_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps or -1,
        "seed": recipe.seed,
        "gradient_checkpointing": recipe.gradient_checkpointing,
        "logging_steps": recipe.logging_steps,
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or 500,
        "save_total_limit": recipe.save_total_limit,
        "train_sampling_strategy": "group_by_length" if recipe.group_by_length else "random",
        "packing": recipe.packing,
        "eval_packing": False,
        "use_liger_kernel": recipe.use_liger_kernel,
        "report_to": recipe.report_to,
    }
    if recipe.eval_steps:
        arguments |= {"eval_strategy": "steps", "eval_steps": recipe.eval_steps}
    listed = "\n".join(f"    {name}={value!r}," for name, value in arguments.items())
    length = "MAX_LENGTH" if recipe.packing else "None"  # rows that are not packed were cut already
    peft = "\n    peft_config=lora," if recipe.is_adapter else ""
    early = ""
    if recipe.early_stopping_patience:
        early = f"\n    callbacks=[EarlyStoppingCallback({recipe.early_stopping_patience})],"
    imported = "from transformers import EarlyStoppingCallback\n\n" if early else ""
    best = '\n    load_best_model_at_end=False,\n    metric_for_best_model="eval_loss",' if early else ""
    float32 = (
        "\n# TRL rounds adapters on a 4-bit base to bfloat16, in which small updates vanish.\n"
        "for parameter in trainer.model.parameters():\n    if parameter.requires_grad:\n        parameter.data = parameter.data.float()"
    )
    exact = float32 if recipe.method == "qlora" else ""
    return f"""{MARK}Training
{imported}arguments = SFTConfig(
    output_dir=f"{{OUTPUT}}-checkpoints",
    bf16=PRECISION == "bf16" and (HAS_GPU or "ACCELERATE_USE_DEEPSPEED" not in os.environ),
    fp16=PRECISION == "fp16",
    tf32=True if HAS_GPU and torch.cuda.get_device_capability() >= (8, 0) else None,
    use_cpu=not HAS_GPU and "ACCELERATE_USE_DEEPSPEED" not in os.environ,  # else accelerate would leave DeepSpeed out
    ddp_backend="gloo" if not HAS_GPU and "LOCAL_RANK" in os.environ else None,
    max_length={length},
{listed}{best}
)
trainer = SFTTrainer(
    model=model,
    args=arguments,
    train_dataset=Dataset.from_list(train_rows),
    eval_dataset=Dataset.from_list(eval_rows) if eval_rows else None,
    processing_class=tokenizer,{peft}{early}
){exact}
trainer.train()
if eval_rows:
    print(trainer.evaluate())
trainer.save_model(OUTPUT)
tokenizer.save_pretrained(OUTPUT)
"""

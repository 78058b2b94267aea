"""Small models of every supported family, built from their configurations with random weights and the starter's vocabulary."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from core.paths import STARTER

SHAPE: dict[str, Any] = {
    "vocab_size": 1536, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "initializer_range": 0.05,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 64},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"head_dim": 48},
    "gemma2": {"head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32},
    "gemma3_text": {"head_dim": 32, "sliding_window": 64, "query_pre_attn_scalar": 32},
    "phi3": {},
}


def config_of(family: str, **changes: Any) -> Any:
    from transformers import CONFIG_MAPPING

    return CONFIG_MAPPING[family](**(SHAPE | FAMILIES[family] | changes))


def build(family: str, folder: Path, **changes: Any) -> Path:
    """A model of the family in `folder`, stored in bf16 as published models are, with the starter's tokenizer and template."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(family, **changes), dtype=torch.float32)
    model.to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        shutil.copyfile(STARTER / name, folder / name)
    return folder

"""A model's parameters counted from its config.json alone: no weights, no torch. Checked against transformers for every family."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError
from core.training.architecture import Config, positions, read_config, text_config

# What a family's configuration class takes where config.json says nothing (transformers 5.23, models/*/configuration_*.py).
HEAD_DIM = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}
KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma2": 4, "gemma3_text": 4}
TIED = {"gemma2", "gemma3_text"}
QKV_BIAS = {"qwen2"}
HEAD_NORMS = {"qwen3", "gemma3_text"}  # queries and keys are normed per head
FOUR_NORMS = {"gemma2", "gemma3_text"}  # before and after attention and MLP; the others have two
FUSED = {"phi3"}  # one matrix for queries, keys and values, one for gate and up
KNOWN = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"}
NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
STORED_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1}


@dataclass(frozen=True)
class Linear:
    """One weight matrix of a decoder layer; `rows` are outputs."""

    name: str
    rows: int
    columns: int
    has_bias: bool = False

    @property
    def weights(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Shapes:
    """A decoder-only model. `is_known` is False where its family is none of ours and was counted as Llama's."""

    family: str
    is_known: bool
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    is_tied: bool
    linear: tuple[Linear, ...]
    norms: int  # per layer, of `hidden`
    has_head_norms: bool
    is_capped: bool  # attention scores are capped, which takes eager attention
    is_head_capped: bool  # the output layer's scores are
    window: int | None  # sliding attention sees so many tokens back
    positions: int | None
    stored_bytes: int  # per weight, in the files
    is_bf16: bool = False  # in the files; False where that is not known

    @property
    def queries(self) -> int:
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_linear(self) -> int:
        return sum(matrix.weights for matrix in self.linear)

    @property
    def layer_vectors(self) -> int:
        """Norms and biases of a layer."""
        biases = sum(matrix.rows for matrix in self.linear if matrix.has_bias)
        return self.norms * self.hidden + biases + (2 * self.head_dim if self.has_head_norms else 0)

    @property
    def layer(self) -> int:
        return self.layer_linear + self.layer_vectors

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Weights of the output layer that are not the embedding's."""
        return 0 if self.is_tied else self.embedding

    @property
    def total(self) -> int:
        return self.layers * self.layer + self.embedding + self.head + self.hidden

    @property
    def largest(self) -> int:
        """Weights of the largest tensor."""
        return max(self.embedding, *(matrix.weights for matrix in self.linear))

    def targets(self, asked: str) -> tuple[Linear, ...]:
        """The matrices of a layer that an adapter is put on."""
        names = [name.strip() for name in asked.split(",")]
        return self.linear if asked == "all-linear" else tuple(matrix for matrix in self.linear if matrix.name in names)


def shapes(config: Config) -> Shapes:
    """The shapes that `config` (a config.json) describes.

    Raises:
        UserError: it does not name the sizes that every decoder has.
    """
    text = text_config(config)
    family = str(text.get("model_type") or config.get("model_type") or "")
    if missing := [name for name in NEEDED if not isinstance(text.get(name), int)]:
        raise UserError(
            f"The model's config.json does not say its {missing[0]}.",
            "base_model",
            "Choose a decoder-only model, such as a Llama or a Qwen.",
        )
    hidden, inner, heads = int(text["hidden_size"]), int(text["intermediate_size"]), int(text["num_attention_heads"])
    head_dim = int(text.get("head_dim") or HEAD_DIM.get(family) or hidden // heads)
    kv_heads = int(text.get("num_key_value_heads") or KV_HEADS.get(family) or heads)
    stored = str(text.get("dtype") or config.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype"))
    return Shapes(
        family=family,
        is_known=family in KNOWN,
        layers=int(text["num_hidden_layers"]),
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab=int(text["vocab_size"]),
        is_tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", family in TIED))),
        linear=_linear(family, text, (hidden, inner, heads * head_dim, kv_heads * head_dim)),
        norms=4 if family in FOUR_NORMS else 2,
        has_head_norms=family in HEAD_NORMS,
        is_capped=bool(text.get("attn_logit_softcapping", 50.0 if family == "gemma2" else None)),
        is_head_capped=bool(text.get("final_logit_softcapping", 30.0 if family == "gemma2" else None)),
        window=int(text["sliding_window"]) if text.get("sliding_window") and text.get("use_sliding_window", True) else None,
        positions=positions(config),
        stored_bytes=STORED_BYTES.get(stored, 2),
        is_bf16=stored == "bfloat16",
    )


def _linear(family: str, text: dict[str, Any], sizes: tuple[int, int, int, int]) -> tuple[Linear, ...]:
    hidden, inner, queries, keys = sizes
    if family in FUSED:
        return (
            Linear("qkv_proj", queries + 2 * keys, hidden),
            Linear("o_proj", hidden, queries),
            Linear("gate_up_proj", 2 * inner, hidden),
            Linear("down_proj", hidden, inner),
        )
    around, inside = bool(text.get("attention_bias", False)), bool(text.get("mlp_bias", False))
    into = around or family in QKV_BIAS
    return (
        Linear("q_proj", queries, hidden, into),
        Linear("k_proj", keys, hidden, into),
        Linear("v_proj", keys, hidden, into),
        Linear("o_proj", hidden, queries, around),
        Linear("gate_proj", inner, hidden, inside),
        Linear("up_proj", inner, hidden, inside),
        Linear("down_proj", hidden, inner, inside),
    )


@lru_cache(maxsize=64)
def of_listed(model_id: str) -> Shapes | None:
    """The shapes of a model of ``spaces/models.toml``, which need nothing fetched; None for others."""
    listed = tomllib.loads((paths.SPACES / "models.toml").read_text(encoding="utf-8"))["models"]
    found = next((model for model in listed if model["id"] == model_id and "hidden_size" in model), None)
    if found is None:
        return None
    return shapes(found | {"max_position_embeddings": found["positions"]})


def of_model(name: str, token: str | None = None) -> Shapes:
    """The shapes of a base model named as in a recipe; of a Hub model at most its config.json is fetched.

    Raises:
        UserError: there is no such model, or the Hub cannot be reached.
    """
    from core.training import models

    known = None if Path(name).expanduser().is_dir() else of_listed(name)
    return known or shapes(read_config(models.tokenizer_folder(name, token)))

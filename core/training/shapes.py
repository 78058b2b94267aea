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
DEFAULTS: dict[str, dict[str, int]] = {
    "mistral": {"num_key_value_heads": 8},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"head_dim": 128, "num_key_value_heads": 32},
    "gemma2": {"head_dim": 256, "num_key_value_heads": 4},
    "gemma3_text": {"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208},
}
TIED = {"gemma2", "gemma3_text"}
QKV_BIAS = {"qwen2"}
HEAD_NORMS = {"qwen3", "qwen3_moe", "gemma3_text"}  # queries and keys are normed per head
FOUR_NORMS = {"gemma2", "gemma3_text"}  # before and after attention and MLP; the others have two
FUSED = {"phi3"}  # one matrix for queries, keys and values, one for gate and up
KNOWN = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3"}
ATTENTION = ("q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")  # of a layer; each family has a word of its own
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
    experts: int = 0  # weights of a layer's experts and their router, where it has experts in place of one MLP; no linear modules
    active_experts: int = 0  # of them, what one token passes through; `inner` is then what those have in the middle
    tower: int = 0  # weights beside the language model, such as those that see; text leaves them unused
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
        return self.layer_linear + self.layer_vectors + self.experts

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Weights of the output layer that are not the embedding's."""
        return 0 if self.is_tied else self.embedding

    @property
    def total(self) -> int:
        return self.layers * self.layer + self.embedding + self.head + self.hidden + self.tower

    @property
    def largest(self) -> int:
        """Weights of the largest tensor."""
        return max(self.embedding, 2 * self.experts // 3, *(matrix.weights for matrix in self.linear))

    def targets(self, asked: str) -> tuple[Linear, ...]:
        """The matrices of a layer that an adapter is put on."""
        names = [name.strip() for name in asked.split(",")]
        return self.linear if asked == "all-linear" else tuple(matrix for matrix in self.linear if matrix.name in names)


def shapes(config: Config) -> Shapes:
    """The shapes that `config` (a config.json) describes.

    Raises:
        UserError: it does not name the sizes that every decoder has.
    """
    given = text_config(config)
    family = str(given.get("model_type") or config.get("model_type") or "")
    text = DEFAULTS.get(family, {}) | {name: value for name, value in given.items() if value is not None}
    if missing := [name for name in NEEDED if not isinstance(text.get(name), int)]:
        raise UserError(
            f"The model's config.json does not say its {missing[0]}.",
            "base_model",
            "Choose a decoder-only model, such as a Llama or a Qwen.",
        )
    hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
    head_dim = int(text.get("head_dim") or hidden // heads)
    kv_heads = int(text.get("num_key_value_heads") or heads)
    inner, experts, active = _experts(text, hidden)
    linear = _linear(family, text, (hidden, inner, heads * head_dim, kv_heads * head_dim))
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
        linear=tuple(matrix for matrix in linear if not experts or matrix.name in ATTENTION),
        norms=4 if family in FOUR_NORMS else 2,
        has_head_norms=family in HEAD_NORMS,
        is_capped=bool(text.get("attn_logit_softcapping", 50.0 if family == "gemma2" else None)),
        is_head_capped=bool(text.get("final_logit_softcapping", 30.0 if family == "gemma2" else None)),
        window=int(text["sliding_window"]) if text.get("sliding_window") and text.get("use_sliding_window", True) else None,
        positions=positions(config),
        stored_bytes=STORED_BYTES.get(stored, 2),
        experts=experts,
        active_experts=active,
        tower=_tower(config.get("vision_config"), hidden),
        is_bf16=stored == "bfloat16",
    )


def _experts(text: Config, hidden: int) -> tuple[int, int, int]:
    """(what a token meets in the middle of a layer's MLP, weights of all experts with their router, those that a token passes).

    Every layer counts as one with experts, also the few that some families leave without.
    """
    count = next((int(text[name]) for name in EXPERTS if text.get(name)), 0)
    if not count:
        return int(text["intermediate_size"]), 0, 0
    each = int(text.get("moe_intermediate_size") or text["intermediate_size"])
    always = int(text.get("shared_expert_intermediate_size") or each * int(text.get("n_shared_experts") or 0))
    inner = each * int(text.get("num_experts_per_tok") or 1) + always
    return inner, 3 * hidden * (count * each + always) + count * hidden, 3 * hidden * inner + count * hidden


def _tower(vision: Config | None, hidden: int) -> int:
    """Weights of a vision transformer as SigLIP has them (transformers 5.23), with the norm and the matrix that lead into the language model."""
    known = vision or {}
    wide, inner, layers = (int(known.get(name) or 0) for name in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    if not (wide and inner and layers):
        return 0
    patch, image = int(known.get("patch_size") or 14), int(known.get("image_size") or 0)
    layer = 4 * wide * (wide + 1) + 2 * wide * inner + inner + wide + 4 * wide
    return layers * layer + 3 * patch**2 * wide + wide + (image // patch) ** 2 * wide + 3 * wide + wide * hidden


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

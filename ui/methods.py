"""The four methods side by side: when to use each, what learns, the memory and the work it takes. Counted from the model's shapes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

from core.errors import UserError
from core.export import artifacts
from core.paths import STARTER
from core.training.hardware import detect
from core.training.recipe import Method
from ui.form import offered_models
from ui.view import chip, duration, percent, size, table, text

NAMES: dict[Method, str] = {"qlora": "QLoRA", "lora": "LoRA", "sft": "SFT", "fft": "FFT"}
CHOICES = [
    ("QLoRA: adapter on a 4-bit base", "qlora"),
    ("LoRA: adapter on a 16-bit base", "lora"),
    ("SFT: the last layers", "sft"),
    ("FFT: every weight", "fft"),
]
WHEN: dict[Method, str] = {
    "qlora": "Memory is short: one consumer GPU, or none. The base is held in 4 bit and stays as it is; a small adapter learns. Start here.",
    "lora": "The base fits in 16 bit. The same adapter without the loss of 4 bit, and quicker per step. It merges into the base exactly.",
    "sft": "The task is close to what the model does already and a result is wanted soon. Only the last layers learn, and they learn in full.",
    "fft": "The task differs much from what the model knows, and there are many conversations and GPUs. Every weight learns; it forgets most easily.",
}
STAND_IN = "lmsys/vicuna-7b-v1.5"
# Bytes a parameter: bf16 weights 2; a learning weight also its fp32 copy 4, gradient 4 and Adam's two moments 8 (ZeRO, arXiv:1910.02054,
# section 3.1). nf4 with double quantisation: 4.127 bits (QLoRA, arXiv:2305.14314, section 3).
WEIGHT_BYTES, LEARNING_BYTES, NF4_BYTES = 2.0, 16.0, 4.127 / 8
PUBLISHED = (
    "Published for 7B: FFT about 120 GB, LoRA and SFT about 16 GB, QLoRA about 6 GB. Memory here is counted: weights, gradients and Adam's "
    "state in mixed precision; activations come on top and grow with micro batch size times maximum length. Work is counted too: "
    "operations per token against FFT. QLoRA also unpacks its 4-bit weights at every step, so it is slower than LoRA by the clock."
)


@dataclass(frozen=True)
class Cost:
    """What a method takes for one model."""

    trainable: int  # parameters that learn
    total: int  # parameters of the model, its adapter's among them as PEFT and a run count them
    memory_bytes: float  # without activations
    work: float  # operations per token, FFT = 1


def shapes_of(base_model: str) -> tuple[str, dict[str, Any]]:
    """The name and the shapes of a base model; those of a 7B where they are not known before it is fetched."""
    known = {model["id"]: model for model in offered_models()}
    if base_model == "starter":
        return "the embedded starter", json.loads((STARTER / "config.json").read_text(encoding="utf-8"))
    if base_model in known:
        return known[base_model]["title"], known[base_model]
    try:
        artifact = artifacts.resolve(base_model) if base_model else None
    except UserError:
        artifact = None
    if artifact and artifact.kind == "merged" and (artifact.folder / "config.json").is_file():
        return artifact.name, json.loads((artifact.folder / "config.json").read_text(encoding="utf-8"))
    return "a 7B model, since this one's size is not known yet", known[STAND_IN]


def cost(method: Method, shapes: dict[str, Any], values: dict[str, Any]) -> Cost:
    """Counted for a Llama-like decoder; norms are left out (below 0.01 %)."""
    linear = _linear(shapes)
    layers, embedding = shapes["num_hidden_layers"], shapes["vocab_size"] * shapes["hidden_size"]
    tied = shapes.get("tie_word_embeddings", False)
    per_layer = sum(rows * columns for rows, columns in linear.values())
    total = layers * per_layer + embedding * (1 if tied else 2)
    matmul = layers * per_layer + embedding  # the embedding look-up multiplies nothing, the output layer does
    if method == "fft":
        return Cost(total, total, total * (WEIGHT_BYTES + LEARNING_BYTES), 1.0)
    if method == "sft":
        learning = min(int(values.get("trainable_layers") or 1), layers) * per_layer
        work = (2 * matmul + 2 * (embedding + learning) + 2 * learning) / (6 * matmul)
        return Cost(learning, total, total * WEIGHT_BYTES + learning * LEARNING_BYTES, work)
    r = int(values.get("lora_r") or 1)
    adapter = layers * sum(r * (rows + columns) for name, (rows, columns) in linear.items() if _is_target(name, values))
    work = (4 * matmul + 6 * adapter) / (6 * matmul)
    held = total * WEIGHT_BYTES if method == "lora" else layers * per_layer * NF4_BYTES + (total - layers * per_layer) * WEIGHT_BYTES
    return Cost(adapter, total + adapter, held + adapter * LEARNING_BYTES, work)


def _linear(shapes: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Rows and columns of the linear layers of one decoder layer."""
    hidden, inner, heads = shapes["hidden_size"], shapes["intermediate_size"], shapes["num_attention_heads"]
    head_dim = shapes.get("head_dim") or hidden // heads
    queries, keys = heads * head_dim, shapes.get("num_key_value_heads", heads) * head_dim
    return {
        "q_proj": (queries, hidden), "k_proj": (keys, hidden), "v_proj": (keys, hidden), "o_proj": (hidden, queries),
        "gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner),
    }  # fmt: skip


def _is_target(name: str, values: dict[str, Any]) -> bool:
    targets = str(values.get("target_modules") or "all-linear")
    return targets == "all-linear" or name in [target.strip() for target in targets.split(",")]


def comparison(values: dict[str, Any], times: dict[Method, float] | None = None) -> str:
    """The table under the chooser, for the model and the settings of the form; `times` are the seconds that each method's run takes."""
    name, shapes = shapes_of(str(values.get("base_model") or ""))
    room, lines = room_bytes(), []
    for method in get_args(Method):
        found = cost(method, shapes, values)
        chosen = method == values.get("method")
        label = f"<b>{NAMES[method]}</b>" + (' <span class="chip accent">chosen</span>' if chosen else "")
        learns = f"{percent(found.trainable / found.total)}<br><span class='quiet'>{_millions(found.trainable)}</span>"
        memory = size(found.memory_bytes) + ("" if found.memory_bytes <= room else f"<br>{chip('does not fit here', 'warning')}")
        time = (f"about {duration(times[method])}" if method in times else "cannot run there",) if times else ()
        lines.append((label, text(WHEN[method]), learns, memory, f"× {found.work:.2f}", *time))
    heads = ("Method", "Use it when", "Learns", "Memory", "Work", *(("Time",) if times else ()))
    note = f"For {name}, {_millions(cost('fft', shapes, values).total)}. {PUBLISHED}"
    return table(heads, lines, "Methods compared", numeric=(2, 3, 4, 5)) + f'<p class="quiet fine">{text(note)}</p>'


@lru_cache(maxsize=1)
def room_bytes() -> int:
    """The memory that training has on this machine: that of its GPUs together, or main memory where there is none."""
    found = detect()
    return sum(gpu.vram_bytes for gpu in found.gpus) or found.ram_bytes


def _millions(number: int) -> str:
    """``4.7 M parameters``, ``6.7 B parameters``."""
    scale, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    return f"{number / scale:.2g} {unit} parameters" if number / scale < 10 else f"{number / scale:,.0f} {unit} parameters"

"""What a model's config.json and weight headers say of it, without loading it: positions, RoPE scaling, modules."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from core import paths
from core.errors import UserError

Config = dict[str, Any]
LINEAR = re.compile(r"\.layers\.\d+\.(?:.+\.)?([^.]+)\.weight")
# Families in which packed documents see each other (seen with transformers 5.23, small models of every causal family, sdpa, eager and by document):
# layers that hand a state or a convolution on from token to token, ...
STATEFUL = frozenset(
    "bailing_hybrid bamba falcon_h1 falcon_mamba granitemoehybrid inkling2_text inkling_text jamba kimi_linear lfm2 lfm2_moe lfm3 mamba mamba2 minimax "
    "nemotron_h olmo_hybrid qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma rwkv xlstm zamba "
    "zamba2 zaya".split()
)
# ... and attention that is not told where a document begins, neither by its mask nor by positions (ALiBi among them).
UNSEPARATED = STATEFUL | frozenset(
    "afmoe biogpt bloom cpmant ctrl doge falcon fuyu gpt_bigcode gpt_oss moshi mpt openai-gpt opt persimmon xglm xlm xlnet".split()
)
# Families whose positions are learned, or turned in a way of their own: there is no RoPE setting that would stretch them.
UNSTRETCHED = frozenset("biogpt bloom codegen ctrl gpt2 gpt_bigcode gpt_neo gptj mpt openai-gpt opt xglm".split())
MAX_HEADER_BYTES = 100 * 2**20  # the format's own limit (github.com/huggingface/safetensors)


def read_config(folder: Path) -> Config:
    """The config.json of a model folder.

    Raises:
        UserError: it is missing, or no JSON object.
    """
    name = paths.model_name(folder)
    try:
        config = paths.read_json(folder / "config.json")
    except FileNotFoundError:
        raise UserError(f"{name} has no config.json.", name, "Give the folder of a Hugging Face model.") from None
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"config.json of {name} is not JSON.", name, "Fetch the model again.")
    return config


def text_config(config: Config) -> Config:
    """The part about the language model, where a model also sees or hears."""
    return config.get("text_config") or config


def kinds(config: Config) -> set[str]:
    """The model's type, and that of its language part."""
    return {str(part.get("model_type")) for part in (config, text_config(config))}


def separates_documents(config: Config) -> bool:
    """Whether the documents of a packed row do not see each other."""
    return not kinds(config) & UNSEPARATED


def rope_parameters(config: Config) -> Config:
    """The RoPE settings of full attention, whether written as transformers 5 does or as those before it."""
    text = text_config(config)
    found = text.get("rope_parameters") or text.get("rope_scaling") or {}
    return found.get("full_attention", found)


def positions(config: Config) -> int | None:
    """How many positions the model was made for; None where its config does not say.

    A linearly stretched model counts what it was stretched to. Vicuna's 16k models name that max_sequence_length and leave
    max_position_embeddings as it was.
    """
    text = text_config(config)
    named = [text.get(name) for name in ("max_position_embeddings", "max_sequence_length", "n_positions")]
    return max((int(number) for number in named if number), default=None)


def stretch_factor(max_length: int, reached: int) -> int:
    """FastChat's factor: the smallest whole number that takes `reached` positions to `max_length` (fastchat/train/train.py)."""
    return math.ceil(max_length / reached)


def can_stretch(config: Config) -> bool:
    """Whether linear RoPE scaling reaches further positions: not where they are no RoPE, or are scaled in another way."""
    known = rope_parameters(config)
    return not kinds(config) & UNSTRETCHED and (known.get("rope_type") or known.get("type") or "default") in ("default", "linear")


def stretched(config: Config, max_length: int) -> Config:
    """`config` with linear RoPE scaling to at least `max_length` positions.

    Raises:
        UserError: the model has no positions to stretch, or its positions are scaled already in another way.
    """
    reached, known = positions(config), rope_parameters(config)
    if reached is None or not can_stretch(config):
        kind = known.get("rope_type") or known.get("type")
        said = "Its config names none." if reached is None else f"They are scaled already ({kind})." if kind else "They are no RoPE."
        raise UserError(f"This model's positions cannot be stretched. {said}", "rope_scaling", f"Set max_length={reached or 2048} or less.")
    factor = stretch_factor(max_length, reached)
    text = dict(text_config(config))
    before = text.pop("rope_scaling", None) or text.get("rope_parameters") or {}
    scaled = {**known, "rope_type": "linear", "factor": float(known.get("factor") or 1.0) * factor}
    scaled.pop("type", None)
    if "rope_theta" in text:  # transformers 4 keeps it beside
        scaled.setdefault("rope_theta", text.pop("rope_theta"))
    text["rope_parameters"] = {**before, "full_attention": scaled} if "full_attention" in before else scaled
    text["max_position_embeddings"] = reached * factor
    return config | {"text_config": text} if "text_config" in config else text


def linear_names(folder: Path) -> list[str]:
    """The last words of the names of the weight matrices in the decoder layers, such as ``q_proj``, read from the files' headers."""
    names: dict[str, None] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, entry in header(file).items():
            match = LINEAR.search(name)
            if match and len(entry.get("shape", ())) == 2:
                names[match[1]] = None
    return list(names)


def header(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name: dtype, shape and offsets.

    Raises:
        UserError: the file is cut off or is something else.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            found = json.loads(opened.read(length)) if 0 < length <= MAX_HEADER_BYTES else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{file.name} is no safetensors file, or is cut off.", str(file.parent.name), "Fetch the model again.")
    return {name: entry for name, entry in found.items() if name != "__metadata__"}

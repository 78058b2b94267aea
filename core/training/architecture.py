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
    named = [text.get(name) for name in ("max_position_embeddings", "max_sequence_length")]
    return max((int(number) for number in named if number), default=None)


def stretch_factor(max_length: int, reached: int) -> int:
    """FastChat's factor: the smallest whole number that takes `reached` positions to `max_length` (fastchat/train/train.py)."""
    return math.ceil(max_length / reached)


def stretched(config: Config, max_length: int) -> Config:
    """`config` with linear RoPE scaling to at least `max_length` positions.

    Raises:
        UserError: the model has no positions to stretch, or its positions are scaled already in another way.
    """
    reached, known = positions(config), rope_parameters(config)
    kind = known.get("rope_type") or known.get("type") or "default"
    if reached is None or kind not in ("default", "linear"):
        said = f"Its positions are scaled already ({kind})." if reached else "Its config names no positions."
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

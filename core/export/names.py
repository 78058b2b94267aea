"""What a parameter of a loaded model is called in its checkpoint: transformers renames, fuses and transposes some on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import UserError

# Families whose checkpoints name every tensor as the loaded model does, with plain linear layers only. A test asks transformers.
SAME_NAMES = frozenset(
    "gemma gemma2 gemma3_text glm4 granite helium llama mistral olmo2 phi phi3 qwen2 qwen3 smollm3 stablelm starcoder2".split()
)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Layout:
    """Parameter name in the model to name in the checkpoint.

    `transposed` are stored (in, out), as GPT-2's; `fused` exist in the model only, made of several stored tensors or changed while loading.
    """

    names: dict[str, str]
    embedding: str = EMBEDDING
    head: str = HEAD
    transposed: frozenset[str] = frozenset()
    fused: frozenset[str] = frozenset()
    renamed: dict[str, str] = field(default_factory=dict[str, str])  # how adapters of older transformers call a parameter -> today's name

    def find(self, parameter: str) -> str | None:
        """Today's name of a parameter that an adapter names; None when the model has none such."""
        if parameter in self.names or parameter in (self.head, self.embedding):
            return parameter
        return self.renamed.get(parameter)


def layout_of(base: Path, config: dict[str, Any], stored: Iterable[str]) -> Layout:
    """The layout of a base model from its configuration and the names in its files; only unusual families load transformers.

    Raises:
        UserError: transformers does not know the architecture.
    """
    if config.get("model_type") in SAME_NAMES:
        return _same(list(stored))
    return _asked(base, list(stored))


def _same(stored: list[str]) -> Layout:
    if any(name.startswith("model.") for name in stored):
        return Layout({name: name for name in stored})
    return Layout({name if name == HEAD else f"model.{name}": name for name in stored})  # saved without its language model head


def _asked(base: Path, stored: list[str]) -> Layout:
    """Ask transformers: build the model without memory and rename the stored names as loading would."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    from transformers.pytorch_utils import Conv1D

    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError, ImportError) as error:
        where, remedy = str(base), "Take a base whose architecture is in transformers."
        raise UserError(f"transformers cannot build this base: {error}", where, remedy, "ARCHITECTURE") from None
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    parameters: dict[str, Any] = model.state_dict()
    names: dict[str, str] = {}
    fused: set[str] = set()
    for name in stored:
        renamed, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)
        if converter:
            fused.add(renamed)
        else:
            names[renamed] = name
    modules = {id(module): name for name, module in model.named_modules()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    return Layout(
        names,
        f"{modules[id(embedding)]}.weight",
        f"{modules[id(head)]}.weight" if head is not None else HEAD,
        frozenset(f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Conv1D)),
        frozenset(fused),
        {name: renamed for renamed, name in names.items() if name not in parameters},
    )

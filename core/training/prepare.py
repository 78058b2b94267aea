"""What a recipe leaves to the model is settled before a run starts: maximum length, template, pad token, stretched positions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from core import paths
from core.errors import UserError
from core.training import architecture, checks, workload
from core.training.hardware import Hardware
from core.training.launch import num_processes
from core.training.models import ModelRef
from core.training.recipe import Recipe

if TYPE_CHECKING:
    from core.data.dataset import Dataset
    from core.data.tokenizer import ChatTokenizer

SPLIT_AT_ONCE = 10_000  # conversations whose split is drawn to be counted; beyond that the share is taken at its word


def settled(recipe: Recipe, model: ModelRef) -> Recipe:
    """`recipe` with a maximum length that nobody chose brought within the model's positions; refused when the model cannot follow it.

    Raises:
        UserError: see `checks.check_model`.
    """
    reached = architecture.positions(architecture.read_config(model.path))
    is_open = "max_length" not in recipe.model_fields_set and recipe.rope_scaling == "none"
    if reached and is_open and recipe.max_length > reached:
        recipe = recipe.model_copy(update={"max_length": reached})
    checks.check_model(recipe, model)
    return recipe


def count(recipe: Recipe, dataset: Dataset) -> tuple[int, int]:
    """How many conversations of `dataset` are trained on, and how many are set aside."""
    if recipe.eval_dataset or not recipe.eval_fraction:
        return len(dataset), 0
    if len(dataset) > SPLIT_AT_ONCE:
        aside = round(len(dataset) * recipe.eval_fraction)
        return len(dataset) - aside, aside
    from core.data.split import split

    train, held_out = split(dataset, recipe.eval_fraction, recipe.seed)
    return len(train), len(held_out)


def count_packed(recipe: Recipe, dataset: Dataset, tokenizer: ChatTokenizer) -> int | None:
    """How many rows the conversations that are trained on fill when packed; None where nobody has measured them yet."""
    from core.data.measures import is_measured, measure

    if not is_measured(dataset, tokenizer, recipe.max_length, recipe.loss_on):
        return None
    found = measure(dataset, tokenizer, recipe.max_length, recipe.loss_on)
    if not recipe.eval_dataset and recipe.eval_fraction and len(dataset) <= SPLIT_AT_ONCE:
        from core.data.split import split

        train, _ = split(dataset, recipe.eval_fraction, recipe.seed)
        found = replace(found, tokens=found.tokens[train], reason=found.reason[train])
        recipe = recipe.model_copy(update={"eval_fraction": 0.0})
    return workload.counted(found, recipe).rows


def check_data(recipe: Recipe, dataset: Dataset, hardware: Hardware, machines: int = 1) -> None:
    """Refuse a recipe whose numbers cannot work with this dataset on so many machines like `hardware`; see `checks.check_data`."""
    checks.check_data(_on_all(recipe, hardware, machines), *count(recipe, dataset), hardware)


def check_packed(recipe: Recipe, dataset: Dataset, tokenizer: ChatTokenizer, hardware: Hardware, machines: int = 1) -> None:
    """`check_data` for the rows into which the dataset is packed, where they can be counted; see `checks.check_packed`."""
    rows = count_packed(recipe, dataset, tokenizer) if recipe.packing else None
    if rows is not None:
        checks.check_packed(_on_all(recipe, hardware, machines), rows, hardware)


def _on_all(recipe: Recipe, hardware: Hardware, machines: int) -> Recipe:
    """`recipe` with the number of its processes on all machines."""
    return recipe.model_copy(update={"num_processes": num_processes(recipe, hardware) * machines})


def tokenizer_of(recipe: Recipe, model: ModelRef) -> ChatTokenizer:
    """The model's tokenizer as the run uses it: with the recipe's template, and with a pad token.

    Without one of its own it pads with the unknown token, as FastChat does, else with EOS; pads are masked and carry no loss.

    Raises:
        UserError: no tokenizer, no EOS, or no template and the recipe names none.
    """
    from core.data.tokenizer import VICUNA_TEMPLATE, chat_tokenizer, load_tokenizer

    found = load_tokenizer(model.path)
    assert found.eos_token  # load_tokenizer refuses a tokenizer without one
    template = found.template
    if recipe.chat_template == "vicuna_v1.1":
        template = VICUNA_TEMPLATE.replace("</s>", found.eos_token.replace("'", "\\'"))
    if not template.strip():
        raise UserError(
            f"{model.name} has no chat template: it was never taught to chat, or does not say how.",
            "chat_template",
            "Set chat_template=vicuna_v1.1; the model then learns that format.",
            code="TEMPLATE",
        )
    pad = found.pad_token or found.unk_token or found.eos_token
    if (template, pad) == (found.template, found.pad_token):
        return found
    names = {"bos_token": found.bos_token, "eos_token": found.eos_token, "pad_token": pad, "unk_token": found.unk_token}
    return chat_tokenizer(found.tokenizer, template, names, model.name)


def stretched_base(recipe: Recipe, model: ModelRef, folder: Path) -> ModelRef:
    """The model with its positions stretched to the recipe's maximum length, in `folder`; the model itself where they suffice.

    The folder holds a config.json of its own and links to the weights, so that training, merging, proofs and chat all read the same
    stretched model.
    """
    config = architecture.read_config(model.path)
    reached = architecture.positions(config)
    if recipe.rope_scaling == "none" or not reached or recipe.max_length <= reached:
        return model
    folder.mkdir(parents=True)
    for path in model.path.iterdir():
        if path.is_file() and path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    paths.write_json(folder / "config.json", architecture.stretched(config, recipe.max_length))
    return ModelRef(model.name, folder, model.revision)

"""What the Dataset tab asks of the engine: import within a visitor's limits, and a conversation as a chosen model's training sees it."""

from __future__ import annotations

import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from gradio.utils import get_upload_folder

from core import paths
from core.conversation import Conversation
from core.data.dataset import Dataset, import_dataset, list_datasets, open_dataset
from core.data.origin import Origin
from core.data.render import LossOn, tokenize
from core.data.tokenizer import ChatTokenizer, load_tokenizer
from core.data.validate import Report
from core.errors import UserError
from core.export import artifacts
from core.training import models
from ui import upload_shares
from ui.access import Caller
from ui.mask_view import Masked
from ui.train_data import HUB_ID

EXAMPLES = {"identity": "identity.json", "broken": "broken.json"}
COUNTED_AT_ONCE = 20_000  # rows up to which the page counts without being asked to
LONGEST_MASKED = 500_000  # characters of a conversation that is shown token by token
LENGTHS_S = 0.4  # at most this long is spent on counting tokens for the first sentence


class Lengths(NamedTuple):
    """How many conversations, from the first on, were counted, and how many of those lose a part of an answer."""

    num_counted: int
    num_cut: int


def import_example(name: str) -> Dataset:
    return import_dataset(paths.EXAMPLES / EXAMPLES[name], name, origin=Origin(kind="example", file=EXAMPLES[name]))


def uploaded(file: Any, caller: Caller) -> Path:
    """The file that `caller` uploaded. A program sends a path of its own making, so nothing outside the upload folder is opened (rule R10),
    and a visitor's calls open what that visitor has sent and nobody else's, whose path may have become known (rule R11).

    Raises:
        UserError: it is none, or somebody else's, which is said in the same words.
    """
    given = file.get("path") if isinstance(file, dict) else getattr(file, "path", None)
    folder = Path(get_upload_folder()).resolve()
    path = (folder / str(given or "")).resolve()
    if not path.is_relative_to(folder) or not path.is_file() or not upload_shares.is_from(path, caller):
        raise UserError("That is no uploaded file.", "file", "Upload it first; gradio_client's handle_file does.")
    return path


def earlier(caller: Caller) -> list[tuple[str, str]]:
    """What was imported before, as choices; other people's data is the owner's to see."""
    if caller.role != "owner":
        return []
    return [(f"{found.name}, {found.manifest.num_rows:,} rows", found.id) for found in list_datasets()]


def tokenizers() -> list[tuple[str, str]]:
    """The models whose tokenizer and template are here: the starter and what was trained."""
    made = [artifact for artifact in artifacts.everywhere() if artifact.kind == "merged"]
    return [("Embedded starter", "starter"), *((artifact.name, artifact.id) for artifact in reversed(made))]


def tokenizer_of(model: str, caller: Caller) -> ChatTokenizer:
    """The tokenizer of one of `tokenizers`, or of any model of the Hub, whose tokenizer files are fetched with the owner's token."""
    return tokenizer_in(folder_of(model, caller))


def folder_of(model: str, caller: Caller) -> Path:
    """The folder with the files of that tokenizer."""
    if model in {value for _, value in tokenizers()}:
        return models.tokenizer_folder(model)
    is_hub_id = HUB_ID.fullmatch(model or "") and not Path(model).is_dir()
    if not is_hub_id:
        raise UserError(
            f"There is no model {model!r} here.",
            "the tokenizer",
            "Choose one from the list, or write a Hub id such as lmsys/vicuna-7b-v1.5.",
        )
    if not caller.may("owner"):
        raise UserError("Visitors may look through the models of the list.", "the tokenizer", "Choose one from the list.")
    return models.tokenizer_folder(model, caller.token)


@lru_cache(maxsize=4)
def tokenizer_in(folder: Path) -> ChatTokenizer:
    """The tokenizer in a folder that `folder_of` gave."""
    return load_tokenizer(folder)


@lru_cache(maxsize=16)
def report_of(dataset_id: str) -> Report:
    """The report on a dataset; it changes only when near-duplicates are looked for, which empties this cache."""
    return open_dataset(dataset_id).report()


def masked(conversation: Conversation, model: str, max_length: int, loss_on: LossOn, caller: Caller) -> Masked:
    """The conversation's tokens as training on `model` would see them."""
    tokenizer = tokenizer_of(model, caller)
    if (size_chars := sum(len(turn.content) for turn in conversation.turns)) > LONGEST_MASKED:
        raise UserError(
            f"This conversation has {size_chars:,} characters; tokens are shown of up to {LONGEST_MASKED:,}.",
            f"conversation {conversation.id!r}",
            "The mask audit below counts its tokens all the same.",
        )
    return Masked(conversation, tokenize(conversation, tokenizer, None, loss_on), max_length, tokenizer)


def lengths(dataset_id: str, model: str, max_length: int, loss_on: LossOn, caller: Caller) -> Lengths:
    """How many of the first conversations, as many as can be counted in a moment, lose a part of an answer."""
    return _lengths(dataset_id, folder_of(model, caller), max_length, loss_on)


@lru_cache(maxsize=16)
def _lengths(dataset_id: str, folder: Path, max_length: int, loss_on: LossOn) -> Lengths:
    tokenizer, deadline = tokenizer_in(folder), time.monotonic() + LENGTHS_S
    found = Lengths(0, 0)
    for conversation in open_dataset(dataset_id):
        try:
            sample = tokenize(conversation, tokenizer, max_length, loss_on)
        except UserError:
            continue  # the template refuses it; its row says so
        found = Lengths(found.num_counted + 1, found.num_cut + (sample.truncated_answer_tokens > 0))
        if time.monotonic() > deadline:
            break
    return found
